//! Defines the error policy. Only [`action`] maps the kind of an error to an action, and
//! [`respond`] decides on the response to a batch that failed. Both functions are pure. The worker
//! carries out the response.

use std::time::Duration;

use crate::error::{Error, Kind};
use crate::job::batch::Batch;

/// The action for an error. For a failed batch, each action except [`Action::Reconnect`] and
/// [`Action::Restart`] means that the server has confirmed that the batch is not committed. With
/// these two actions the outcome may be unknown, so the checkpoint is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Run the batch again from the same position, after a pause and with fewer rows.
    Again,
    /// Prepare the statement again, then run the batch from the same position.
    Prepare,
    /// One row of the batch is at fault. Halve the batch until this row is isolated, then
    /// quarantine the row.
    Isolate,
    /// A row of the batch takes too long. Search for this row, and quarantine it if it takes longer
    /// than `max_row_ms`.
    TooSlow,
    /// Either a row or the statement is at fault. Prepare the statement again. If the batch still
    /// fails, proceed as for [`Action::Isolate`], until it is clear that the statement is at fault.
    Doubt,
    /// Other sessions have locked rows of the batch. Defer these rows.
    GoAround,
    /// The batch changed fewer rows than it found. Find out which rows were left unchanged.
    TellApart,
    /// Release the slice, and claim it again in another session. The new claim reads the checkpoint
    /// again.
    Reconnect,
    /// A statement exceeded its time limit, and this daemon cancelled the statement or terminated
    /// its session. Release the slice, and claim it again with a smaller batch, but only until
    /// [`OVERRUNS`] batches have failed in this way. The new claim reads the checkpoint again,
    /// because the batch may have committed before its session ended.
    Restart,
    /// The worker no longer holds the slice. Leave the slice unchanged.
    Stop,
    /// The job cannot continue.
    Fail,
}

/// Returns the action for an error of this kind, and the sentence that the log and the status show
/// to the operator.
pub fn action(kind: Kind) -> (Action, &'static str) {
    match kind {
        Kind::LockTimeout => (
            Action::GoAround,
            "another session holds a lock that the batch needs: deferring the locked rows if possible, otherwise waiting",
        ),
        Kind::Deadlock => (
            Action::GoAround,
            "the batch was chosen as the deadlock victim: deferring the locked rows if possible, otherwise waiting",
        ),
        Kind::Unmatched => (
            Action::TellApart,
            "the batch changed fewer rows than it found: finding out which rows were left unchanged",
        ),
        Kind::Serialization => (Action::Again, "another session changed a row that the batch reads: retrying"),
        Kind::Cancelled => (Action::Again, "the batch was cancelled: retrying with fewer rows"),
        Kind::TimeLimit => (Action::TooSlow, "the batch took too long: searching for the row that takes too long"),
        Kind::Stalled => (
            Action::Again,
            "the batch took too long, and during this time the server did not answer other statements: retrying",
        ),
        Kind::Yielded => {
            (Action::Again, "the batch blocked another session and was cancelled: retrying with fewer rows")
        }
        Kind::Overrun => (
            Action::Restart,
            "the code of the job ignored the time limit, so the daemon stopped the statement: retrying with fewer rows in another session",
        ),
        Kind::ServerResources => (
            Action::Again,
            "the server lacks disk space or memory, or has an I/O error: waiting, then retrying; see the server log",
        ),
        Kind::StalePlan => (Action::Prepare, "the table changed after a statement was prepared: preparing it again"),
        Kind::Data => {
            (Action::Isolate, "a row could not be changed: isolating it and continuing with the rest of the batch")
        }
        Kind::ConnectionLost => {
            (Action::Reconnect, "the connection was lost: reconnecting and continuing from the checkpoint")
        }
        Kind::Unanswered => {
            (Action::Reconnect, "the server did not answer in time: reconnecting and continuing from the checkpoint")
        }
        Kind::Pooled => (
            Action::Reconnect,
            "a pooler in transaction or statement mode is between the daemon and the server: waiting; use a url that connects to the server directly",
        ),
        Kind::Tls => (
            Action::Reconnect,
            "the TLS connection failed: retrying; the certificate files are read again for each attempt",
        ),
        Kind::ServerUnavailable => {
            (Action::Reconnect, "the server is starting up or shutting down: reconnecting until it accepts connections")
        }
        Kind::ReadOnly => (
            Action::Reconnect,
            "the server is read-only, perhaps a standby: waiting for the primary; if the url names a standby, correct the url",
        ),
        Kind::TooManyConnections => (
            Action::Reconnect,
            "the server, the role or the database has no free connection: waiting; raise the connection limit, or lower the number of backfilld's workers for the database",
        ),
        Kind::Authentication => (
            Action::Reconnect,
            "the server rejected the login (user, password or pg_hba.conf): retrying; url_file and password_file are read again for each attempt; environment variables are read only when backfilld starts",
        ),
        Kind::Statement | Kind::Permission => {
            (Action::Doubt, "the batch failed: finding out whether a row or the statement is the cause")
        }
        Kind::Fenced => {
            (Action::Stop, "another worker has taken over this slice and continues it; no action is needed")
        }
        Kind::Refused
        | Kind::OtherSpec
        | Kind::NoSuchJob
        | Kind::NotComplete
        | Kind::WrongState
        | Kind::Schema
        | Kind::Usage
        | Kind::Config
        | Kind::Timeout
        | Kind::Unreadable
        | Kind::Internal => {
            (Action::Fail, "the job cannot continue and fails: see columns \"error\" and \"hint\" of backfill.jobs")
        }
    }
}

