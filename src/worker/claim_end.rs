//! The results of a claim and of each step of a claim.

use std::time::SystemTime;

use crate::job::put_off::PutOff;
use crate::job::state::State;

/// How a claim ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimEnd {
    /// The worker has passed all rows of the slice. Some of them may still be deferred.
    Passed,
    /// The worker stored a plan, the slices of a new leaf, or the two halves of a slice. This ended
    /// the claim. The value is the state of the job, because planning an empty table also ends the
    /// job.
    Planned(Option<State>),
    /// The worker must release the slice, for one of these reasons:
    ///
    /// - The job should no longer run (pause, cancel, or a pause of all jobs).
    /// - The daemon is shutting down.
    /// - The daemon's own window is closed.
    /// - The role of the job holds more than its share of the workers, and slices of other roles
    ///   wait.
    Stopped,
    /// The job's window is closed until the given time.
    Closed(SystemTime),
    /// The slice failed temporarily. The worker releases the slice, which cannot be claimed again
    /// until the given pause is over.
    PutOff(PutOff),
    /// The worker no longer holds the slice, or the slice's lease may have expired. The worker
    /// releases nothing.
    Lost,
}

/// Result of one step of a claim: the claim continues or ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Continue,
    End(ClaimEnd),
}

impl From<Option<ClaimEnd>> for Step {
    fn from(end: Option<ClaimEnd>) -> Self {
        end.map_or(Self::Continue, Self::End)
    }
}
