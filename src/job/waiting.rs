//! The reasons for which the throttle makes a job wait or slows it down.

use std::fmt;

/// The values of `waiting_reason` that the throttle can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WaitingReason {
    ReplicaLag,
    Slot,
    Archiver,
    LockWaits,
    Load,
    Signal,
    Rate,
    Vacuum,
}

impl WaitingReason {
    pub const ALL: [Self; 8] = [
        Self::ReplicaLag,
        Self::Slot,
        Self::Archiver,
        Self::LockWaits,
        Self::Load,
        Self::Signal,
        Self::Rate,
        Self::Vacuum,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReplicaLag => "replica_lag",
            Self::Slot => "slot",
            Self::Archiver => "archiver",
            Self::LockWaits => "lock_waits",
            Self::Load => "load",
            Self::Signal => "signal",
            Self::Rate => "rate",
            Self::Vacuum => "vacuum",
        }
    }
}

impl fmt::Display for WaitingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A reason, and the text that explains to the user why the job waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub reason: WaitingReason,
    pub text: String,
}

impl Waiting {
    pub fn new(reason: WaitingReason, text: String) -> Self {
        Self { reason, text }
    }
}