/// Returns the sentence for an error that occurred while a slice was claimed or released, and not
/// in a batch.
pub fn without_batch(kind: Kind) -> &'static str {
    match action(kind) {
        (Action::Reconnect, sentence) => sentence,
        _ if kind == Kind::LockTimeout => {
            "another session has locked a table of schema backfill: waiting; to find that session, see pg_locks"
        }
        _ => "a slice could not be claimed or released: retrying",
    }
}

/// Returns the sentence about an error for the log and the status, with the server's own words if
/// an operator has to act on them.
pub fn told(error: &Error) -> String {
    let (_, sentence) = action(error.kind);
    match error.kind {
        Kind::ServerResources | Kind::TooManyConnections => format!("{sentence} ({})", error.message),
        _ => sentence.to_owned(),
    }
}

/// If more than this number of batches (of any size) have been cancelled since the last success,
/// and the last of them consists of one row, this row is quarantined.
pub const ONE_ROW_ATTEMPTS: u32 = 15;
/// If this number of batches that consist of the same row have reached `max_row_ms`, the row is
/// quarantined. A single such batch proves nothing, because the server may have been busy.
pub const SLOW_ROW_ATTEMPTS: u32 = 2;
/// After this number of batches that failed with [`Kind::Overrun`], no further attempt is made.
pub const OVERRUNS: u32 = 3;
/// After this number of failures with a stale statement, the statement is not prepared again,
/// because a new preparation does not help.
pub const PREPARE_ATTEMPTS: u32 = 5;
/// After this number of failed batches that contained no row, the statement itself counts as the
/// cause. Fewer such batches prove nothing, because the failing row, which the batch should have
/// contained, may have been deleted in the meantime.
const WITHOUT_ROW_ATTEMPTS: u32 = 3;
/// Maximum number of rows that are quarantined for errors that the statement may have caused,
/// counted since the last commit of a whole batch. If one more row fails, the statement, and not
/// the rows, counts as the cause.
const DOUBTED_ROWS: u32 = 10;
/// Maximum number of serialization failures since the last success. After one more failure, the
/// worker defers the rows that other sessions have locked. At REPEATABLE READ, a batch fails in
/// this way if another session changes one of its rows, or rewrites a table that the batch reads.
const SERIALIZATION_ATTEMPTS: u32 = 3;
/// Maximum number of batches (of any size) that may be cancelled since the last success because
/// they blocked other sessions. If one more batch is cancelled and this batch consists of one row,
/// the row is deferred instead of retried at once.
const YIELDS_OF_ONE_ROW: u32 = 3;

/// Facts about a failed batch that determine the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedBatch {
    pub kind: Kind,
    /// Failures of this kind since the last success, including this one. For [`Kind::TimeLimit`],
    /// only failures of batches of one row count.
    pub tries: u32,
    /// Whether the claim changes rows. If not, it verifies rows, and a verification cannot skip a
    /// row.
    pub walking: bool,
    /// Number of rows that the batch may scan.
    pub rows: u32,
    /// Whether the batch is one row with a known key.
    pub is_known_row: bool,
    /// Number of consecutive failed batches that contained no row, although each should have
    /// contained exactly the failing row.
    pub without_row: u32,
    /// Number of rows that were quarantined for errors that the statement may have caused, counted
    /// since the last commit of a whole batch.
    pub doubted_rows: u32,
}

