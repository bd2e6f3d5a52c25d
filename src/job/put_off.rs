//! Why a slice cannot continue for now.

use std::time::Duration;

/// Why and for how long the slice is put off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutOff {
    /// A value of `waiting_reason`, and the sentence that the status of the job shows. None while
    /// the slice waits for a free worker.
    pub waiting: Option<(&'static str, String)>,
    pub pause: Duration,
    /// Whether the claim counts as an attempt. If planning fails in too many attempts, the job
    /// fails.
    pub counts: bool,
}
