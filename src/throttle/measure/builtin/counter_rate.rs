//! How fast a counter of the server grows, compared with how fast it grew before the work.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The rate is a mean over this time.
const WINDOW: Duration = Duration::from_secs(60);
/// Over less time than this a single event would count as a rate.
const LEAST: Duration = Duration::from_secs(20);
/// The weight of one more poll at rest in the baseline.
const WEIGHT: f64 = 0.2;

/// A counter that only grows, except for resets.
#[derive(Debug, Default)]
pub struct CounterRate {
    points: VecDeque<(Instant, f64)>,
    /// The rate per minute at rest; none before the first poll.
    baseline: Option<f64>,
    /// When a job was last at work: a window that reaches back to then does not change the
    /// baseline.
    worked_at: Option<Instant>,
}

impl CounterRate {
    /// By how much it grows per minute; none before that is known.
    pub fn observe(&mut self, at: Instant, count: f64) -> Option<f64> {
        if self.points.back().is_some_and(|(_, last)| *last > count) {
            self.points.clear();
        }
        self.points.push_back((at, count));
        // The last point from before the window stays: polls at rest may be further apart than the
        // window is long.
        while self.points.get(1).is_some_and(|(second, _)| at.saturating_duration_since(*second) >= WINDOW) {
            self.points.pop_front();
        }
        let (since, from) = *self.points.front()?;
        let elapsed = at.saturating_duration_since(since);
        (elapsed >= LEAST).then(|| (count - from) / elapsed.as_secs_f64() * 60.0)
    }

    /// By how much more it grows per minute than before the work. `usual` is by how much it grew
    /// per minute in all the time before our first poll: the baseline begins with it.
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
        // After a reset it begins anew.
        assert_eq!(rate.observe(at(start, 150), 3.0), None);
        assert_eq!(rate.observe(at(start, 180), 4.0), Some(2.0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_usual_before_the_work_does_not_count() {
        let start = Instant::now();
        let mut rate = CounterRate::default();
        for poll in 0..10 {
            rate.excess(at(start, poll * 30), poll as f64 * 30.0, 60.0, false);
        }
        // 60 a minute it was, and is; then three times that.
        assert_eq!(rate.excess(at(start, 300), 300.0, 99.0, true), Some(0.0));
        let busy = rate.excess(at(start, 360), 480.0, 99.0, true).unwrap();
        assert!((busy - 120.0).abs() < 1.0, "{busy}");
        // The time at work does not change the baseline, even when it is polled after the work.
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
