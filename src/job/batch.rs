//! A batch and its outcome.

use std::time::Duration;

use crate::job::checkpoint::Checkpoint;
use crate::job::claim::Desired;
use crate::key::Key;

/// The next batch of a walk: at most `rows` rows after the checkpoint, up to and including `upper`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub checkpoint: Checkpoint,
    pub upper: Key,
    /// Maximum number of rows to scan, at least 1.
    pub rows: u32,
    pub mode: BatchMode,
}

impl Batch {
    /// Returns the key after which the batch begins, or none at the start of the table.
    pub fn from(&self) -> Option<&Key> {
        self.checkpoint.position.as_ref()
    }
}

/// How a batch handles rows that are locked, and rows that a trigger leaves unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BatchMode {
    /// The batch waits for locked rows and expects to change each row that it finds.
    Fast,
    /// The batch defers locked rows and quarantines rows that a trigger leaves unchanged.
    PerRow,
}

/// The result of one batch, as the batch's statement returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub checkpoint: Checkpoint,
    pub scanned: u64,
    pub changed: u64,
    /// The number of rows that were deferred because other sessions have locked them or wait for
    /// them. The worker retries these rows later.
    pub deferred: u64,
    /// The number of rows that cannot be changed. Their keys and errors are recorded in
    /// `row_errors`.
    pub quarantined: u64,
    /// The time that the server spent on the batch. Another session may have waited all this time
    /// for a lock that the batch held.
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
    /// The number of rows that are still locked and therefore still deferred.
    pub deferred: u64,
    pub quarantined: u64,
    pub desired: Desired,
    pub revision: i32,
}
