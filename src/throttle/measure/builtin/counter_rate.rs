//! Computes the growth rate of a server counter, and the amount by which this rate exceeds the rate
//! while no job runs.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Time over which the rate is averaged.
const WINDOW: Duration = Duration::from_secs(60);
/// Minimum time over which a rate is computed. Over a shorter time, a single event would appear as
/// a high rate.
const LEAST: Duration = Duration::from_secs(20);
/// Weight that each new poll has in the baseline. The baseline changes only while no job runs.
const WEIGHT: f64 = 0.2;

/// Tracks the growth rate of a server counter, and the baseline of this rate. The counter only
/// grows, except when it is reset.
#[derive(Debug, Default)]
pub struct CounterRate {
    points: VecDeque<(Instant, f64)>,
    /// Rate per minute while no job runs. None before the first poll.
    baseline: Option<f64>,
    /// Time when a job last ran. A window that begins before this time does not change the
    /// baseline.
    worked_at: Option<Instant>,
}

impl CounterRate {
    /// Records the count and returns the growth per minute. Returns none until 20 s after the first
    /// poll, and until 20 s after a reset of the counter.
    pub fn observe(&mut self, at: Instant, count: f64) -> Option<f64> {
        if self.points.back().is_some_and(|(_, last)| *last > count) {
            self.points.clear();
        }
        self.points.push_back((at, count));
        // The last point that is older than the window is kept, because two polls may be further
        // apart than the window is long.
        while self.points.get(1).is_some_and(|(second, _)| at.saturating_duration_since(*second) >= WINDOW) {
            self.points.pop_front();
        }
        let (since, from) = *self.points.front()?;
        let elapsed = at.saturating_duration_since(since);
        (elapsed >= LEAST).then(|| (count - from) / elapsed.as_secs_f64() * 60.0)
    }

    /// Records the count and returns the amount by which the growth per minute exceeds the
    /// baseline, or 0 if it does not exceed it. Returns none if [`CounterRate::observe`] returns
    /// none. `usual` is the mean growth per minute before the first poll, and becomes the first
    /// value of the baseline.
    pub fn excess(&mut self, at: Instant, count: f64, usual: f64, working: bool) -> Option<f64> {
        let rate = self.observe(at, count);
        let baseline = self.baseline.get_or_insert(usual);
        if working {
            self.worked_at = Some(at);
        } else if let (Some(rate), Some((since, _))) = (rate, self.points.front())
            && self.worked_at.is_none_or(|worked| worked <= *since)
        {
            *baseline += WEIGHT * (rate - *baseline);
        }
        let baseline = *baseline;
        rate.map(|rate| (rate - baseline).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_a_mean_over_the_last_minute() {
        let start = Instant::now();
        let mut rate = CounterRate::default();
        assert_eq!(rate.observe(at(start, 0), 100.0), None);
        assert_eq!(rate.observe(at(start, 5), 101.0), None);
        assert_eq!(rate.observe(at(start, 30), 110.0), Some(20.0));
        assert_eq!(rate.observe(at(start, 60), 110.0), Some(10.0));
        assert_eq!(rate.observe(at(start, 120), 110.0), Some(0.0));
        // After a reset the measurement starts again.
        assert_eq!(rate.observe(at(start, 150), 3.0), None);
        assert_eq!(rate.observe(at(start, 180), 4.0), Some(2.0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_usual_rate_before_a_job_does_not_count() {
        let start = Instant::now();
        let mut rate = CounterRate::default();
        for poll in 0..10 {
            rate.excess(at(start, poll * 30), poll as f64 * 30.0, 60.0, false);
        }
        // The counter grows by 60 per minute, as before, and then by three times as much.
        assert_eq!(rate.excess(at(start, 300), 300.0, 99.0, true), Some(0.0));
        let busy = rate.excess(at(start, 360), 480.0, 99.0, true).unwrap();
        assert!((busy - 120.0).abs() < 1.0, "{busy}");
        // The growth during a job does not change the baseline, even if the next poll comes after
        // the end of the job.
        for (seconds, count, working) in [(420, 660.0, true), (450, 750.0, false)] {
            let busy = rate.excess(at(start, seconds), count, 99.0, working).unwrap();
            assert!((busy - 120.0).abs() < 1.0, "{busy}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_poll_at_rest_the_servers_own_mean_is_the_baseline() {
        let start = Instant::now();
        let mut rate = CounterRate::default();
        assert_eq!(rate.excess(at(start, 0), 100.0, 6.0, true), None);
        assert_eq!(rate.excess(at(start, 60), 110.0, 99.0, true), Some(4.0));
    }
}
