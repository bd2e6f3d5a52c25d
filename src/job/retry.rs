//! The one table from an error's class to what a walker does about it.

use std::time::Duration;

use crate::error::{Error, Kind};
use crate::key::Batch;

/// What to do about a batch that failed. In each case the server has said that the batch is not committed, but for
/// [`Action::Reconnect`], after which the checkpoint is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The same position again after a pause, with a smaller batch if somebody was in the way.
    Again { smaller: bool },
    /// Prepare the statement again, then the same position.
    Prepare,
    /// Some row of the batch is at fault: halve it until the row stands alone; then it is left behind with its error.
    Isolate,
    /// A row or the statement is at fault: as [`Action::Isolate`], until it is plain that it is the statement.
    Doubt,
    /// Others have rows locked: go around them, and return to them later.
    GoAround,
    /// A trigger leaves rows as they are: tell them apart.
    TellApart,
    /// Give the slice back and claim it anew on another connection; the checkpoint is read again.
    Reconnect,
    /// The session is gone by our own hand: on another one, with a smaller batch, and not often.
    Restart,
    /// Somebody else holds the slice. Nothing of it is ours to change.
    Stop,
    /// The job can't go on.
    Fail,
}

/// Action and the sentence for the operator.
pub fn action(kind: Kind) -> (Action, &'static str) {
    match kind {
        Kind::LockTimeout => {
            (Action::GoAround, "a row is locked by another session; going around it, and back to it later")
        }
        Kind::Deadlock => (Action::GoAround, "a deadlock, which we lost; going around the locked rows"),
        Kind::Unmatched => (Action::TellApart, "rows were left as they are; telling them apart"),
        Kind::Serialization => {
            (Action::Again { smaller: true }, "another session changed a row that the batch reads; trying again")
        }
        Kind::Cancelled => {
            (Action::Again { smaller: true }, "the batch took too long or was cancelled; trying again with fewer rows")
        }
        Kind::Yielded => (
            Action::Again { smaller: true },
            "somebody waited behind the batch; it was undone, trying again with fewer rows",
        ),
        Kind::Overrun => (
            Action::Restart,
            "the job's code went on past its time and a cancel; its session was ended, trying again with fewer rows",
        ),
        Kind::ServerResources => (
            Action::Again { smaller: true },
            "the server is out of disk or memory; the walk waits and tries again, make room",
        ),
        Kind::StalePlan => (Action::Prepare, "the table changed under a prepared statement; preparing it again"),
        Kind::Data => (Action::Isolate, "a row can't be changed; looking for it, and going on without it"),
        Kind::ConnectionLost => (Action::Reconnect, "the connection is gone; going on from the checkpoint on another"),
        Kind::Tls => (
            Action::Reconnect,
            "TLS to the server fails; waiting until its certificate and ours are right: the files are read again at each try",
        ),
        Kind::ServerUnavailable => (Action::Reconnect, "the server is starting or stopping; waiting for it"),
        Kind::ReadOnly => (Action::Reconnect, "the server is read-only, perhaps a standby; waiting for the primary"),
        Kind::TooManyConnections => (
            Action::Reconnect,
            "the server has no free connection; waiting, raise max_connections or lower databases.workers",
        ),
        Kind::Authentication => (
            Action::Reconnect,
            "the server refuses the login (user, password or pg_hba.conf); waiting until it lets us in: url_file and password_file are read again at each try",
        ),
        Kind::Statement | Kind::Permission => {
            (Action::Doubt, "the batch fails; finding out whether a row is at fault, or the statement")
        }
        Kind::Fenced => (Action::Stop, "another daemon holds the slice now"),
        Kind::Refused
        | Kind::OtherSpec
        | Kind::NoSuchJob
        | Kind::NotComplete
        | Kind::WrongState
        | Kind::Schema
        | Kind::Usage
        | Kind::Config
        | Kind::Timeout
        | Kind::Internal => (Action::Fail, "the job can't go on as it is"),
    }
}

