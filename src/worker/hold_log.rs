//! Decides which waits of a slice are logged. The daemon logs a wait that has lasted 5 s, each
//! later change of its reason, and its end. Short waits are not logged, because a slice can have
//! many of them in a minute. Waits for the job's own rate limit are not logged either.

use std::time::Duration;

use tokio::time::Instant;

use crate::job::waiting::WaitingReason;

/// Minimum duration of a wait that is logged. Shorter waits appear in
/// `backfilld_hold_seconds_total` and in the view `backfill.jobs`, but not in the log.
const LOGGED_FROM: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub struct HoldLog {
    since: Option<Instant>,
    logged: Option<WaitingReason>,
}

impl HoldLog {
    /// Records that the slice waits, and that `reason` is the cause. Returns whether to log the
    /// wait.
    pub fn hold(&mut self, reason: WaitingReason, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        // A wait for the job's own rate limit is normal operation and is not logged.
        let news = reason != WaitingReason::Rate && self.logged != Some(reason) && now - since >= LOGGED_FROM;
        if news {
            self.logged = Some(reason);
        }
        news
    }

    /// Records that the slice continues. Returns the duration of the wait if the wait was logged.
    pub fn go(&mut self, now: Instant) -> Option<Duration> {
        let since = self.since.take()?;
        self.logged.take().map(|_| now - since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_long_wait_is_logged_once_and_so_is_its_end() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut log = HoldLog::default();
        assert!(!log.hold(WaitingReason::ReplicaLag, at(0)) && !log.hold(WaitingReason::ReplicaLag, at(4)));
        assert_eq!(log.go(at(4)), None, "a short hold");
        assert!(!log.hold(WaitingReason::ReplicaLag, at(10)) && log.hold(WaitingReason::ReplicaLag, at(15)));
        assert!(!log.hold(WaitingReason::ReplicaLag, at(99)), "already logged");
        assert!(log.hold(WaitingReason::Vacuum, at(100)), "another reason");
        assert_eq!(log.go(at(110)), Some(Duration::from_secs(100)));
        assert_eq!(log.go(at(111)), None);
        assert!(!log.hold(WaitingReason::Rate, at(200)) && !log.hold(WaitingReason::Rate, at(300)));
    }
}