/// The worker's response to a batch that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// Prepare the statement again, then run the same batch.
    Prepare,
    /// Halve the batch until the failing row is isolated.
    Narrow,
    /// Divide the batch by eight until the slow row is isolated.
    NarrowQuickly,
    /// Quarantine the row with its error. `doubted` means that the statement may be at fault
    /// instead of the row.
    Quarantine { cause: Cause, doubted: bool },
    /// Defer rows that are locked by other sessions, or for which other sessions wait.
    Defer,
    /// Run the batch again from the same position, after a pause and with fewer rows.
    Wait,
    /// Use batches that work row by row to find out which rows were left unchanged.
    PerRow,
    /// Release the slice. The next claim continues with a smaller batch in another session.
    Restart,
    /// Check whether another worker holds the slice, or whether the job's own code raised the
    /// error.
    AskForHolder,
    /// Record that the connection was lost during this batch, and end the claim.
    RecordLoss,
    /// Release the slice, for a longer time after each further failure. The next claim reads the
    /// checkpoint again, and continues with a smaller batch.
    GiveWay,
    /// End the claim with the error.
    Fail(Cause),
}

/// The wording in which an error is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    AsItIs,
    /// The row takes longer than `max_row_ms`.
    RowTooSlow,
    /// Each attempt to change the row is cancelled.
    RowCancelled,
    /// The error belongs to the row at which the batch begins.
    Row,
    RowAndTooSlow,
    RowAndCancelled,
    Statement,
    NoRow,
}

impl Cause {
    /// Returns the error in this wording. `max_row` is the time limit of a batch of one row.
    pub fn tell(self, batch: &Batch, error: Error, max_row: Duration) -> Error {
        match self {
            Self::AsItIs => error,
            Self::RowTooSlow => too_slow(error, max_row),
            Self::RowCancelled => cancelled(error),
            Self::Row => at_fault(batch, error),
            Self::RowAndTooSlow => at_fault(batch, too_slow(error, max_row)),
            Self::RowAndCancelled => at_fault(batch, cancelled(error)),
            Self::Statement => of_the_statement(error),
            Self::NoRow => of_no_row(error),
        }
    }
}

/// Returns the response to a batch that failed.
pub fn respond(failed: FailedBatch) -> Response {
    let FailedBatch { kind, tries, walking, rows, is_known_row, without_row, doubted_rows } = failed;
    match action(kind).0 {
        // The statement is prepared again first. If the statement is at fault, the new preparation
        // usually fails, and no row is quarantined.
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
            true => Response::Quarantine { cause: Cause::RowCancelled, doubted: false },
            false if walking && without_row < WITHOUT_ROW_ATTEMPTS => Response::Narrow,
            false => Response::Fail(Cause::RowAndCancelled),
        },
        Action::TooSlow => match is_known_row {
            true if tries >= SLOW_ROW_ATTEMPTS => Response::Quarantine { cause: Cause::RowTooSlow, doubted: false },
            true => Response::Wait,
            false if without_row >= WITHOUT_ROW_ATTEMPTS => Response::Fail(Cause::NoRow),
            false if rows == 1 && !walking && tries >= SLOW_ROW_ATTEMPTS => Response::Fail(Cause::RowAndTooSlow),
            false => Response::NarrowQuickly,
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
        Action::Reconnect if walking && kind == Kind::Unanswered => Response::GiveWay,
        Action::Prepare | Action::Doubt | Action::Restart | Action::Reconnect | Action::Fail => {
            Response::Fail(Cause::AsItIs)
        }
    }
}

/// Returns whether the failure affects only the login of one executor. If so, the jobs of other
/// roles can continue.
pub fn is_of_the_login(kind: Kind) -> bool {
    matches!(kind, Kind::Authentication | Kind::Tls)
}

/// Returns the pause before attempt number `attempt` (counted from 1). The pause is 20 ms before
/// the first attempt and doubles with each attempt, up to 5 s.
pub fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(20 << attempt.saturating_sub(1).min(8)).min(Duration::from_secs(5))
}

/// Returns the reason why the worker waits after a failed batch, as a value of `waiting_reason`.
pub fn waits_for(kind: Kind) -> &'static str {
    match kind {
        Kind::LockTimeout | Kind::Deadlock | Kind::Serialization => "locked_rows",
        Kind::Yielded => "lock_waits",
        Kind::TooManyConnections | Kind::Pooled => "connections",
        _ => "load",
    }
}

