//! Slices that cannot continue for now. The worker releases such a slice for a while and claims
//! another one, instead of waiting. The daemon keeps what it has learned about the failing rows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::job::claim::Claim;
use crate::key::Key;
use crate::walk::Search;
use crate::worker::progress::Failures;

/// If more than this number of batches fail in a row, the slice is put off. Until then, the worker
/// retries after a short pause, because most failures pass within a second.
pub(super) const AFTER: u32 = 5;
/// Maximum time for which a slice is put off after a failed batch.
pub(super) const LONGEST: Duration = Duration::from_secs(1);

/// Holds the interrupted search of each slice. The workers of one database share these searches.
#[derive(Debug, Clone, Default)]
pub struct Interrupted(Arc<Mutex<HashMap<i64, Interruption>>>);

/// The state of a claim that was put off: its failures, and its search for the failing row.
#[derive(Debug)]
pub(super) struct Interruption {
    pub position: Option<Key>,
    /// A value of `waiting_reason`, and a sentence that explains it.
    pub waiting: (&'static str, String),
    pub failures: Failures,
    pub search: Search,
}

/// Number of interruptions at which all of them are forgotten. Forgetting an interruption costs
/// only a few more attempts.
const MOST_KEPT: usize = 1_000;

impl Interrupted {
    pub(super) fn keep(&self, slice: i64, interruption: Interruption) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_KEPT {
            all.clear();
        }
        all.insert(slice, interruption);
    }

    /// Removes and returns the interruption of the claim's slice. Returns none if the slice has
    /// advanced since the interruption, because the interruption's counts belong to other rows.
    pub(super) fn take(&self, claim: &Claim) -> Option<Interruption> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&claim.slice_id);
        kept.filter(|kept| kept.position == claim.checkpoint.position)
    }
}
