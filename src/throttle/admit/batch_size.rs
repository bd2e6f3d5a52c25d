//! Chooses the number of rows that the next batch may scan, so that the batch takes its target
//! time. With a rate limit, this module also keeps batches small enough for the rows to change at
//! an even rate. The walk may ask for fewer rows than this number, but never for more. The size
//! grows by at most half with each batch, but can shrink by any factor at once.

use std::time::Duration;

use crate::job::permit::Permit;
use crate::throttle::admit::decaying_ratio::DecayingRatio;

/// Initial batch size of a slice, for the target [`TARGET_ON_IDLE_SERVER`].
const FIRST: f64 = 100.0;
/// A statement has a fixed cost, which is higher on a busy server. If a batch misses its target but
/// takes at most `OVERHEAD`, this cost may be the reason, and not the number of rows. Such a batch
/// does not shrink the size below `WORTH_A_BATCH` rows. If the size is already smaller, such a
/// batch makes it grow towards `WORTH_A_BATCH` rows.
const OVERHEAD: Duration = Duration::from_millis(10);
const WORTH_A_BATCH: f64 = 20.0;
/// With a rate limit, a batch is expected to change at most as many rows as the rate allows in this
/// time. Other sessions do not notice ten small batches per second.
const BATCH_WORTH: Duration = Duration::from_millis(100);
/// If the rate is limited, a batch scans at most this many rows for each row that it is expected to
/// change. A batch must scan more rows than it changes if few rows match the filter. If,
/// unexpectedly, all rows of such a batch match, the batch changes at most as many rows as the rate
/// allows in 1 s.
const MOST_SCANNED_PER_CHANGE: f64 = 10.0;
/// When a batch is added to the ratio of scanned to changed rows, the weight of all earlier batches
/// is multiplied by this factor. The ratio therefore reflects about the last ten batches.
const KEPT: f64 = 0.9;
/// Default target times of a batch, on an otherwise idle server and while other sessions are
/// active.
const TARGET_ON_IDLE_SERVER: Duration = Duration::from_millis(10);
const TARGET_BESIDE_OTHERS: Duration = Duration::from_millis(2);

/// If each batch spends time on the network, the default target is at least this fraction (1/4) of
/// that time, but the network raises it to at most 100 ms on an otherwise idle server, and at most
/// 20 ms while other sessions are active. Otherwise batches would run for only a small part of the
/// time.
const PART_OF_NETWORK: u32 = 4;
const LONGEST_ON_IDLE_SERVER: Duration = Duration::from_millis(100);
const LONGEST_BESIDE_OTHERS: Duration = Duration::from_millis(20);

/// Returns the target duration of the next batch. If the job has a target of its own, returns this
/// target. Otherwise returns one of two defaults: for an otherwise idle server, or for a server
/// with other load. `network` is the time that each batch spends on the network. If it is long, the
/// default is longer.
pub fn target(of_job: Option<Duration>, other_load: bool, network: Duration) -> Duration {
    let (default, longest) = match other_load {
        true => (TARGET_BESIDE_OTHERS, LONGEST_BESIDE_OTHERS),
        false => (TARGET_ON_IDLE_SERVER, LONGEST_ON_IDLE_SERVER),
    };
    of_job.unwrap_or_else(|| default.max((network / PART_OF_NETWORK).min(longest)))
}

/// Chooses the size of the batches of one slice.
#[derive(Debug, Clone)]
pub struct BatchSize {
    target: Duration,
    most: u32,
    rows: f64,
    scanned_per_change: DecayingRatio,
}

impl Default for BatchSize {
    fn default() -> Self {
        Self {
            target: TARGET_ON_IDLE_SERVER,
            most: u32::MAX,
            rows: FIRST,
            scanned_per_change: DecayingRatio::new(KEPT),
        }
    }
}

