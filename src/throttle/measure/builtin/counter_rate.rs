//! How fast a counter of the server's grows, against how fast it grew before the work.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Looked back over so long.
const WINDOW: Duration = Duration::from_secs(60);
/// Over less than this one event would be a rate.
const LEAST: Duration = Duration::from_secs(20);
/// The weight of one more look at rest.
const WEIGHT: f64 = 0.2;

/// A counter that only grows, but for a reset.
#[derive(Debug, Default)]
pub struct CounterRate {
    points: VecDeque<(Instant, f64)>,
    /// A minute, while nobody worked; none before the first look.
    baseline: Option<f64>,
    /// When somebody last worked: no baseline looks back beyond it.
    worked_at: Option<Instant>,
}

impl CounterRate {
    /// How much it grows in a minute; none before that can be told.
    pub fn observe(&mut self, at: Instant, count: f64) -> Option<f64> {
        if self.points.back().is_some_and(|(_, last)| *last > count) {
            self.points.clear();
        }
        self.points.push_back((at, count));
        // The last one from before the window stays: looks at rest may be further apart than it is long.
        while self.points.get(1).is_some_and(|(second, _)| at.saturating_duration_since(*second) >= WINDOW) {
            self.points.pop_front();
        }
        let (since, from) = *self.points.front()?;
        let elapsed = at.saturating_duration_since(since);
        (elapsed >= LEAST).then(|| (count - from) / elapsed.as_secs_f64() * 60.0)
    }

    /// By how much more it grows in a minute than before the work. `usual` is how much it grew in a minute in all the time
    /// before our first look: where the baseline begins.
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
    async fn it_is_told_over_the_last_minute_and_not_over_an_instant() {
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
        for look in 0..10 {
            rate.excess(at(start, look * 30), look as f64 * 30.0, 60.0, false);
        }
        // 60 a minute it was, and is; then three times that.
        assert_eq!(rate.excess(at(start, 300), 300.0, 99.0, true), Some(0.0));
        let busy = rate.excess(at(start, 360), 480.0, 99.0, true).unwrap();
        assert!((busy - 120.0).abs() < 1.0, "{busy}");
        // The work's own time moves no baseline, seen from after it either.
        for (seconds, count, working) in [(420, 660.0, true), (450, 750.0, false)] {
            let busy = rate.excess(at(start, seconds), count, 99.0, working).unwrap();
            assert!((busy - 120.0).abs() < 1.0, "{busy}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_look_at_rest_what_was_usual_for_the_server_stands_in() {
        let start = Instant::now();
        let mut rate = CounterRate::default();
        assert_eq!(rate.excess(at(start, 0), 100.0, 6.0, true), None);
        assert_eq!(rate.excess(at(start, 60), 110.0, 99.0, true), Some(4.0));
    }
}
