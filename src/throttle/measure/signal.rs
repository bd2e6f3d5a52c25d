//! What is measured: the signals by name, and how each counts.

use crate::job::waiting::WaitingReason;

/// What is measured. The names are those of `backfill.signals` and of the label `signal`.
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
    /// One of the user's own.
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

    /// The signal with this name.
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

    /// The value of `waiting_reason` while this signal holds the work or slows it down.
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

    /// A value with its unit, for people.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::ReplicaLagSeconds => format!("{value:.1} s"),
            Self::ReplicaLagBytes | Self::Slot => format!("{:.1} MiB", value / f64::from(1 << 20)),
            Self::Archiver => format!("{value:.0} s"),
            Self::Checkpoints | Self::StatementTime | Self::Rollbacks | Self::Deadlocks => {
                format!("{}", (value * 10.0).round() / 10.0)
            }
            Self::ProbeLatency => format!("{:.0}%", value * 100.0),
            Self::LockWaits | Self::ActiveSessions | Self::OldestXmin | Self::User => format!("{value}"),
        }
    }
}

/// How a signal counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalKind {
    /// Hard: at its limit, or while it can't be read, it holds the work.
    Budget,
    /// Soft: it steers the duty cycle. While it can't be read the duty cycle stays as it is; but
    /// one of the user's own then holds the work.
    Load,
    /// It has no limit: its value is shown, and has no effect.
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
