//! Rows a second, over the last seconds.

use std::time::Duration;

use tokio::time::Instant;

/// Half of the weight lies on the last two seconds.
const WINDOW: Duration = Duration::from_secs(1);

/// Rows a second, below which it is none.
const LEAST: f64 = 0.01;

#[derive(Debug)]
pub struct Meter {
    since: Instant,
    rows: u64,
    rate: Option<f64>,
}

impl Meter {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self { since: Instant::now(), rows: 0, rate: None }
    }

    /// Counts rows, and returns the rate.
    pub fn count(&mut self, rows: u64) -> f64 {
        self.rows += rows;
        self.rate()
    }

    /// Rows a second now; falls while nothing is counted.
    #[allow(clippy::cast_precision_loss)]
    pub fn rate(&mut self) -> f64 {
        let elapsed = self.since.elapsed();
        if elapsed >= WINDOW {
            let last = self.rows as f64 / elapsed.as_secs_f64();
            self.rate = Some(self.rate.map_or(last, |rate| (rate + last) / 2.0));
            self.since = Instant::now();
            self.rows = 0;
        }
        // Halved each second, it would never come to nothing.
        self.rate = self.rate.map(|rate| if rate < LEAST { 0.0 } else { rate });
        self.rate.unwrap_or_else(|| self.rows as f64 / elapsed.as_secs_f64().max(0.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_steady_walk_shows_its_rate() {
        let mut meter = Meter::new();
        let mut rate = 0.0;
        for _ in 0..100 {
            tokio::time::advance(Duration::from_millis(100)).await;
            rate = meter.count(50);
        }
        assert!((490.0..510.0).contains(&rate), "{rate}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_of_a_held_walk_falls_to_nothing() {
        let mut meter = Meter::new();
        meter.count(100_000);
        for _ in 0..60 {
            tokio::time::advance(Duration::from_secs(1)).await;
            meter.rate();
        }
        assert!(meter.rate() == 0.0);
    }
}