/// Returns the error of a single row that takes longer than `max_row`.
pub fn too_slow(error: Error, max_row: Duration) -> Error {
    let millis = max_row.as_millis();
    let more = (millis * 10).min(3_600_000);
    Error { kind: Kind::Data, ..error }
        .context(format!("the statement for this row takes longer than max_row_ms ({millis} ms)"))
        .hint(format!("Make the expression cheaper, for example with an index for its subquery. Or allow more time for each row: backfill.tune(name, '{{\"max_row_ms\": {more}}}'). Then run backfill.retry."))
}

/// Returns the error of a single row for which each attempt is cancelled, but not because of the
/// time limit.
pub fn cancelled(error: Error) -> Error {
    Error { kind: Kind::Data, ..error }
        .context("each attempt to change the row was cancelled")
        .hint("Look for a function or trigger that cancels its own statement, and for a tool that cancels statements (pg_cancel_backend). Then run backfill.retry.")
}

const ROW_AFTER_ROW: &str = "Many consecutive rows fail with an error like this one, so a single row is not the cause. Fix the cause, for example a trigger, then run backfill.retry: it retries the rows listed in backfill.row_errors and continues from the checkpoint. The assignments (set) of a job cannot be changed: if they are wrong, enqueue a corrected job under another name, with a filter that excludes the rows that are already changed.";

/// Returns the error of a statement that fails for many consecutive rows. The statement is at
/// fault, and not the rows.
fn of_the_statement(error: Error) -> Error {
    error.hint(ROW_AFTER_ROW).redacted("many consecutive rows fail with similar errors", Some(ROW_AFTER_ROW))
}

/// Returns the error of a statement that fails even in a batch without rows.
fn of_no_row(error: Error) -> Error {
    error.hint(
        "The error does not depend on the rows. If a statement-level trigger raises the error, fix the trigger. If an enum label in the key was renamed after planning, rename it back until the job is done. Then run backfill.retry to continue from the checkpoint.",
    )
}

/// Returns the error of a row for which each attempt to change it ends with a lost connection.
/// `sqlstate` is the SQLSTATE of the server's last message, if there was one.
pub fn deadly(message: &str, sqlstate: Option<&str>) -> Error {
    let error = Error { sqlstate: Some(sqlstate.unwrap_or("08006").to_owned()), ..Error::new(Kind::Data, message) }
        .context("the connection was lost on each attempt to change this row in a batch of its own");
    if sqlstate == Some("57P01") {
        return error.hint("Look for a tool that terminates sessions (pg_terminate_backend), for example those with long statements, and for a function or trigger that terminates its own session on the row that backfill.row_errors lists. Then run backfill.retry.");
    }
    error.hint("Do not retry yet, because changing this row may crash the server, and a crash ends all of its sessions. Look in the server log for \"terminated by signal\" at the time of the failure: a function, trigger or extension may crash the server on the row that backfill.row_errors lists. When the cause is fixed, run backfill.retry.")
}

/// Returns the error of a batch that crashes the server repeatedly.
pub fn deadly_to_all(message: &str) -> Error {
    Error::new(Kind::Refused, message)
        .context("the server went down or the connection was lost several times, always during the same batch")
        .hint("Do not retry yet, because a retry may crash the server again and end all its sessions. Look in the server log for \"terminated by signal\" at the time of the failure: a function, trigger or extension may crash the server on one of the rows. When the cause is fixed, run backfill.retry.")
}

fn place(batch: &Batch) -> String {
    batch.from().map_or_else(|| "the first row".to_owned(), |key| format!("the row with the next key after {key}"))
}

