//! What the controller needs to know beside the readings, and what both of its laws share.

use std::time::Duration;

use tokio::time::Instant;

use crate::throttle::measure::readings::Reading;

/// Not 0: a trickle of work keeps WAL flowing, without which a standby does not report its position
/// again.
pub const LEAST_DUTY_CYCLE: f64 = 0.005;
/// Samples that are further apart say nothing about how fast a budget moves.
pub const GAP: Duration = Duration::from_secs(3);

/// What is known beside the readings when the pace is set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Circumstances {
    pub now: Instant,
    /// Whether batches run at all: an idle daemon learns nothing about what its work would do.
    pub working: bool,
    /// The mean duty cycle that budgets allow the other daemons at work on this database; none if
    /// there are none.
    pub other_daemons: Option<f64>,
}

/// How near a reading is to its limit, or will be; infinite if it can't be read.
pub fn pressure(reading: &Reading) -> f64 {
    reading.pressure().unwrap_or(f64::INFINITY)
}
