//! Measures two row rates of this daemon's slices: the rows per second that they scan, and the rows
//! per second that they may change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::job::waiting::Report;
use crate::throttle::admit::decaying_ratio::DecayingRatio;
use crate::throttle::control::verdict::Pace;

/// Decay of the average batch speed. Each new batch multiplies the weight of all earlier batches by
/// this factor, so the average covers about the last 20 batches.
const BATCHES_KEPT: f64 = 0.95;
/// Decay of the walk's average rate. Each new window multiplies the weight of all earlier windows
/// by this factor, so the last window has half of the total weight.
const WINDOWS_KEPT: f64 = 0.5;
const WINDOW: Duration = Duration::from_secs(1);
/// Decay of the average rate from which the remaining time is estimated. The average covers about
/// the last minute, so that the estimate does not jump with each pause.
const STEADY_WINDOWS_KEPT: f64 = 0.98;
/// Decay of the share of the time in which batches run. The average covers about the last 10 s.
const SHARES_KEPT: f64 = 0.9;
/// A rate below this many rows per second is shown as 0, because a rate that is halved each second
/// never reaches 0.
const LEAST: f64 = 0.01;

/// Holds the rates that the slices of one database may use. All clones share the same rates.
#[derive(Debug, Clone, Default)]
pub struct RateGauge(Arc<Mutex<Rates>>);

#[derive(Debug, Default)]
struct Rates {
    /// The rows per second that each slice may use. None if nothing limits the slice. Also none
    /// while only the duty cycle limits the slice and the speed of the slice's batches is not known
    /// yet.
    allowed: BTreeMap<u64, Option<f64>>,
    next: u64,
}

impl RateGauge {
    /// Creates the rates of a new slice.
    pub fn slice(&self) -> SliceRate {
        let mut rates = self.lock();
        let number = rates.next;
        rates.next += 1;
        SliceRate { gauge: self.clone(), number, speed: DecayingRatio::new(BATCHES_KEPT), walked: Walked::new() }
    }

    /// Returns the rows per second that all slices together may change. Returns none if a slice has
    /// no limit, if the limit of a slice is not known yet, or if no slice is active.
    pub fn rows_per_second(&self) -> Option<f64> {
        let rates = self.lock();
        if rates.allowed.is_empty() { None } else { rates.allowed.values().copied().sum() }
    }

    fn lock(&self) -> MutexGuard<'_, Rates> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds the rates of one slice. Dropping this value removes the slice from the gauge.
#[derive(Debug)]
pub struct SliceRate {
    gauge: RateGauge,
    number: u64,
    /// Rows that a batch changes per second of its run time.
    speed: DecayingRatio,
    walked: Walked,
}

impl SliceRate {
    /// Records that a batch changed `rows` rows in the time `took`.
    #[allow(clippy::cast_precision_loss)]
    pub fn settle(&mut self, rows: u64, took: Duration) {
        self.speed.add(rows as f64, took.as_secs_f64());
        self.walked.busy += took;
    }

    /// Records that the slice may run. If the duty cycle is below 1, the rate that the pace allows
    /// is the speed of the slice's batches, multiplied by the duty cycle. The rate of the slice is
    /// the rate that the pace allows or the job's own limit, whichever is lower.
    pub fn go(&self, max_rows_per_second: Option<f64>, pace: &Pace) {
        let speed = self.speed.ratio(0.0).filter(|speed| *speed > 0.0);
        let by_pace = if pace.duty_cycle < 1.0 { speed.map(|speed| speed * pace.duty_cycle) } else { None };
        self.allow(match (max_rows_per_second, by_pace) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        });
    }

    /// Records that the slice is held.
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

    /// Returns the rates of the walk, without a reason for a wait. The rates fall while the walk
    /// waits.
    pub fn report(&mut self) -> Report {
        self.walked.report()
    }
}

impl Drop for SliceRate {
    fn drop(&mut self) {
        self.gauge.lock().allowed.remove(&self.number);
    }
}

/// Counts the rows that the walk scanned, for the rates of the last few seconds and of about the
/// last minute.
#[derive(Debug)]
struct Walked {
    since: Instant,
    /// Rows scanned in the window that began at `since`.
    rows: u64,
    /// Run time of the batches in this window.
    busy: Duration,
    /// Whether the first window has ended. The steady rate does not include this window: while the
    /// throttle finds the size of a batch, the first batches are small.
    first_has_ended: bool,
    windows: DecayingRatio,
    steady: DecayingRatio,
    shares: DecayingRatio,
}

impl Walked {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            rows: 0,
            busy: Duration::ZERO,
            first_has_ended: false,
            windows: DecayingRatio::new(WINDOWS_KEPT),
            steady: DecayingRatio::new(STEADY_WINDOWS_KEPT),
            shares: DecayingRatio::new(SHARES_KEPT),
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn report(&mut self) -> Report {
        let elapsed = self.since.elapsed().as_secs_f64();
        let (rows, busy) = (self.rows as f64, self.busy.as_secs_f64());
        if elapsed >= WINDOW.as_secs_f64() {
            self.windows.add(rows, elapsed);
            if self.first_has_ended {
                self.steady.add(rows, elapsed);
            }
            self.first_has_ended = true;
            self.shares.add(busy, elapsed);
            (self.since, self.rows, self.busy) = (Instant::now(), 0, Duration::ZERO);
        }
        // Before the end of the first window, the rates are computed from the part of the window
        // that has passed.
        let begun = |ratio: &DecayingRatio, sum: f64| ratio.ratio(0.0).unwrap_or_else(|| sum / elapsed.max(0.1));
        let rate = |ratio: &DecayingRatio| Some(begun(ratio, rows)).filter(|rate| *rate >= LEAST).unwrap_or(0.0);
        Report {
            rows_per_second: rate(&self.windows),
            steady_rows_per_second: self.steady.ratio(0.0).map(|_| rate(&self.steady)),
            time_share: begun(&self.shares, busy).min(1.0),
            ..Report::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_gauge_is_the_sum_of_all_slices_unless_one_has_no_limit() {
        let gauge = RateGauge::default();
        assert_eq!(gauge.rows_per_second(), None, "no slice is active");
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
            rate = slice.report().rows_per_second;
        }
        assert!((490.0..510.0).contains(&rate), "{rate}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_steady_rate_is_not_known_until_two_windows_have_ended() {
        let mut slice = RateGauge::default().slice();
        let mut known = Vec::new();
        for _ in 0..30 {
            tokio::time::advance(Duration::from_millis(100)).await;
            slice.scanned(50);
            known.push(slice.report().steady_rows_per_second);
        }
        assert_eq!(known.iter().take_while(|rate| rate.is_none()).count(), 19, "{known:?}");
        let rate = known.last().copied().flatten().unwrap();
        assert!((490.0..510.0).contains(&rate), "{rate}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_of_a_held_walk_falls_to_nothing() {
        let mut slice = RateGauge::default().slice();
        slice.scanned(100_000);
        for _ in 0..60 {
            tokio::time::advance(Duration::from_secs(1)).await;
            slice.report();
        }
        assert!(slice.report().rows_per_second == 0.0);
    }
}
