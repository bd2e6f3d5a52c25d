//! What to do about which error: the one table from an error's class to an action ([`action`]), and the decision for a batch
//! that failed ([`respond`]). Pure: the worker carries it out.

use std::time::Duration;

use crate::error::{Error, Kind};
use crate::job::batch::Batch;

/// What to do about a batch that failed. In each case the server has said that the batch is not committed, but for
/// [`Action::Reconnect`], after which the checkpoint is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The same position again after a pause, with a smaller batch.
    Again,
    /// Prepare the statement again, then the same position.
    Prepare,
    /// Some row of the batch is at fault: halve it until the row stands alone; then it is quarantined.
    Isolate,
    /// A row or the statement is at fault: as [`Action::Isolate`], until it is plain that it is the statement.
    Doubt,
    /// Other sessions have rows locked: defer them.
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
        Kind::Serialization => (Action::Again, "another session changed a row that the batch reads; trying again"),
        Kind::Cancelled => (Action::Again, "the batch took too long or was cancelled; trying again with fewer rows"),
        Kind::Yielded => {
            (Action::Again, "somebody waited behind the batch; it was undone, trying again with fewer rows")
        }
        Kind::Overrun => (
            Action::Restart,
            "the job's code went on past its time and a cancel; its session was ended, trying again with fewer rows",
        ),
        Kind::ServerResources => {
            (Action::Again, "the server is out of disk or memory; the walk waits and tries again, make room")
        }
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

/// A batch of one row that ran out of time this often is not going to be quicker.
pub const ONE_ROW_ATTEMPTS: u32 = 25;
/// A batch that outlived its cancel this often does so by its nature.
pub const OVERRUNS: u32 = 3;
/// Statements that were prepared this often in a row and are still stale will not fit the table next time either.
pub const PREPARE_ATTEMPTS: u32 = 5;
/// A row that came just then may be the one that failed; not this often.
const WITHOUT_ROW_ATTEMPTS: u32 = 3;
/// This many rows one after the other are not at fault; the statement is.
const DOUBTED_ROWS: u32 = 10;
/// REPEATABLE READ meets other writers; only if that goes on are rows deferred for it.
const SERIALIZATION_ATTEMPTS: u32 = 3;
/// A row that another session waited for this often, alone, is deferred.
const YIELDS_OF_ONE_ROW: u32 = 3;

/// A batch that failed, as far as the decision goes by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedBatch {
    pub kind: Kind,
    /// Failures of this kind since the last success, this one included.
    pub tries: u32,
    /// The claim changes rows; a verification can't pass any.
    pub walking: bool,
    /// Rows of the batch.
    pub rows: u32,
    /// The batch is one row, and its key is known.
    pub is_known_row: bool,
    /// Failures in a row of batches that should have had the failing row, and had none.
    pub without_row: u32,
    /// Rows quarantined one after the other of which nobody knows whether they are at fault.
    pub doubted_rows: u32,
}

/// What the worker does about a batch that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// Prepare the statement again, then the same batch.
    Prepare,
    /// Halve the batch until the failing row stands alone.
    Narrow,
    /// The row is passed with its error. `doubted`: the statement may be at fault instead.
    Quarantine { cause: Cause, doubted: bool },
    /// Rows are locked: defer them.
    Defer,
    /// The same position again after a pause, with fewer rows.
    Wait,
    /// Find out which rows a trigger leaves unchanged.
    PerRow,
    /// On another session, with a smaller batch.
    Restart,
    /// Ask whether another worker holds the slice, or the job's own code has raised the error.
    AskForHolder,
    /// Remember that the connection was lost with this batch; the claim ends.
    RecordLoss,
    /// The claim ends with the error.
    Fail(Cause),
}

/// In which words an error is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    AsItIs,
    RowTooSlow,
    /// Of the row where the batch begins.
    Row,
    RowAndTooSlow,
    Statement,
    NoRow,
}