/// Returns an error that says that the first row of the batch could not be changed.
fn at_fault(batch: &Batch, error: Error) -> Error {
    let hint = error.hint.clone().unwrap_or_else(|| {
        "Fix that row, then run backfill.retry to continue from the checkpoint. If the row cannot be fixed, enqueue a new job under another name, with a filter that excludes this row and the rows that are already changed.".to_owned()
    });
    error
        .context(format!("{} could not be changed", place(batch)))
        .hint(hint)
        .redacted("a row could not be changed", None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::batch::BatchMode;
    use crate::job::checkpoint::Checkpoint;
    use crate::key::Key;

    #[test]
    fn the_redacted_error_has_neither_a_rows_key_nor_the_servers_message() {
        let checkpoint = Checkpoint { position: Some(Key(vec!["secret".into()])), done: false, ctid: String::new() };
        let batch = Batch { checkpoint, upper: Key(vec!["z".into()]), rows: 1, mode: BatchMode::Fast };
        let said = || Error::new(Kind::Data, "customer \"secret\" has no address").hint("Ask \"secret\".");
        for cause in [Cause::Row, Cause::RowAndTooSlow, Cause::Statement] {
            let error = cause.tell(&batch, said(), Duration::from_secs(2));
            let redacted = error.redacted.expect("a redacted error");
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
    fn a_bad_row_is_isolated_and_quarantined() {
        assert_eq!(respond(FAILED), Response::Narrow);
        let alone = FailedBatch { rows: 1, is_known_row: true, ..FAILED };
        assert_eq!(respond(alone), Response::Quarantine { cause: Cause::AsItIs, doubted: false });
        assert_eq!(respond(FailedBatch { without_row: 3, ..FAILED }), Response::Fail(Cause::NoRow));
        assert_eq!(respond(FailedBatch { walking: false, rows: 1, ..FAILED }), Response::Fail(Cause::Row));
    }

    #[test]
    fn a_statement_that_may_be_at_fault_is_prepared_again_and_then_run_row_by_row() {
        let failed = FailedBatch { kind: Kind::Permission, ..FAILED };
        assert_eq!(respond(failed), Response::Prepare);
        assert_eq!(respond(FailedBatch { tries: 2, ..failed }), Response::Narrow);
        let row = FailedBatch { tries: 2, rows: 1, is_known_row: true, ..failed };
        assert_eq!(respond(row), Response::Quarantine { cause: Cause::AsItIs, doubted: true });
        assert_eq!(respond(FailedBatch { doubted_rows: 10, ..row }), Response::Fail(Cause::Statement));
    }

    #[test]
    fn a_slow_row_is_isolated_quickly_and_quarantined_after_its_second_time_limit() {
        let failed = FailedBatch { kind: Kind::TimeLimit, tries: 0, ..FAILED };
        assert_eq!(respond(failed), Response::NarrowQuickly);
        let unknown = FailedBatch { tries: 1, rows: 1, ..failed };
        assert_eq!(respond(unknown), Response::NarrowQuickly);
        let known = FailedBatch { is_known_row: true, ..unknown };
        assert_eq!(respond(known), Response::Wait);
        let quarantine = Response::Quarantine { cause: Cause::RowTooSlow, doubted: false };
        assert_eq!(respond(FailedBatch { tries: 2, ..known }), quarantine);
        let verifying = FailedBatch { walking: false, ..unknown };
        assert_eq!(respond(verifying), Response::NarrowQuickly);
        assert_eq!(respond(FailedBatch { tries: 2, ..verifying }), Response::Fail(Cause::RowAndTooSlow));
        assert_eq!(respond(FailedBatch { kind: Kind::Stalled, tries: 99, ..known }), Response::Wait);
    }

    #[test]
    fn a_blocking_batch_shrinks_until_its_last_row_is_deferred() {
        let failed = FailedBatch { kind: Kind::Yielded, ..FAILED };
        assert_eq!(respond(FailedBatch { tries: 9, ..failed }), Response::Wait);
        assert_eq!(respond(FailedBatch { tries: 3, rows: 1, ..failed }), Response::Wait);
        assert_eq!(respond(FailedBatch { tries: 4, rows: 1, ..failed }), Response::Defer);
        let conflict = FailedBatch { kind: Kind::Serialization, tries: 4, ..FAILED };
        assert_eq!(respond(conflict), Response::Defer);
    }

    /// After 1,000 failures of one kind, the policy does not prepare the statement again, continue
    /// in another session, or narrow the batch. It may wait, defer rows or work row by row, but
    /// only for the kinds in `others`, because failures of these kinds depend on other sessions, on
    /// the server's resources or on triggers.
    #[test]
    fn no_failure_is_retried_forever_unless_it_waits_for_other_sessions() {
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
                Kind::Stalled,
            ];
            assert!(!waits || others.contains(&kind), "{kind:?}: {response:?}");
            assert!(
                !matches!(response, Response::Prepare | Response::Restart | Response::Narrow),
                "{kind:?}: {response:?}"
            );
        }
    }
}
