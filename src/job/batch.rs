//! A batch and its outcome.

use std::time::Duration;

use crate::job::checkpoint::Checkpoint;
use crate::job::claim::Desired;
use crate::key::Key;

/// The next work of a walk: the rows after the checkpoint, at most `rows` of them, none beyond
/// `upper`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub checkpoint: Checkpoint,
    pub upper: Key,
    /// Rows to scan, at least 1.
    pub rows: u32,
    pub mode: BatchMode,
}

impl Batch {
    /// Returns the key after which the batch begins, or none at the start of the table.
    pub fn from(&self) -> Option<&Key> {
        self.checkpoint.position.as_ref()
    }
}

/// The way in which a batch treats rows that are locked, or that a trigger leaves unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BatchMode {
    /// The batch waits for locked rows and expects to change each row that it finds.
    Fast,
    /// The batch defers locked rows and quarantines rows that a trigger leaves unchanged.
    PerRow,
}

/// The result of one batch, as the answer of its own statement reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub checkpoint: Checkpoint,
    pub scanned: u64,
    pub changed: u64,
    /// Rows that other sessions have locked, which are retried later.
    pub deferred: u64,
    /// Rows that can't be changed, which are kept with their error.
    pub quarantined: u64,
    /// How long the server worked on the batch, which is how long other sessions may have waited
    /// for it.
    pub took: Duration,
    pub desired: Desired,
    pub revision: i32,
}

/// The result of a retry of deferred rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryOutcome {
    /// The physical position (`ctid`) of the checkpoint's row after the retry. The position of the
    /// walk does not change.
    pub ctid: String,
    pub changed: u64,
    /// Rows that are still locked and therefore still deferred.
    pub deferred: u64,
    pub quarantined: u64,
    pub desired: Desired,
    pub revision: i32,
}
