//! Timers for the periodic actions of a claim between two batches. Each action costs a round trip,
//! so it must not run before every batch.

use std::time::Duration;

use tokio::time::Instant;

use crate::worker::share::ShareTimer;
use crate::worker::split_timer::SplitTimer;

/// Time between two readings of `deadlock_timeout`. An administrator can change it while a claim
/// runs.
const READ_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Timers {
    pub split: SplitTimer,
    pub share: ShareTimer,
    limit_due: Instant,
}

impl Timers {
    pub fn new() -> Self {
        Self { split: SplitTimer::new(), share: ShareTimer::new(), limit_due: Instant::now() + READ_LIMIT }
    }

    /// Returns whether the time limit of batches must be read again.
    pub fn limit_is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = now >= self.limit_due;
        if is_due {
            self.limit_due = now + READ_LIMIT;
        }
        is_due
    }
}
