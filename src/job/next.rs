//! The action of an operator that lets a job continue, if it needs one.

/// The action of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Resume,
    Approve,
    /// All jobs are paused by the switch; it has to be reset.
    ResumeAll,
    /// No daemon is running.
    StartDaemon,
    /// No running daemon serves the job's role.
    ServeRole,
    /// The job has failed and keeps its position.
    FixAndRetry,
}

impl Next {
    /// Returns the action, or none for a job that waits for something that happens without an
    /// operator.
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
