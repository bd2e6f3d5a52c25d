//! Limits the log. A failure that persists is logged once a minute for each job and kind of error.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Kind;

/// Minimum time between two lines about the same failure. Without this limit, a walk across many
/// bad or locked rows would write thousands of lines.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Holds the failures that were logged recently. The workers of one database share them.
#[derive(Debug, Clone, Default)]
pub struct LogLimiter(Arc<Mutex<HashMap<(i64, Kind), Instant>>>);

impl LogLimiter {
    /// Returns whether to log this kind of failure of a job. If it returns true, the failure counts
    /// as logged.
    pub fn is_news(&self, job_id: i64, kind: Kind) -> bool {
        let now = Instant::now();
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logged.retain(|_, at| now.duration_since(*at) < AGAIN_AFTER);
        match logged.entry((job_id, kind)) {
            Entry::Vacant(entry) => {
                entry.insert(now);
                true
            }
            Entry::Occupied(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_permanent_failure_is_logged_once_a_minute_for_each_job_and_kind() {
        let limiter = LogLimiter::default();
        let mut lines = 0;
        for _ in 0..3 * 60 * 5 {
            lines += u32::from(limiter.clone().is_news(7, Kind::LockTimeout));
            tokio::time::advance(Duration::from_millis(200)).await;
        }
        assert_eq!(lines, 3);
        assert!(limiter.is_news(8, Kind::LockTimeout) && limiter.is_news(7, Kind::Data));
    }
}