impl BatchSize {
    /// Returns the permit for a batch that should take `target` and scan at most `most` rows. If
    /// there is a rate limit, the permit reduces the number of rows if necessary, so that the rate
    /// stays even. If `target` is shorter than the last target, the number of rows shrinks in
    /// proportion, beginning with this batch.
    pub fn permit(&mut self, target: Duration, most: u32, rows_per_second: Option<f64>) -> Permit {
        self.most = most.max(1);
        self.rows = self.rows.min(self.most.into());
        if target < self.target {
            self.rows = (self.rows * target.as_secs_f64() / self.target.as_secs_f64()).max(1.0);
        }
        self.target = target;
        let even = rows_per_second.map_or(u32::MAX, |rate| self.even(rate));
        Permit { max_rows: self.rows().min(even), target }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn rows(&self) -> u32 {
        (self.rows.round() as u32).clamp(1, self.most)
    }

    /// Returns the maximum number of rows that a batch may scan if the rows are to change at an
    /// even rate.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn even(&self, rows_per_second: f64) -> u32 {
        let factor = self.scanned_per_change.ratio(1.0).unwrap_or(1.0).clamp(1.0, MOST_SCANNED_PER_CHANGE);
        (rows_per_second * BATCH_WORTH.as_secs_f64() * factor).max(1.0) as u32
    }

