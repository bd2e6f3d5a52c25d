//! A batch and what became of it.

use std::time::Duration;

use crate::job::checkpoint::Checkpoint;
use crate::job::claim::Desired;
use crate::key::Key;

/// What the walk wants done next: the rows after the checkpoint, at most `rows` of them, none beyond `upper`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub checkpoint: Checkpoint,
    pub upper: Key,
    /// Rows to scan, at least 1.
    pub rows: u32,
    pub mode: BatchMode,
}

impl Batch {
    /// The key after which the batch begins; none at the start of the table.
    pub fn from(&self) -> Option<&Key> {
        self.checkpoint.position.as_ref()
    }
}

/// How a batch treats rows that are locked, or that a trigger leaves unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BatchMode {
    /// It waits for locked rows, and expects that each row which it finds is changed.
    Fast,
    /// It defers locked rows, and quarantines those that a trigger leaves unchanged.
    PerRow,
}

/// What one batch did, from its own statement's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub checkpoint: Checkpoint,
    pub scanned: u64,
    pub changed: u64,
    /// Rows that other sessions have locked, to be retried.
    pub deferred: u64,
    /// Rows that can't be changed: kept with their error.
    pub quarantined: u64,
    /// How long the server worked on it: as long as others may have waited behind it.
    pub took: Duration,
    pub desired: Desired,
    pub revision: i32,
}

/// What became of deferred rows that were retried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryOutcome {
    /// Where the checkpoint's row is now; its position does not change.
    pub ctid: String,
    pub changed: u64,
    /// Still locked, and still deferred.
    pub deferred: u64,
    pub quarantined: u64,
    pub desired: Desired,
    pub revision: i32,
}
