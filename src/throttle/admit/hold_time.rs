//! For how long batches were held, by reason; for the metric.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::job::waiting::WaitingReason;
use crate::metrics;

/// A clone counts in the same place.
#[derive(Debug, Clone)]
pub struct HoldTime {
    database: String,
    /// Microseconds by reason, because holds are short and a counter of metrics takes whole seconds
    /// only.
    micros: Arc<[AtomicU64; WaitingReason::ALL.len()]>,
}

impl HoldTime {
    /// `database` is the name in the configuration, for the label.
    pub fn new(database: String) -> Self {
        Self { database, micros: Arc::default() }
    }

    /// Time in which a slice could have worked and was not allowed to; of several slices each
    /// counts.
    pub fn add(&self, reason: WaitingReason, held: Duration) {
        let add = u64::try_from(held.as_micros()).unwrap_or(u64::MAX);
        let micros = self.micros[reason as usize].fetch_add(add, Ordering::Relaxed) + add;
        metrics::held(&self.database, reason.as_str(), micros / 1_000_000);
    }
}
