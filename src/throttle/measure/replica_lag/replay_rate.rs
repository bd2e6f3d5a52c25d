//! Measures the rate at which a replica replays WAL, and computes the time until the replica
//! replays a WAL record that is written now. This time is the number of bytes that the replica has
//! not replayed, divided by the rate.
//!
//! Lag in seconds is the age of the oldest WAL record that has not been replayed, so it reacts late
//! to a change. The time that is computed from the replay rate reacts at once.

use std::time::Duration;

use tokio::time::Instant;

/// Seconds over which the rate is averaged.
const MEMORY: f64 = 1.0;
/// If the replay position has not moved for this time, the replica counts as stalled. A stall does
/// not change the rate.
const STALL: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub struct ReplayRate {
    /// Time when the position last moved, and the position after this move. None while the replica
    /// has replayed everything.
    moved: Option<(Instant, u64)>,
    /// Bytes per second while the replica is behind. None until the rate has been measured once.
    rate: Option<f64>,
}

impl ReplayRate {
    /// Records that the replica had replayed up to `replayed`, with `backlog` bytes left.
    pub fn observe(&mut self, at: Instant, replayed: u64, backlog: u64) {
        match self.moved {
            // A replica that has replayed everything waits for new WAL, so its position does not
            // show how fast it can replay.
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
            // Either this is the first poll while the replica is behind, or a different server now
            // uses the replica's name.
            _ => self.moved = Some((at, replayed)),
        }
    }

    /// Returns the time in seconds that the replica needs to replay `backlog` bytes. Returns none
    /// if the rate is not known.
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
        // A replica without a backlog gives no replay rate.
        for tick in 0..10 {
            rate.observe(at(tick * 200), tick * 10, 0);
        }
        assert_eq!(rate.drain(500), None);
        // The replica replays 1,000 bytes per second and reports in steps.
        for tick in 10..60 {
            rate.observe(at(tick * 200), tick / 2 * 400, 5000);
        }
        let drain = rate.drain(5000).unwrap();
        assert!((drain - 5.0).abs() < 0.01, "{drain}");
        // A stall follows, and then the replica continues.
        for tick in 60..80 {
            rate.observe(at(tick * 200), 11_600, 9000);
        }
        rate.observe(at(80 * 200), 20_000, 800);
        let drain = rate.drain(5000).unwrap();
        assert!((drain - 5.0).abs() < 0.01, "{drain}");
    }
}
