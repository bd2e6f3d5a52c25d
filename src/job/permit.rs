//! The permit by which the throttle limits the next batch.

use std::time::Duration;

/// The permission to run one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    /// Rows that the batch may scan, at least 1.
    pub max_rows: u32,
    /// How long the batch should take. The time that it did take is compared with this to size the
    /// next one.
    pub target: Duration,
}
