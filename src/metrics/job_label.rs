//! Under which `job_name` the counters of a job go: its own, as long as not too many had theirs lately.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// Of jobs past the most at a time. Their rows are counted, so that sums stay right.
pub(super) const OTHERS: &str = "(others)";

#[derive(Debug)]
pub(super) struct JobLabels {
    /// By database and job: when it was counted last.
    lately: BTreeMap<(String, String), Instant>,
    most: usize,
    idle: Duration,
}

impl JobLabels {
    pub fn new(most: usize, idle: Duration) -> Self {
        Self { lately: BTreeMap::new(), most, idle }
    }

    pub fn has_its_own(&mut self, database: &str, job_name: &str, now: Instant) -> bool {
        let key = (database.to_owned(), job_name.to_owned());
        if !self.lately.contains_key(&key) && self.lately.len() >= self.most {
            let idle = self.idle;
            self.lately.retain(|_, at| now.saturating_duration_since(*at) < idle);
            if self.lately.len() >= self.most {
                return false;
            }
        }
        self.lately.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_free_again_once_its_job_was_quiet_for_long_enough() {
        let mut labels = JobLabels::new(2, Duration::from_secs(120));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(labels.has_its_own("main", "a", at(0)) && labels.has_its_own("main", "b", at(0)));
        assert!(!labels.has_its_own("main", "c", at(60)) && !labels.has_its_own("other", "a", at(60)));
        assert!(labels.has_its_own("main", "a", at(100)), "who has one keeps it");
        assert!(labels.has_its_own("main", "c", at(130)), "b is idle");
        assert!(!labels.has_its_own("main", "b", at(130)));
    }
}
