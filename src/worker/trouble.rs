//! Troubles on the way: how often each came in a row, and what the operator is told of it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Kind;

/// A trouble that stays is told again after so long. A walk among many bad or locked rows meets thousands.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

/// What was told of late, of each job; shared by the workers of one database.
#[derive(Debug, Clone, Default)]
pub struct Told(Arc<Mutex<HashMap<(i64, Kind), Instant>>>);

impl Told {
    /// Whether to tell this kind of trouble of a job; from now on it was told.
    pub fn is_news(&self, job_id: i64, kind: Kind) -> bool {
        let now = Instant::now();
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now.duration_since(*at) < TOLD_AGAIN);
        match told.entry((job_id, kind)) {
            Entry::Vacant(place) => {
                place.insert(now);
                true
            }
            Entry::Occupied(_) => false,
        }
    }
}

/// Failures since the last success. Each kind has a count of its own: a table that was locked for a while has not
/// used up the tries of another trouble.
#[derive(Debug, Default)]
pub(super) struct Failures {
    in_a_row: u32,
    by_kind: HashMap<Kind, u32>,
}

impl Failures {
    /// One more; how many of its kind that makes.
    pub fn add(&mut self, kind: Kind) -> u32 {
        self.in_a_row += 1;
        let count = self.by_kind.entry(kind).or_default();
        *count += 1;
        *count
    }

    pub fn of(&self, kind: Kind) -> u32 {
        self.by_kind.get(&kind).copied().unwrap_or(0)
    }

    pub fn in_a_row(&self) -> u32 {
        self.in_a_row
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_trouble_that_stays_is_told_once_a_minute_for_each_job_and_kind() {
        let told = Told::default();
        let mut lines = 0;
        for _ in 0..3 * 60 * 5 {
            lines += u32::from(told.clone().is_news(7, Kind::LockTimeout));
            tokio::time::advance(Duration::from_millis(200)).await;
        }
        assert_eq!(lines, 3);
        assert!(told.is_news(8, Kind::LockTimeout) && told.is_news(7, Kind::Data));
    }

    #[test]
    fn each_kind_of_failure_has_tries_of_its_own() {
        let mut failures = Failures::default();
        for _ in 0..9 {
            failures.add(Kind::LockTimeout);
        }
        assert_eq!((failures.add(Kind::StalePlan), failures.of(Kind::LockTimeout), failures.in_a_row()), (1, 9, 10));
        failures.clear();
        assert_eq!((failures.of(Kind::LockTimeout), failures.in_a_row()), (0, 0));
    }
}
