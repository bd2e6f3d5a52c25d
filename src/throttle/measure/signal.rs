//! The names of the signals, and the effect of each kind of signal.

use crate::job::waiting::WaitingReason;
use crate::text;

/// The signals. Their names appear in `backfill.signals` and in the label `signal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    ReplicaLagSeconds,
    ReplicaLagBytes,
    Slot,
    Archiver,
    LockWaits,
    ActiveSessions,
    ProbeLatency,
    OldestXmin,
    Checkpoints,
    StatementTime,
    Rollbacks,
    Deadlocks,
    /// A signal that the user defined.
    User,
}

impl Signal {
    pub const ALL: [Self; 13] = [
        Self::ReplicaLagSeconds,
        Self::ReplicaLagBytes,
        Self::Slot,
        Self::Archiver,
        Self::LockWaits,
        Self::ActiveSessions,
        Self::ProbeLatency,
        Self::OldestXmin,
        Self::Checkpoints,
        Self::StatementTime,
        Self::Rollbacks,
        Self::Deadlocks,
        Self::User,
    ];

    /// Returns the signal with this name.
    pub fn read(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.as_str() == name)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReplicaLagSeconds => "replica_lag_seconds",
            Self::ReplicaLagBytes => "replica_lag_bytes",
            Self::Slot => "slot",
            Self::Archiver => "archiver",
            Self::LockWaits => "lock_waits",
            Self::ActiveSessions => "active_sessions",
            Self::ProbeLatency => "probe_latency",
            Self::OldestXmin => "oldest_xmin",
            Self::Checkpoints => "checkpoints",
            Self::StatementTime => "statement_time",
            Self::Rollbacks => "rollbacks",
            Self::Deadlocks => "deadlocks",
            Self::User => "signal",
        }
    }

    /// Returns the value that `waiting_reason` has while this signal holds jobs or slows them down.
    pub fn waiting_reason(self) -> WaitingReason {
        match self {
            Self::ReplicaLagSeconds | Self::ReplicaLagBytes => WaitingReason::ReplicaLag,
            Self::Slot => WaitingReason::Slot,
            Self::Archiver => WaitingReason::Archiver,
            Self::LockWaits => WaitingReason::LockWaits,
            Self::ActiveSessions
            | Self::ProbeLatency
            | Self::OldestXmin
            | Self::Checkpoints
            | Self::StatementTime
            | Self::Rollbacks
            | Self::Deadlocks => WaitingReason::Load,
            Self::User => WaitingReason::Signal,
        }
    }

    /// Formats a value for display, with its unit if it has one.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::ReplicaLagSeconds => format!("{} s", text::fixed(value, 1)),
            Self::ReplicaLagBytes | Self::Slot => format!("{} MiB", text::fixed(value / f64::from(1 << 20), 1)),
            Self::Archiver => format!("{} s", text::fixed(value, 0)),
            Self::ProbeLatency => format!("{}%", text::fixed(value * 100.0, 0)),
            Self::LockWaits
            | Self::ActiveSessions
            | Self::OldestXmin
            | Self::Checkpoints
            | Self::StatementTime
            | Self::Rollbacks
            | Self::Deadlocks
            | Self::User => text::figure(value),
        }
    }
}

/// Effect of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalKind {
    /// Hard limit. Near the limit, the signal slows jobs down. It holds jobs if its value reaches
    /// the limit, or while the value cannot be read.
    Budget,
    /// Soft limit. The signal changes the duty cycle. While the value cannot be read, a signal that
    /// the user defined holds jobs, and a built-in signal is ignored. While no load signal can be
    /// read, the duty cycle stays the same.
    Load,
    /// No limit. The value is shown and has no effect. The exception is the source `other_load`,
    /// which tells whether there is other load.
    Shown,
}

impl SignalKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Load => "load",
            Self::Shown => "shown",
        }
    }
}
