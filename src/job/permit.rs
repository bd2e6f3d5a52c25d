//! The permit with which the throttle admits and limits the next batch.

use std::time::Duration;

/// The permission to run one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    /// Maximum number of rows that the batch may scan, at least 1.
    pub max_rows: u32,
    /// Target duration of the batch. The throttle compares the actual duration with the target to
    /// set the size of the next batch.
    pub target: Duration,
}
