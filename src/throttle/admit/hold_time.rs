//! Counts the time for which batches had to wait, separately for each reason. The metrics
//! `backfilld_hold_seconds_total` and `backfilld_throttled_seconds_total` show these times.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::job::waiting::WaitingReason;
use crate::metrics;

/// How a slice waits for its next batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// The slice is held: no batch may start, or the pause between the last batch and the next one
    /// will be longer than [`LONGEST_PAUSE`].
    Held,
    /// The slice is throttled: it pauses between two batches.
    Throttled,
}

/// Maximum pause between two batches of a slice that counts as throttled. During a longer pause,
/// the slice counts as held.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The hold time of one database. All clones share the same counters.
#[derive(Debug, Clone)]
pub struct HoldTime {
    database: String,
    /// Microseconds of waiting for each reason. Most waits are shorter than 1 s, and a metrics
    /// counter takes only whole numbers. If each wait were counted in whole seconds, most of the
    /// waiting time would be lost.
    held: Arc<Micros>,
    throttled: Arc<Micros>,
}

type Micros = [AtomicU64; WaitingReason::ALL.len()];

impl HoldTime {
    /// Creates the counters. `database` is the database's name in the configuration, for the label.
    pub fn new(database: String) -> Self {
        Self { database, held: Arc::default(), throttled: Arc::default() }
    }

    /// Adds time in which a slice was held or throttled because of `reason`. The times of
    /// concurrent slices are added together.
    pub fn add(&self, reason: WaitingReason, how: Waits, waited: Duration) {
        let add = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        let (all, name) = match how {
            Waits::Held => (&self.held, reason.as_str()),
            Waits::Throttled => (&self.throttled, reason.throttles_as()),
        };
        all[reason as usize].fetch_add(add, Ordering::Relaxed);
        // Several reasons can have the same name in `throttled_by`.
        let named = |other: &WaitingReason| {
            how == Waits::Held && *other == reason || how == Waits::Throttled && other.throttles_as() == name
        };
        let micros: u64 = WaitingReason::ALL
            .iter()
            .filter(|other| named(other))
            .map(|other| all[*other as usize].load(Ordering::Relaxed))
            .sum();
        match how {
            Waits::Held => metrics::held(&self.database, name, micros / 1_000_000),
            Waits::Throttled => metrics::throttled(&self.database, name, micros / 1_000_000),
        }
    }
}
