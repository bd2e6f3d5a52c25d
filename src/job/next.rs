//! What would let a job go on, where that takes somebody.

/// For a person to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Resume,
    Approve,
    /// The switch for all jobs.
    ResumeAll,
    /// None runs.
    StartDaemon,
    /// None that runs serves the job's role.
    ServeRole,
    /// It failed, and keeps its place.
    FixAndRetry,
}

impl Next {
    /// Nothing for a job that waits for what comes by itself.
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
