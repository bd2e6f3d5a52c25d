//! How fast a replica replays, and so how long a record that is written now will wait there.
//!
//! Lag in seconds is the age of the oldest record that was not replayed, so it shows late what
//! happens now. The bytes between the two positions, at the rate at which the replica replays them,
//! show it at once.

use std::time::Duration;

use tokio::time::Instant;

/// Seconds over which the rate is averaged.
const MEMORY: f64 = 1.0;
/// No movement for longer is a stall, and says nothing about the rate.
const STALL: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub struct ReplayRate {
    /// When it was last seen to have moved, and to where; none while it has replayed everything.
    moved: Option<(Instant, u64)>,
    /// Bytes per second while it is behind; none before it was seen to be behind.
    rate: Option<f64>,
}

impl ReplayRate {
    /// It had replayed up to `replayed`, with `backlog` bytes to go.
    pub fn observe(&mut self, at: Instant, replayed: u64, backlog: u64) {
        match self.moved {
            // One that has replayed everything waits for new records, and shows no rate.
            _ if backlog == 0 => self.moved = None,
            Some((since, from)) if replayed > from => {
                let elapsed = at.saturating_duration_since(since);
                if elapsed < STALL && !elapsed.is_zero() {
                    let rate = (replayed - from) as f64 / elapsed.as_secs_f64();
                    let weight = 1.0 - (-elapsed.as_secs_f64() / MEMORY).exp();
                    self.rate = Some(self.rate.map_or(rate, |before| before + weight * (rate - before)));
                }
                self.moved = Some((at, replayed));
            }
            Some((_, from)) if replayed == from => {}
            // The first poll while it is behind, or another server under its name.
            _ => self.moved = Some((at, replayed)),
        }
    }

    /// How long it takes to replay `backlog` bytes, in seconds; none if the rate is not known.
    pub fn drain(&self, backlog: u64) -> Option<f64> {
        self.rate.filter(|rate| *rate > 0.0).map(|rate| backlog as f64 / rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_that_of_a_replica_that_is_behind_and_moves() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut rate = ReplayRate::default();
        assert_eq!(rate.drain(500), None);
        // With nothing to replay it shows no rate.
        for tick in 0..10 {
            rate.observe(at(tick * 200), tick * 10, 0);
        }
        assert_eq!(rate.drain(500), None);
        // 1,000 bytes per second, reported in steps.
        for tick in 10..60 {
            rate.observe(at(tick * 200), tick / 2 * 400, 5000);
        }
        let drain = rate.drain(5000).unwrap();
        assert!((drain - 5.0).abs() < 0.01, "{drain}");
        // A stall, and what comes after it.
        for tick in 60..80 {
            rate.observe(at(tick * 200), 11_600, 9000);
        }
        rate.observe(at(80 * 200), 20_000, 800);
        let drain = rate.drain(5000).unwrap();
        assert!((drain - 5.0).abs() < 0.01, "{drain}");
    }
}
