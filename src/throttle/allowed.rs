//! How many rows a second the slices of this daemon are allowed now, for the metric.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::controller::Pace;

/// A clone is the same list.
#[derive(Debug, Clone, Default)]
pub(super) struct Allowed(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    /// By gate; none while nothing limits it.
    rates: BTreeMap<u64, Option<f64>>,
    next: u64,
}

/// One slice's place in the list; gone when dropped.
#[derive(Debug)]
pub(super) struct Share {
    list: Allowed,
    number: u64,
    speed: Speed,
}

/// Rows that a batch changes in a second of its own time, over the last batches.
#[derive(Debug, Default)]
struct Speed {
    rows: f64,
    seconds: f64,
}

/// What a batch adds counts for the last twenty or so.
const FADES: f64 = 0.95;

impl Speed {
    fn add(&mut self, rows: u64, took: Duration) {
        #[allow(clippy::cast_precision_loss)]
        let rows = rows as f64;
        self.rows = self.rows * FADES + rows;
        self.seconds = self.seconds * FADES + took.as_secs_f64();
    }

    fn per_second(&self) -> Option<f64> {
        (self.rows > 0.0 && self.seconds > 0.0).then(|| self.rows / self.seconds)
    }
}

impl Allowed {
    pub fn share(&self) -> Share {
        let mut list = self.lock();
        let number = list.next;
        list.next += 1;
        Share { list: self.clone(), number, speed: Speed::default() }
    }

    /// Of all slices together; none where one has no limit, or none is at work.
    pub fn rows_per_second(&self) -> Option<f64> {
        let list = self.lock();
        if list.rates.is_empty() { None } else { list.rates.values().copied().sum() }
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    pub fn settle(&mut self, rows: u64, took: Duration) {
        self.speed.add(rows, took);
    }

    /// The lower of what the job allows and what the pace leaves of the speed that batches have.
    pub fn go(&self, max_rows_per_second: Option<f64>, pace: &Pace) {
        let by_pace = if pace.duty < 1.0 { self.speed.per_second().map(|speed| speed * pace.duty) } else { None };
        self.tell(match (max_rows_per_second, by_pace) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        });
    }

    pub fn hold(&self) {
        self.tell(Some(0.0));
    }

    fn tell(&self, rate: Option<f64>) {
        self.list.lock().rates.insert(self.number, rate);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.list.lock().rates.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_slices_may_do_is_the_sum_unless_one_has_no_limit() {
        let allowed = Allowed::default();
        assert_eq!(allowed.rows_per_second(), None, "nobody is at work");
        let (mut one, other) = (allowed.share(), allowed.share());
        one.settle(100, Duration::from_millis(10));
        let slow = Pace { duty: 0.1, ..Pace::FULL };
        one.go(None, &slow);
        assert_eq!(allowed.rows_per_second(), Some(1000.0), "a tenth of 10,000 a second");
        one.go(Some(300.0), &slow);
        other.hold();
        assert_eq!(allowed.rows_per_second(), Some(300.0));
        other.go(None, &Pace::FULL);
        assert_eq!(allowed.rows_per_second(), None);
        drop(other);
        assert_eq!(allowed.rows_per_second(), Some(300.0));
        drop(one);
        assert_eq!(allowed.rows_per_second(), None);
    }

    #[test]
    fn at_a_pace_whose_speed_is_not_known_yet_only_the_jobs_own_limit_is_told() {
        let allowed = Allowed::default();
        let share = allowed.share();
        share.go(Some(50.0), &Pace { duty: 0.1, ..Pace::FULL });
        assert_eq!(allowed.rows_per_second(), Some(50.0));
    }
}