impl Cause {
    pub fn tell(self, batch: &Batch, error: Error) -> Error {
        match self {
            Self::AsItIs => error,
            Self::RowTooSlow => too_slow(error),
            Self::Row => at_fault(batch, error),
            Self::RowAndTooSlow => at_fault(batch, too_slow(error)),
            Self::Statement => of_the_statement(error),
            Self::NoRow => of_no_row(error),
        }
    }
}

/// What to do about a batch that failed.
pub fn respond(failed: FailedBatch) -> Response {
    let FailedBatch { kind, tries, walking, rows, is_known_row, without_row, doubted_rows } = failed;
    match action(kind).0 {
        // First without what the statement was prepared for: then it fails without a row, if it is at fault.
        Action::Doubt if walking && tries == 1 => Response::Prepare,
        what @ (Action::Doubt | Action::Prepare) if walking && (what == Action::Doubt || tries >= PREPARE_ATTEMPTS) => {
            match is_known_row {
                true if doubted_rows >= DOUBTED_ROWS => Response::Fail(Cause::Statement),
                true => Response::Quarantine { cause: Cause::AsItIs, doubted: true },
                false if without_row >= WITHOUT_ROW_ATTEMPTS => Response::Fail(Cause::NoRow),
                false => Response::Narrow,
            }
        }
        Action::Again if kind == Kind::Cancelled && rows == 1 && tries > ONE_ROW_ATTEMPTS => match is_known_row {
            true => Response::Quarantine { cause: Cause::RowTooSlow, doubted: false },
            false if walking && without_row < WITHOUT_ROW_ATTEMPTS => Response::Narrow,
            false => Response::Fail(Cause::RowAndTooSlow),
        },
        Action::Again if kind == Kind::Yielded && rows == 1 && tries > YIELDS_OF_ONE_ROW => Response::Defer,
        Action::Again if kind == Kind::Serialization && tries > SERIALIZATION_ATTEMPTS => Response::Defer,
        Action::Again => Response::Wait,
        Action::GoAround => Response::Defer,
        Action::TellApart => Response::PerRow,
        Action::Isolate => match is_known_row {
            true => Response::Quarantine { cause: Cause::AsItIs, doubted: false },
            false if without_row >= WITHOUT_ROW_ATTEMPTS => Response::Fail(Cause::NoRow),
            false if rows > 1 || walking => Response::Narrow,
            false => Response::Fail(Cause::Row),
        },
        Action::Prepare if tries < PREPARE_ATTEMPTS => Response::Prepare,
        Action::Restart if tries < OVERRUNS => Response::Restart,
        Action::Stop => Response::AskForHolder,
        Action::Reconnect if walking && kind == Kind::ConnectionLost => Response::RecordLoss,
        Action::Prepare | Action::Doubt | Action::Restart | Action::Reconnect | Action::Fail => {
            Response::Fail(Cause::AsItIs)
        }
    }
}

