//! How many rows a batch should have so that it takes its target time. Grows by at most half, shrinks at once.

use std::time::Duration;

const FIRST: f64 = 100.0;
/// A statement takes its time whatever it does, more on a busy server: up to so long it is not for its rows, and no
/// fewer than so many are worth it.
const OVERHEAD: Duration = Duration::from_millis(10);
const WORTH_A_BATCH: f64 = 20.0;

#[derive(Debug, Clone)]
pub struct Sizer {
    target: Duration,
    most: u32,
    rows: f64,
}

impl Sizer {
    pub fn new(target: Duration, max_batch_rows: u32) -> Self {
        let most = max_batch_rows.max(1);
        Self { target, most, rows: FIRST.min(most.into()) }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn rows(&self) -> u32 {
        (self.rows.round() as u32).clamp(1, self.most)
    }

    /// A batch that asked for `asked` rows scanned `scanned` of them in `took`. A short batch (the end of a range, a
    /// rate limit) tells nothing about whether more would fit, but may tell that it was too much.
    pub fn committed(&mut self, asked: u32, scanned: u64, took: Duration) {
        let ratio = self.target.as_secs_f64() / took.as_secs_f64().max(1e-6);
        let full = scanned >= u64::from(asked) && asked >= self.rows();
        if ratio < 1.0 {
            let fitting = (f64::from(asked) * ratio).min(self.rows);
            let least = if took <= OVERHEAD { WORTH_A_BATCH.min(self.rows * 1.5) } else { 1.0 };
            self.rows = fitting.max(least);
        } else if full {
            self.rows *= ratio.min(1.5);
        }
        self.rows = self.rows.clamp(1.0, self.most.into());
    }

    /// Somebody was in the way, or the batch ran into its time limit.
    pub fn shrink(&mut self) {
        self.rows = (self.rows / 2.0).max(1.0);
    }

    /// Another target. The next batch is of its length, by what the last ones took.
    pub fn aim(&mut self, target: Duration) {
        if target < self.target {
            self.rows = (self.rows * target.as_secs_f64() / self.target.as_secs_f64()).max(1.0);
        }
        self.target = target;
    }

    pub fn tune(&mut self, max_batch_rows: u32) {
        self.most = max_batch_rows.max(1);
        self.rows = self.rows.min(self.most.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A server that changes one row in `per_row`.
    fn settle(per_row: Duration, sizer: &mut Sizer) -> Duration {
        let mut took = Duration::ZERO;
        for _ in 0..60 {
            let rows = sizer.rows();
            took = per_row * rows;
            sizer.committed(rows, rows.into(), took);
        }
        took
    }

    #[test]
    fn batches_settle_at_their_target_time() {
        let mut sizer = Sizer::new(Duration::from_millis(10), 100_000);
        let took = settle(Duration::from_micros(5), &mut sizer);
        assert!((9.0..=11.0).contains(&(took.as_secs_f64() * 1e3)), "{took:?}");
    }

    #[test]
    fn growth_is_at_most_half_and_shrinking_is_at_once() {
        let mut sizer = Sizer::new(Duration::from_millis(10), 5000);
        sizer.committed(100, 100, Duration::from_micros(10));
        assert_eq!(sizer.rows(), 150);
        sizer.committed(150, 150, Duration::from_millis(100));
        assert_eq!(sizer.rows(), 15);
    }

    #[test]
    fn a_shorter_target_holds_for_the_next_batch_and_a_longer_one_is_grown_into() {
        let mut sizer = Sizer::new(Duration::from_millis(10), 100_000);
        settle(Duration::from_micros(5), &mut sizer);
        let rows = sizer.rows();
        sizer.aim(Duration::from_millis(2));
        assert!(sizer.rows().abs_diff(rows / 5) <= 1, "{}", sizer.rows());
        sizer.aim(Duration::from_millis(10));
        assert!(sizer.rows().abs_diff(rows / 5) <= 1, "{}", sizer.rows());
    }

    #[test]
    fn a_busy_server_makes_no_batches_of_one_row_and_slow_rows_do() {
        let mut sizer = Sizer::new(Duration::from_millis(2), 5000);
        let mut rows_after = |overhead: u64, per_row: u64| {
            for _ in 0..30 {
                let rows = sizer.rows();
                sizer.committed(rows, rows.into(), Duration::from_micros(overhead + per_row * u64::from(rows)));
            }
            sizer.rows()
        };
        assert_eq!(rows_after(5_000, 10), 20);
        assert!(rows_after(12_000, 10) <= 2);
        assert_eq!(rows_after(5_000, 10), 20, "it comes back");
        assert!(rows_after(0, 20_000) <= 2);
    }

    #[test]
    fn a_short_batch_is_no_reason_to_grow() {
        let mut sizer = Sizer::new(Duration::from_millis(10), 5000);
        sizer.committed(100, 3, Duration::from_micros(10));
        assert_eq!(sizer.rows(), 100);
    }

    proptest! {
        #[test]
        fn rows_stay_between_one_and_the_maximum(most in 1u32..100_000, steps in prop::collection::vec((0u64..10_000_000, prop::bool::ANY), 0..60)) {
            let mut sizer = Sizer::new(Duration::from_millis(10), most);
            for (micros, failed) in steps {
                let rows = sizer.rows();
                if failed { sizer.shrink() } else { sizer.committed(rows, rows.into(), Duration::from_micros(micros)) }
                prop_assert!((1..=most).contains(&sizer.rows()));
            }
        }
    }
}