    /// Adapts the size after a commit. The batch ran under `permit` and was to scan `asked` rows.
    /// It scanned `scanned` rows in the time `took`. A batch may scan fewer rows than the current
    /// size, for example at the end of a slice or because of a rate limit. Such a batch does not
    /// show that more rows would fit. But if such a batch took too long, the size shrinks.
    #[allow(clippy::cast_precision_loss)]
    pub fn committed(&mut self, permit: &Permit, asked: u32, scanned: u64, took: Duration) {
        let ratio = permit.target.as_secs_f64() / took.as_secs_f64().max(1e-6);
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

    /// Records how many of the scanned rows a batch changed.
    #[allow(clippy::cast_precision_loss)]
    pub fn matched(&mut self, scanned: u64, changed: u64) {
        self.scanned_per_change.add(scanned as f64, changed as f64);
    }

    /// Halves the size after a failure that a smaller batch may avoid. For example, the batch
    /// blocked another session or reached its time limit.
    pub fn shrink(&mut self) {
        self.rows = (self.rows / 2.0).max(1.0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEN_MS: Duration = Duration::from_millis(10);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Runs 60 batches on a simulated server that needs `per_row` for each row. Returns the
    /// duration of the last batch.
    fn settle(per_row: Duration, size: &mut BatchSize, target: Duration) -> Duration {
        let mut took = Duration::ZERO;
        for _ in 0..60 {
            let permit = size.permit(target, 100_000, None);
            took = per_row * permit.max_rows;
            size.committed(&permit, permit.max_rows, permit.max_rows.into(), took);
        }
        took
    }

    #[test]
    fn batches_settle_at_their_target_time() {
        let took = settle(Duration::from_micros(5), &mut BatchSize::default(), TEN_MS);
        assert!((9.0..=11.0).contains(&(took.as_secs_f64() * 1e3)), "{took:?}");
    }

    #[test]
    fn growth_is_at_most_half_and_shrinking_is_at_once() {
        let mut size = BatchSize::default();
        let permit = size.permit(TEN_MS, 5000, None);
        assert_eq!(permit, Permit { max_rows: 100, target: TEN_MS });
        size.committed(&permit, 100, 100, Duration::from_micros(10));
        let permit = size.permit(TEN_MS, 5000, None);
        assert_eq!(permit.max_rows, 150);
        size.committed(&permit, 150, 150, millis(100));
        assert_eq!(size.permit(TEN_MS, 5000, None).max_rows, 15);
    }

    #[test]
    fn a_shorter_target_holds_for_the_next_batch_and_a_longer_one_is_grown_into() {
        let mut size = BatchSize::default();
        settle(Duration::from_micros(5), &mut size, TEN_MS);
        let rows = size.permit(TEN_MS, 100_000, None).max_rows;
        for target in [millis(2), TEN_MS] {
            let next = size.permit(target, 100_000, None).max_rows;
            assert!(next.abs_diff(rows / 5) <= 1, "{next}");
        }
    }

    #[test]
    fn slow_rows_lead_to_batches_of_one_row_and_a_busy_server_does_not() {
        let mut size = BatchSize::default();
        let mut rows_after = |overhead: u64, per_row: u64| {
            for _ in 0..30 {
                let permit = size.permit(millis(2), 5000, None);
                let rows = permit.max_rows;
                size.committed(&permit, rows, rows.into(), Duration::from_micros(overhead + per_row * u64::from(rows)));
            }
            size.permit(millis(2), 5000, None).max_rows
        };
        assert_eq!(rows_after(5_000, 10), 20);
        assert!(rows_after(12_000, 10) <= 2);
        assert_eq!(rows_after(5_000, 10), 20, "the size grows back");
        assert!(rows_after(0, 20_000) <= 2);
    }

    #[test]
    fn a_short_batch_does_not_enlarge_the_next_one() {
        let mut size = BatchSize::default();
        let permit = size.permit(TEN_MS, 5000, None);
        size.committed(&permit, 100, 3, Duration::from_micros(10));
        assert_eq!(size.permit(TEN_MS, 5000, None).max_rows, 100);
    }

    #[test]
    fn a_lower_maximum_holds_for_the_next_batch() {
        let mut size = BatchSize::default();
        assert_eq!(size.permit(TEN_MS, 7, None).max_rows, 7);
        assert_eq!(size.permit(TEN_MS, 5000, None).max_rows, 7, "the size grows step by step");
    }

    #[test]
    fn the_jobs_own_target_takes_precedence_over_that_for_other_load() {
        let fast = Duration::ZERO;
        assert_eq!(
            [target(None, false, fast), target(None, true, fast)],
            [TARGET_ON_IDLE_SERVER, TARGET_BESIDE_OTHERS]
        );
        let slow = Duration::from_secs(2);
        for network in [fast, slow] {
            assert_eq!(
                [target(Some(millis(7)), false, network), target(Some(millis(7)), true, network)],
                [millis(7); 2]
            );
        }
    }

    #[test]
    fn on_a_slow_network_batches_take_longer_within_limits() {
        let targets = |network| [target(None, false, millis(network)), target(None, true, millis(network))];
        assert_eq!(targets(20), [millis(10), millis(5)]);
        assert_eq!(targets(60), [millis(15), millis(15)]);
        assert_eq!(targets(2000), [millis(100), millis(20)]);
    }

    #[test]
    fn a_rate_paces_batches_evenly() {
        let rows_at = |rate| BatchSize { rows: 5000.0, ..BatchSize::default() }.permit(TEN_MS, 5000, rate).max_rows;
        assert_eq!(rows_at(None), 5000);
        assert_eq!(rows_at(Some(1000.0)), 100);
        assert_eq!(rows_at(Some(3.0)), 1);
    }

    #[test]
    fn if_few_rows_match_a_batch_scans_more_of_them() {
        let mut size = BatchSize { rows: 5000.0, ..BatchSize::default() };
        let rows = |size: &mut BatchSize| size.permit(TEN_MS, 5000, Some(1000.0)).max_rows;
        size.matched(100, 100);
        assert_eq!(rows(&mut size), 100);
        for _ in 0..100 {
            size.matched(100, 50);
        }
        assert!(rows(&mut size).abs_diff(200) <= 1, "{}", rows(&mut size));
        for _ in 0..100 {
            size.matched(100, 0);
        }
        assert_eq!(rows(&mut size), 1000);
        for _ in 0..20 {
            size.matched(1000, 1000);
        }
        assert!(rows(&mut size) <= 110, "{}", rows(&mut size));
    }

    proptest! {
        #[test]
        fn rows_stay_between_one_and_the_maximum(
            most in 1u32..100_000, steps in prop::collection::vec((0u64..10_000_000, prop::bool::ANY), 0..60)
        ) {
            let mut size = BatchSize::default();
            for (micros, failed) in steps {
                let permit = size.permit(TEN_MS, most, None);
                prop_assert!((1..=most).contains(&permit.max_rows));
                let rows = permit.max_rows;
                if failed {
                    size.shrink();
                } else {
                    size.committed(&permit, rows, rows.into(), Duration::from_micros(micros));
                }
            }
            prop_assert!((1..=most).contains(&size.permit(TEN_MS, most, None).max_rows));
        }
    }
}
