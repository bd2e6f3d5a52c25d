//! What the throttle allows the walk: how large its next batch may be.

use std::time::Duration;

/// The leave to run one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    /// Rows that the batch may scan; at least 1.
    pub max_rows: u32,
    /// How long the batch should take. How long it did take is compared with this to size the next
    /// one.
    pub target: Duration,
}
