//! Under which `job_name` the counters of a job go: its own, as long as not too many had theirs lately.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{JOB_COUNTERS_IDLE, JobGauges};

/// Of jobs past [`JobGauges::MOST`] at a time. Their rows are counted, so that sums stay right.
pub(super) const OTHERS: &str = "(others)";

#[derive(Debug)]
struct Names {
    /// By database and job: when it was counted last.
    lately: BTreeMap<(String, String), Instant>,
    most: usize,
    idle: Duration,
}

impl Names {
    const fn new(most: usize, idle: Duration) -> Self {
        Self { lately: BTreeMap::new(), most, idle }
    }

    fn has_its_own(&mut self, database: &str, job_name: &str, now: Instant) -> bool {
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

static NAMES: Mutex<Names> = Mutex::new(Names::new(JobGauges::MOST, JOB_COUNTERS_IDLE));

pub(super) fn counted_as<'a>(database: &str, job_name: &'a str) -> &'a str {
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if names.has_its_own(database, job_name, Instant::now()) { job_name } else { OTHERS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_free_again_once_its_job_was_quiet_for_long_enough() {
        let mut names = Names::new(2, Duration::from_secs(120));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(names.has_its_own("main", "a", at(0)) && names.has_its_own("main", "b", at(0)));
        assert!(!names.has_its_own("main", "c", at(60)) && !names.has_its_own("other", "a", at(60)));
        assert!(names.has_its_own("main", "a", at(100)), "who has one keeps it");
        assert!(names.has_its_own("main", "c", at(130)), "b is idle");
        assert!(!names.has_its_own("main", "b", at(130)));
    }
}
