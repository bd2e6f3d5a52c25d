//! Counts the time for which batches had to wait, separately for each reason. The metric
//! `backfilld_hold_seconds_total` shows these times.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::job::waiting::WaitingReason;
use crate::metrics;

/// The hold time of one database. All clones share the same counters.
#[derive(Debug, Clone)]
pub struct HoldTime {
    database: String,
    /// Microseconds of waiting for each reason. Most waits are shorter than 1 s, and a metrics
    /// counter takes only whole numbers. If each wait were counted in whole seconds, most of the
    /// waiting time would be lost.
    micros: Arc<[AtomicU64; WaitingReason::ALL.len()]>,
}

impl HoldTime {
    /// Creates the counters. `database` is the database's name in the configuration, for the label.
    pub fn new(database: String) -> Self {
        Self { database, micros: Arc::default() }
    }

    /// Adds time in which a slice waited because of `reason`. The times of concurrent slices are
    /// added together.
    pub fn add(&self, reason: WaitingReason, held: Duration) {
        let add = u64::try_from(held.as_micros()).unwrap_or(u64::MAX);
        let micros = self.micros[reason as usize].fetch_add(add, Ordering::Relaxed) + add;
        metrics::held(&self.database, reason.as_str(), micros / 1_000_000);
    }
}
