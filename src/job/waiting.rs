//! The reasons for which the throttle makes a job wait or slows it down, and the report that a
//! slice sends about its rate and these reasons.

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

impl WaitingReason {
    /// Returns the value of `throttled_by` while this reason slows a job down.
    pub fn throttles_as(self) -> &'static str {
        match self {
            Self::Slot | Self::Archiver | Self::Vacuum => Self::Signal.as_str(),
            reason => reason.as_str(),
        }
    }
}

/// The report that a slice sends with its heartbeat. At most one of `waiting` and `throttled` is
/// set.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Rows that the walk scanned per second, over the last few seconds.
    pub rows_per_second: f64,
    /// The same rate, averaged over about a minute. None in the first seconds of the walk.
    pub steady_rows_per_second: Option<f64>,
    /// The share of the last seconds in which batches ran, 0 to 1.
    pub time_share: f64,
    /// A value of `waiting_reason`, and a sentence.
    pub waiting: Option<(String, String)>,
    /// A value of `throttled_by`, and a sentence.
    pub throttled: Option<(String, String)>,
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
