//! How many rows per second the slices of this daemon walk, and may change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::throttle::admit::decaying_ratio::DecayingRatio;
use crate::throttle::control::verdict::Pace;

/// The weight of about the last twenty batches lies in the speed of batches.
const BATCHES_KEPT: f64 = 0.95;
/// Half of the weight lies on the last two windows of the walk.
const WINDOWS_KEPT: f64 = 0.5;
const WINDOW: Duration = Duration::from_secs(1);
/// Rows per second, below which the rate is shown as 0: halved each second, it would never get
/// there.
const LEAST: f64 = 0.01;

/// The rates that all slices of one database are allowed; a clone is the same gauge.
#[derive(Debug, Clone, Default)]
pub struct RateGauge(Arc<Mutex<Rates>>);

#[derive(Debug, Default)]
struct Rates {
    /// By slice; none while nothing limits it.
    allowed: BTreeMap<u64, Option<f64>>,
    next: u64,
}

impl RateGauge {
    /// For a slice that begins.
    pub fn slice(&self) -> SliceRate {
        let mut rates = self.lock();
        let number = rates.next;
        rates.next += 1;
        SliceRate { gauge: self.clone(), number, speed: DecayingRatio::new(BATCHES_KEPT), walked: Walked::new() }
    }

    /// What all slices together may change; none if one has no limit, or none is at work.
    pub fn rows_per_second(&self) -> Option<f64> {
        let rates = self.lock();
        if rates.allowed.is_empty() { None } else { rates.allowed.values().copied().sum() }
    }

    fn lock(&self) -> MutexGuard<'_, Rates> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rates of one slice. Its part in the gauge is gone when it is dropped.
#[derive(Debug)]
pub struct SliceRate {
    gauge: RateGauge,
    number: u64,
    /// Rows that a batch changes in a second of its own time.
    speed: DecayingRatio,
    walked: Walked,
}

impl SliceRate {
    /// A batch changed `rows` in `took`.
    #[allow(clippy::cast_precision_loss)]
    pub fn settle(&mut self, rows: u64, took: Duration) {
        self.speed.add(rows as f64, took.as_secs_f64());
    }

    /// The slice may go on: at the job's own limit, or at the share of its batches' speed that the
    /// pace leaves, if that is lower.
    pub fn go(&self, max_rows_per_second: Option<f64>, pace: &Pace) {
        let speed = self.speed.ratio(0.0).filter(|speed| *speed > 0.0);
        let by_pace = if pace.duty_cycle < 1.0 { speed.map(|speed| speed * pace.duty_cycle) } else { None };
        self.allow(match (max_rows_per_second, by_pace) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        });
    }

    /// The slice is held.
    pub fn hold(&self) {
        self.allow(Some(0.0));
    }

    fn allow(&self, rate: Option<f64>) {
        self.gauge.lock().allowed.insert(self.number, rate);
    }

    /// Counts rows that the walk scanned.
    pub fn scanned(&mut self, rows: u64) {
        self.walked.rows += rows;
    }

    /// Rows per second that the walk scans now; falls while it waits.
    pub fn rows_per_second(&mut self) -> f64 {
        self.walked.rate()
    }
}

impl Drop for SliceRate {
    fn drop(&mut self) {
        self.gauge.lock().allowed.remove(&self.number);
    }
}

/// Rows that the walk scanned, over the last seconds.
#[derive(Debug)]
struct Walked {
    since: Instant,
    /// In the window that began at `since`.
    rows: u64,
    windows: DecayingRatio,
}

impl Walked {
    fn new() -> Self {
        Self { since: Instant::now(), rows: 0, windows: DecayingRatio::new(WINDOWS_KEPT) }
    }

    #[allow(clippy::cast_precision_loss)]
    fn rate(&mut self) -> f64 {
        let elapsed = self.since.elapsed();
        if elapsed >= WINDOW {
            self.windows.add(self.rows as f64, elapsed.as_secs_f64());
            (self.since, self.rows) = (Instant::now(), 0);
        }
        // Before the end of the first window: what there is of it.
        let rate = self.windows.ratio(0.0).unwrap_or_else(|| self.rows as f64 / elapsed.as_secs_f64().max(0.1));
        if rate < LEAST { 0.0 } else { rate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_gauge_is_the_sum_of_all_slices_unless_one_has_no_limit() {
        let gauge = RateGauge::default();
        assert_eq!(gauge.rows_per_second(), None, "no slice is at work");
        let (mut one, other) = (gauge.slice(), gauge.slice());
        one.settle(100, Duration::from_millis(10));
        let slow = Pace { duty_cycle: 0.1, ..Pace::FULL };
        one.go(None, &slow);
        assert_eq!(gauge.rows_per_second(), Some(1000.0), "a tenth of 10,000 per second");
        one.go(Some(300.0), &slow);
        other.hold();
        assert_eq!(gauge.rows_per_second(), Some(300.0));
        other.go(None, &Pace::FULL);
        assert_eq!(gauge.rows_per_second(), None);
        drop(other);
        assert_eq!(gauge.rows_per_second(), Some(300.0));
        drop(one);
        assert_eq!(gauge.rows_per_second(), None);
    }

    #[tokio::test]
    async fn while_the_speed_of_batches_is_not_known_only_the_jobs_own_limit_counts() {
        let gauge = RateGauge::default();
        let slice = gauge.slice();
        slice.go(Some(50.0), &Pace { duty_cycle: 0.1, ..Pace::FULL });
        assert_eq!(gauge.rows_per_second(), Some(50.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_walk_shows_its_rate() {
        let mut slice = RateGauge::default().slice();
        let mut rate = 0.0;
        for _ in 0..100 {
            tokio::time::advance(Duration::from_millis(100)).await;
            slice.scanned(50);
            rate = slice.rows_per_second();
        }
        assert!((490.0..510.0).contains(&rate), "{rate}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_of_a_held_walk_falls_to_nothing() {
        let mut slice = RateGauge::default().slice();
        slice.scanned(100_000);
        for _ in 0..60 {
            tokio::time::advance(Duration::from_secs(1)).await;
            slice.rows_per_second();
        }
        assert!(slice.rows_per_second() == 0.0);
    }
}