/// Pause before try number `attempt` (from 1): 20 ms, doubling, at most 5 s.
pub fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(20 << attempt.saturating_sub(1).min(8)).min(Duration::from_secs(5))
}

/// What a failed batch waits for, in the words of `waiting_reason`.
pub fn waits_for(kind: Kind) -> &'static str {
    match kind {
        Kind::LockTimeout | Kind::Deadlock | Kind::Serialization => "locked_rows",
        Kind::Yielded => "lock_waits",
        _ => "load",
    }
}

/// One row alone takes longer than a batch may.
pub fn too_slow(error: Error) -> Error {
    Error { kind: Kind::Data, ..error }
        .context("it takes longer than a batch may, which is 0.7 of deadlock_timeout")
        .hint("Make the expression cheaper (an index for its subquery?), or raise deadlock_timeout for the database; then backfill.retry.")
}

const ROW_AFTER_ROW: &str = "Row after row fails with it, so it is no row's own fault. Those that were tried are in backfill.row_errors. Mend the cause; then backfill.retry takes them and goes on from here.";

/// So many rows in a row met it that it is not theirs.
pub fn of_the_statement(error: Error) -> Error {
    error.hint(ROW_AFTER_ROW).redacted("row after row fails with the same error", Some(ROW_AFTER_ROW))
}

/// It fails where there is no row.
pub fn of_no_row(error: Error) -> Error {
    error.hint(
        "It fails without a row: look for a statement-level trigger that raises it. Or, where a value of the key was renamed since planning (a label of an enum), rename it back until the job is done. Then backfill.retry goes on from here.",
    )
}

/// The connection is lost whenever one row is changed.
pub fn deadly(message: &str) -> Error {
    Error { sqlstate: Some("08006".to_owned()), ..Error::new(Kind::Data, message) }
        .context("the connection was lost each time that this row alone was changed")
}

/// The server goes down again and again while the same rows are changed.
pub fn deadly_to_all(message: &str) -> Error {
    Error::new(Kind::Refused, message)
        .context("the server went down, or was cut off, again and again while the same batch ran")
        .hint("Look into the server's log: a function, a trigger or an extension that one of the rows meets may crash it. Once that is mended, backfill.retry goes on from here.")
}

fn place(batch: &Batch) -> String {
    batch.from.as_ref().map_or_else(|| "the first row".to_owned(), |key| format!("the row after key {key}"))
}

/// One row alone could not be changed.
pub fn at_fault(batch: &Batch, error: Error) -> Error {
    let hint = error.hint.clone().unwrap_or_else(|| {
        "Mend that row, or exclude it with a filter in a new job; then backfill.retry goes on from here.".to_owned()
    });
    error.context(format!("{} can't be changed", place(batch))).hint(hint).redacted("a row can't be changed", None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{BatchMode, Key};

    #[test]
    fn neither_a_rows_key_nor_what_the_server_said_of_it_is_told_to_everybody() {
        let batch = Batch {
            from: Some(Key(vec!["secret".into()])),
            upper: Key(vec!["z".into()]),
            rows: 1,
            mode: BatchMode::Fast,
        };
        let said = || Error::new(Kind::Data, "customer \"secret\" has no address").hint("Ask \"secret\".");
        for error in [at_fault(&batch, said()), at_fault(&batch, too_slow(said())), of_the_statement(said())] {
            let redacted = error.redacted.expect("it may be told to those who see no rows");
            assert!(!format!("{redacted:?}").contains("secret"), "{redacted:?}");
            assert!(error.message.contains("secret"), "{}", error.message);
        }
    }

    #[test]
    fn back_off_grows_and_stays_bounded() {
        let pauses: Vec<_> = (1..12).map(backoff).collect();
        assert!(pauses.is_sorted());
        assert_eq!(pauses.first(), Some(&Duration::from_millis(20)));
        assert_eq!(pauses.last(), Some(&Duration::from_secs(5)));
    }

    #[test]
    fn a_fenced_worker_stops_at_once() {
        assert_eq!(action(Kind::Fenced).0, Action::Stop);
    }
}
