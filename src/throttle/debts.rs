//! What the slices of a job still owe when they end, for those that come after: else a job of many small slices would
//! never pay, and go faster than it may.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::pacer::Pacer;

/// What nobody asked for in this time is forgotten: its job has ended.
const KEPT: Duration = Duration::from_secs(3600);

/// By job, the pacers of its slices that have ended, and when.
#[derive(Debug, Default)]
pub(super) struct Debts(Mutex<BTreeMap<i64, Vec<(Instant, Pacer)>>>);

impl Debts {
    /// For a slice that begins: the debt that has been left for longest, less what has been waited since; none if all
    /// is taken.
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

    pub fn leave(&self, job_id: i64, mut pacer: Pacer) {
        pacer.bequeath();
        let now = Instant::now();
        let mut left = self.lock();
        for of_job in left.values_mut() {
            of_job.retain(|(since, _)| now.saturating_duration_since(*since) < KEPT);
        }
        left.retain(|_, of_job| !of_job.is_empty());
        left.entry(job_id).or_default().push((now, pacer));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i64, Vec<(Instant, Pacer)>>> {
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

    /// How long it takes to pay all, at a thousand rows a second.
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
        let debts = Debts::default();
        debts.leave(1, owing(500));
        debts.leave(1, owing(200));
        assert_eq!(pays_for(debts.take(2)).await, Duration::ZERO);
        let waited = pays_for(debts.take(1)).await;
        assert!(about(waited, 500), "{waited:?}");
        // The time that the other needed has passed for this one too.
        assert!(about(pays_for(debts.take(1)).await, 0));
        assert_eq!(pays_for(debts.take(1)).await, Duration::ZERO);
        assert!(debts.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_passed_meanwhile_pays_and_leaves_no_burst() {
        let debts = Debts::default();
        debts.leave(1, owing(500));
        tokio::time::advance(Duration::from_millis(300)).await;
        let waited = pays_for(debts.take(1)).await;
        assert!(about(waited, 200), "{waited:?}");
        debts.leave(1, owing(500));
        tokio::time::advance(Duration::from_secs(60)).await;
        let mut pacer = debts.take(1);
        assert_eq!(pacer.pay(Some(1000.0), 1.0), Ok(()));
        pacer.owe(500, Duration::ZERO);
        let waited = pays_for(pacer).await;
        assert!(about(waited, 500), "what was waited too long is no credit: {waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_debt_is_paid_by_the_limits_under_which_it_was_made_or_by_easier_ones() {
        let debts = Debts::default();
        for (rate, most) in [(0.1, 500), (1000.0, 500), (5000.0, 100)] {
            debts.leave(1, owing(500));
            let (mut pacer, start) = (debts.take(1), Instant::now());
            while let Err(unpaid) = pacer.pay(Some(rate), 1.0) {
                tokio::time::sleep(unpaid.wait).await;
            }
            assert!(about(start.elapsed(), most), "{:?} at {rate}", start.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_asks_for_is_forgotten() {
        let debts = Debts::default();
        debts.leave(1, owing(500));
        tokio::time::advance(KEPT).await;
        debts.leave(2, owing(500));
        assert_eq!(debts.lock().keys().copied().collect::<Vec<_>>(), [2]);
    }
}
