//! The controller's inputs other than the readings, and the items that both control laws use.

use std::time::Duration;

use tokio::time::Instant;

use crate::throttle::measure::readings::Reading;

/// Minimum duty cycle. The value is above 0, because a standby does not report its position again
/// without new WAL. A small amount of work produces this WAL.
pub const LEAST_DUTY_CYCLE: f64 = 0.005;
/// Maximum time between two samples from which the change of a budget is computed. Samples that are
/// further apart do not show how fast a budget changes.
pub const GAP: Duration = Duration::from_secs(3);

/// The controller's inputs other than the readings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Circumstances {
    pub now: Instant,
    /// Whether batches run. Without batches, the daemon cannot measure how its work affects the
    /// server.
    pub working: bool,
    /// Mean duty cycle that budgets allow the other active daemons on this database. None if there
    /// are no such daemons.
    pub other_daemons: Option<f64>,
}

/// Returns the present or the forecast utilization of a reading, whichever is higher. Returns
/// infinity if the reading has no value.
pub fn pressure(reading: &Reading) -> f64 {
    reading.pressure().unwrap_or(f64::INFINITY)
}
