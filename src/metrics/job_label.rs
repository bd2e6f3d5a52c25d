//! Determines the value of the label `job_name` for a job's counters. This is the name of the job,
//! unless too many jobs were counted recently.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// Label value of all jobs beyond the limit. Their rows and batches are counted under this value,
/// so that sums over all jobs are correct.
pub(super) const OTHERS: &str = "(others)";

#[derive(Debug)]
pub(super) struct JobLabels {
    /// The time at which each job was last counted, by database and job.
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
    fn an_idle_job_loses_its_own_label() {
        let mut labels = JobLabels::new(2, Duration::from_secs(120));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(labels.has_its_own("main", "a", at(0)) && labels.has_its_own("main", "b", at(0)));
        assert!(!labels.has_its_own("main", "c", at(60)) && !labels.has_its_own("other", "a", at(60)));
        assert!(labels.has_its_own("main", "a", at(100)), "a job with its own label keeps it");
        assert!(labels.has_its_own("main", "c", at(130)), "b is idle");
        assert!(!labels.has_its_own("main", "b", at(130)));
    }
}
