//! The controller's inputs other than the readings, and the constants and functions that both
//! control laws use.

use std::time::Duration;

use tokio::time::Instant;

use crate::throttle::measure::readings::Reading;

/// Minimum duty cycle. The value is above 0, so that a small amount of work still produces WAL.
/// Without new WAL, a standby reports its position only every 10 s (the default of
/// `wal_receiver_status_interval`).
pub const LEAST_DUTY_CYCLE: f64 = 0.005;
/// The law for budgets compares two samples only if they are less than this time apart. Samples
/// that are further apart do not show how fast a budget changes. All other computations treat a
/// longer time between two samples as this time.
pub const GAP: Duration = Duration::from_secs(3);

/// The controller's inputs other than the readings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Circumstances {
    pub now: Instant,
    /// Whether this daemon holds a slice. A daemon without a slice runs no batches, and cannot
    /// measure how batches affect the server.
    pub working: bool,
    /// Mean of the duty cycles that budgets allow to the other active daemons on this database.
    /// None if there are no such daemons, or if the last exchange with them failed.
    pub other_daemons: Option<f64>,
}

/// Returns the present or the forecast utilization of a reading, whichever is higher. Returns
/// infinity if the reading has no utilization.
pub fn pressure(reading: &Reading) -> f64 {
    reading.pressure().unwrap_or(f64::INFINITY)
}
