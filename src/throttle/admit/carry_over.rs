//! Keeps the unpaid cost of each slice that ends (see `pacer`). The next slices of the same job pay
//! this cost by waiting. Otherwise a job with many small slices would never wait, and would exceed
//! its rate.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::throttle::admit::pacer::Pacer;

/// Time for which the cost of an ended slice is kept if no other slice takes it over. After this
/// time, the job has probably ended.
const KEPT: Duration = Duration::from_secs(3600);

/// Holds the pacers of ended slices by job, each with the time when its slice ended. All clones
/// share the same pacers.
#[derive(Debug, Clone, Default)]
pub struct CarryOver(Arc<Mutex<BTreeMap<i64, Vec<Ended>>>>);

/// Time when a slice ended, and the pacer of this slice.
type Ended = (Instant, Pacer);

impl CarryOver {
    /// Returns the oldest pacer that an ended slice of the job left behind, or a new pacer if there
    /// is none. The time since that slice ended counts as already paid.
    pub fn take(&self, job_id: i64) -> Pacer {
        let mut left = self.lock();
        let Some(of_job) = left.get_mut(&job_id) else { return Pacer::new() };
        let taken = (!of_job.is_empty()).then(|| of_job.remove(0));
        if of_job.is_empty() {
            left.remove(&job_id);
        }
        let Some((since, mut pacer)) = taken else { return Pacer::new() };
        pacer.waited(since.elapsed());
        pacer
    }

    /// Keeps the pacer of a slice that ends, for the next slice of the job. Drops all pacers that
    /// have been kept for 1 hour.
    pub fn leave(&self, job_id: i64, mut pacer: Pacer) {
        pacer.carry_over();
        let now = Instant::now();
        let mut left = self.lock();
        for of_job in left.values_mut() {
            of_job.retain(|(since, _)| now.saturating_duration_since(*since) < KEPT);
        }
        left.retain(|_, of_job| !of_job.is_empty());
        left.entry(job_id).or_default().push((now, pacer));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i64, Vec<Ended>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owing(rows: u64) -> Pacer {
        let mut pacer = Pacer::new();
        assert_eq!(pacer.pay(Some(1000.0), 1.0), Ok(()));
        pacer.owe(rows, Duration::ZERO);
        pacer
    }

    /// Returns the time that it takes to pay the whole amount at 1000 rows per second.
    async fn pays_for(mut pacer: Pacer) -> Duration {
        let start = Instant::now();
        while let Err(unpaid) = pacer.pay(Some(1000.0), 1.0) {
            tokio::time::sleep(unpaid.wait).await;
        }
        start.elapsed()
    }

    fn about(waited: Duration, millis: u64) -> bool {
        waited.abs_diff(Duration::from_millis(millis)) <= Duration::from_millis(22)
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_slice_of_the_job_pays_and_no_other() {
        let carry_over = CarryOver::default();
        carry_over.leave(1, owing(500));
        carry_over.leave(1, owing(200));
        assert_eq!(pays_for(carry_over.take(2)).await, Duration::ZERO);
        let waited = pays_for(carry_over.take(1)).await;
        assert!(about(waited, 500), "{waited:?}");
        // The time that the first pacer spent waiting also counts for the second pacer.
        assert!(about(pays_for(carry_over.take(1)).await, 0));
        assert_eq!(pays_for(carry_over.take(1)).await, Duration::ZERO);
        assert!(carry_over.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn elapsed_time_pays_the_carry_over_and_saves_up_no_burst() {
        let carry_over = CarryOver::default();
        carry_over.leave(1, owing(500));
        tokio::time::advance(Duration::from_millis(300)).await;
        let waited = pays_for(carry_over.take(1)).await;
        assert!(about(waited, 200), "{waited:?}");
        carry_over.leave(1, owing(500));
        tokio::time::advance(Duration::from_secs(60)).await;
        let mut pacer = carry_over.take(1);
        assert_eq!(pacer.pay(Some(1000.0), 1.0), Ok(()));
        pacer.owe(500, Duration::ZERO);
        let waited = pays_for(pacer).await;
        assert!(about(waited, 500), "time beyond what was owed is not credit: {waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_carry_over_costs_no_more_than_under_its_original_limits() {
        let carry_over = CarryOver::default();
        for (rate, most) in [(0.1, 500), (1000.0, 500), (5000.0, 100)] {
            carry_over.leave(1, owing(500));
            let (mut pacer, start) = (carry_over.take(1), Instant::now());
            while let Err(unpaid) = pacer.pay(Some(rate), 1.0) {
                tokio::time::sleep(unpaid.wait).await;
            }
            assert!(about(start.elapsed(), most), "{:?} at {rate}", start.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_carry_over_that_no_slice_takes_is_dropped() {
        let carry_over = CarryOver::default();
        carry_over.leave(1, owing(500));
        tokio::time::advance(KEPT).await;
        carry_over.leave(2, owing(500));
        assert_eq!(carry_over.lock().keys().copied().collect::<Vec<_>>(), [2]);
    }
}
