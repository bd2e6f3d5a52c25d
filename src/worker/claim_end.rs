//! How a claim, or a step of it, ends.

use std::time::SystemTime;

use crate::job::state::State;

/// How a claim ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimEnd {
    /// The slice is at its end.
    Passed,
    /// A plan, or a slice cut in two, was stored; the claim ended with it, and for an empty table the job.
    Planned(Option<State>),
    /// A pause, a cancel or a shutdown: the slice is released.
    Stopped,
    /// The job's window is closed until then.
    Closed(SystemTime),
    /// The lease ran out. Nothing is left to release.
    Lost,
}

/// What follows a step of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Continue,
    End(ClaimEnd),
}

impl From<Option<ClaimEnd>> for Step {
    fn from(end: Option<ClaimEnd>) -> Self {
        end.map_or(Self::Continue, Self::End)
    }
}