/// Whether a failure is one of the executor's login, and of no other role's.
pub fn is_of_the_login(kind: Kind) -> bool {
    matches!(kind, Kind::Authentication | Kind::Tls)
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
fn of_the_statement(error: Error) -> Error {
    error.hint(ROW_AFTER_ROW).redacted("row after row fails with the same error", Some(ROW_AFTER_ROW))
}

/// It fails where there is no row.
fn of_no_row(error: Error) -> Error {
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
    batch.from().map_or_else(|| "the first row".to_owned(), |key| format!("the row after key {key}"))
}

/// One row alone could not be changed.
fn at_fault(batch: &Batch, error: Error) -> Error {
    let hint = error.hint.clone().unwrap_or_else(|| {
        "Mend that row, or exclude it with a filter in a new job; then backfill.retry goes on from here.".to_owned()
    });
    error.context(format!("{} can't be changed", place(batch))).hint(hint).redacted("a row can't be changed", None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::batch::BatchMode;
    use crate::job::checkpoint::Checkpoint;
    use crate::key::Key;

    #[test]
    fn neither_a_rows_key_nor_what_the_server_said_of_it_is_told_to_everybody() {
        let checkpoint = Checkpoint { position: Some(Key(vec!["secret".into()])), done: false, ctid: String::new() };
        let batch = Batch { checkpoint, upper: Key(vec!["z".into()]), rows: 1, mode: BatchMode::Fast };
        let said = || Error::new(Kind::Data, "customer \"secret\" has no address").hint("Ask \"secret\".");
        for cause in [Cause::Row, Cause::RowAndTooSlow, Cause::Statement] {
            let error = cause.tell(&batch, said());
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

    const FAILED: FailedBatch = FailedBatch {
        kind: Kind::Data,
        tries: 1,
        walking: true,
        rows: 100,
        is_known_row: false,
        without_row: 0,
        doubted_rows: 0,
    };

    #[test]
    fn a_row_that_can_not_be_changed_is_looked_for_and_quarantined() {
        assert_eq!(respond(FAILED), Response::Narrow);
        let alone = FailedBatch { rows: 1, is_known_row: true, ..FAILED };
        assert_eq!(respond(alone), Response::Quarantine { cause: Cause::AsItIs, doubted: false });
        assert_eq!(respond(FailedBatch { without_row: 3, ..FAILED }), Response::Fail(Cause::NoRow));
        assert_eq!(respond(FailedBatch { walking: false, rows: 1, ..FAILED }), Response::Fail(Cause::Row));
    }

    #[test]
    fn a_statement_that_may_be_at_fault_is_prepared_again_then_doubted_row_by_row() {
        let failed = FailedBatch { kind: Kind::Permission, ..FAILED };
        assert_eq!(respond(failed), Response::Prepare);
        assert_eq!(respond(FailedBatch { tries: 2, ..failed }), Response::Narrow);
        let row = FailedBatch { tries: 2, rows: 1, is_known_row: true, ..failed };
        assert_eq!(respond(row), Response::Quarantine { cause: Cause::AsItIs, doubted: true });
        assert_eq!(respond(FailedBatch { doubted_rows: 10, ..row }), Response::Fail(Cause::Statement));
    }

    #[test]
    fn a_batch_in_the_way_shrinks_until_its_one_row_is_deferred() {
        let failed = FailedBatch { kind: Kind::Yielded, ..FAILED };
        assert_eq!(respond(FailedBatch { tries: 9, ..failed }), Response::Wait);
        assert_eq!(respond(FailedBatch { tries: 3, rows: 1, ..failed }), Response::Wait);
        assert_eq!(respond(FailedBatch { tries: 4, rows: 1, ..failed }), Response::Defer);
        let conflict = FailedBatch { kind: Kind::Serialization, tries: 4, ..FAILED };
        assert_eq!(respond(conflict), Response::Defer);
    }

    /// Whatever fails, and however often: the walk ends or comes further, and does not try the same for ever.
    #[test]
    fn no_failure_is_answered_in_the_same_way_for_ever_but_those_that_wait_for_others() {
        for kind in Kind::ALL {
            let failed = FailedBatch { kind, tries: 1000, rows: 1, is_known_row: true, doubted_rows: 10, ..FAILED };
            let response = respond(failed);
            let waits = matches!(response, Response::Wait | Response::Defer | Response::PerRow);
            let others = [
                Kind::LockTimeout,
                Kind::Deadlock,
                Kind::Serialization,
                Kind::Yielded,
                Kind::ServerResources,
                Kind::Unmatched,
            ];
            assert!(!waits || others.contains(&kind), "{kind:?}: {response:?}");
            assert!(
                !matches!(response, Response::Prepare | Response::Restart | Response::Narrow),
                "{kind:?}: {response:?}"
            );
        }
    }
}
