//! The time limits of the statements of a claim, and the reason why a statement that reached its
//! limit was cancelled.

use std::time::Duration;

use crate::error::{Error, Kind};

/// Minimum lock timeout, even if `max_victim_wait_ms` is lower. A row that is locked only for a
/// moment is not worth deferring.
const LEAST_LOCK_WAIT: Duration = Duration::from_millis(10);

/// Time limits of the statements of one claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// `statement_timeout` of a batch of several rows.
    pub batch: Duration,
    /// `statement_timeout` of a batch of one row.
    pub row: Duration,
    /// Maximum time that another session may wait for a statement. The `lock_timeout` of a
    /// statement has the same value, but is at least `LEAST_LOCK_WAIT` and at most `batch`.
    pub victim_wait: Duration,
}

impl Bounds {
    pub(super) fn limit(self, rows: usize) -> Duration {
        if rows == 1 { self.row } else { self.batch }
    }

    /// Returns the maximum time that another session may wait for a statement. This time is at most
    /// the time limit of a batch of several rows, because a batch of one row may run for longer
    /// than `deadlock_timeout`. If such a batch and another session wait for each other, the daemon
    /// then cancels the batch before the server can detect the deadlock and cancel the other
    /// session's statement.
    pub(super) fn patience(self) -> Duration {
        self.victim_wait.min(self.batch)
    }

    pub(super) fn lock_wait(self) -> Duration {
        self.victim_wait.max(LEAST_LOCK_WAIT).min(self.batch)
    }
}

/// Finds out why a statement was cancelled. The statement ran for the time `took` and had the time
/// limit `limit`. `answering` is the time in which the server answered other statements, or none if
/// the server refuses the checks of the guard.
pub(super) fn why_cancelled(error: Error, took: Duration, limit: Duration, answering: Option<Duration>) -> Error {
    if error.kind != Kind::Cancelled || took < limit * 9 / 10 {
        return error;
    }
    let has_answered = answering.is_none_or(|answering| answering >= limit / 2);
    Error { kind: if has_answered { Kind::TimeLimit } else { Kind::Stalled }, ..error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_limit_is_told_from_other_cancels_and_from_a_server_that_does_not_answer() {
        let ms = Duration::from_millis;
        let kind = |kind, took, answering| why_cancelled(Error::new(kind, "x"), ms(took), ms(1000), answering).kind;
        assert_eq!(kind(Kind::Cancelled, 1001, Some(ms(900))), Kind::TimeLimit);
        assert_eq!(kind(Kind::Cancelled, 1001, None), Kind::TimeLimit);
        assert_eq!(kind(Kind::Cancelled, 1001, Some(ms(400))), Kind::Stalled);
        assert_eq!(kind(Kind::Cancelled, 200, Some(ms(200))), Kind::Cancelled);
        assert_eq!(kind(Kind::LockTimeout, 1001, Some(ms(900))), Kind::LockTimeout);
    }
}
