//! The action that an operator must take so that a job can continue.

/// The action that an operator must take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Resume,
    Approve,
    /// End the pause of all jobs.
    ResumeAll,
    /// Start a daemon, because none is running.
    StartDaemon,
    /// Start a daemon that serves the job's role, because no running daemon serves this role.
    ServeRole,
    /// Fix the cause of the failure, then retry the job.
    FixAndRetry,
}

impl Next {
    /// Returns the action, or none if no action is needed.
    pub fn of(state: &str, waiting_reason: Option<&str>) -> Option<Self> {
        match (state, waiting_reason) {
            ("paused", _) => Some(Self::Resume),
            ("failed", _) => Some(Self::FixAndRetry),
            (_, Some("approval")) => Some(Self::Approve),
            (_, Some("paused_all")) => Some(Self::ResumeAll),
            (_, Some("daemon")) => Some(Self::StartDaemon),
            (_, Some("executor")) => Some(Self::ServeRole),
            _ => None,
        }
    }
}
