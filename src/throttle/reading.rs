//! What a signal says, how old that is, and whether it is healthy.
//!
//! The one rule that everything here serves: a signal that can't be read is not a healthy signal. A budget without
//! a value, or with one that is too old, holds the work and says why.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::controller::Pace;
use super::vacuum::Vacuums;

/// A budget reading older than this is stale. At rest the sampler looks once a second, so this leaves it one whole
/// second to answer; with the default lag limit of 1 s more would be flying blind past the limit.
pub const MAX_AGE: Duration = Duration::from_secs(2);

/// What is sampled. The names are those of `backfill.signals` and of the label `signal`.
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
    /// Of the user's own.
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

    /// By its name.
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

    /// The word for it in `waiting_reason`.
    pub fn reason(self) -> Reason {
        match self {
            Self::ReplicaLagSeconds | Self::ReplicaLagBytes => Reason::ReplicaLag,
            Self::Slot => Reason::Slot,
            Self::Archiver => Reason::Archiver,
            Self::LockWaits => Reason::LockWaits,
            Self::ActiveSessions
            | Self::ProbeLatency
            | Self::OldestXmin
            | Self::Checkpoints
            | Self::StatementTime
            | Self::Rollbacks
            | Self::Deadlocks => Reason::Load,
            Self::User => Reason::Signal,
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

/// The words of `waiting_reason` that the throttle can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    ReplicaLag,
    Slot,
    Archiver,
    LockWaits,
    Load,
    Signal,
    Rate,
    Vacuum,
}

impl Reason {
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

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a signal counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Hard: over its limit, or unreadable, it holds the work.
    Budget,
    /// Soft: it steers the rate, and an unreadable one keeps the rate as it is; but one of the user's own holds then.
    Load,
    /// It has no limit: its value is shown, and nothing follows from it.
    Shown,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Load => "load",
            Self::Shown => "shown",
        }
    }
}

/// One sample of one signal from one source.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub signal: Signal,
    /// Whose: for replica lag the replica.
    pub source: String,
    pub kind: Kind,
    /// In the signal's base unit; none if it could not be read.
    pub value: Option<f64>,
    pub limit: f64,
    /// What the value will become by what is written now, in its unit, where that is known.
    pub forecast: Option<f64>,
    pub at: Instant,
    /// Older than this it is stale.
    pub max_age: Duration,
    pub holding: bool,
    /// Why it holds; always there while `holding`.
    pub reason: Option<String>,
}

impl Reading {
    /// A budget that was read. Whether it holds is for [`super::controller::Hysteresis`] to say.
    pub fn budget(signal: Signal, source: &str, value: f64, limit: f64, at: Instant) -> Self {
        let source = source.to_owned();
        Self {
            signal,
            source,
            kind: Kind::Budget,
            value: Some(value),
            limit,
            forecast: None,
            at,
            max_age: MAX_AGE,
            holding: false,
            reason: None,
        }
    }

    /// The same, with what it will become.
    pub fn becoming(self, forecast: Option<f64>) -> Self {
        Self { forecast, ..self }
    }

    /// A budget that can't be read now: it holds, for `reason`.
    pub fn unreadable(signal: Signal, source: &str, limit: f64, at: Instant, reason: String) -> Self {
        let source = source.to_owned();
        Self {
            signal,
            source,
            kind: Kind::Budget,
            value: None,
            limit,
            forecast: None,
            at,
            max_age: MAX_AGE,
            holding: true,
            reason: Some(reason),
        }
    }

    /// Value over limit; none if there is no value. A limit of 0 means that nothing at all is allowed.
    pub fn utilization(&self) -> Option<f64> {
        self.value.and_then(|value| self.share(value))
    }

    /// The same of what it will become, if that is more.
    pub fn pressure(&self) -> Option<f64> {
        let now = self.utilization()?;
        Some(self.forecast.and_then(|forecast| self.share(forecast)).map_or(now, |later| later.max(now)))
    }

    fn share(&self, value: f64) -> Option<f64> {
        if self.kind == Kind::Shown {
            return None;
        }
        let value = Some(value).filter(|value| !value.is_nan())?.max(0.0);
        if self.limit > 0.0 { Some(value / self.limit) } else { Some(if value > 0.0 { f64::INFINITY } else { 0.0 }) }
    }

    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at)
    }

    /// Why no batch may start because of this reading; none if it lets the work go on.
    pub fn hold(&self, now: Instant) -> Option<String> {
        if self.kind != Kind::Budget {
            return self.holding.then(|| self.reason.clone().unwrap_or_else(|| self.describe()));
        }
        if self.age(now) > self.max_age {
            let age = self.age(now).as_secs_f64();
            return Some(format!("{} of {} has not been read for {age:.1} s", self.signal.as_str(), self.source));
        }
        match self.utilization() {
            Some(utilization) if utilization < 1.0 && !self.holding => None,
            _ => Some(self.reason.clone().unwrap_or_else(|| self.describe())),
        }
    }

    /// The value against its limit in words.
    pub fn describe(&self) -> String {
        let (source, limit) = (&self.source, self.signal.show(self.limit));
        let Some(value) = self.value else { return format!("{} of {source} can't be read", self.signal.as_str()) };
        let value = self.signal.show(value);
        let what = match self.signal {
            Signal::ReplicaLagSeconds | Signal::ReplicaLagBytes => format!("{source} is {value} behind"),
            Signal::Slot => format!("slot {source} keeps {value} of WAL"),
            Signal::Archiver => format!("WAL has waited {value} for the archiver"),
            Signal::LockWaits => format!("{value} sessions wait for locks"),
            Signal::ActiveSessions if *source == COMPANY => "others are at work on the server".to_owned(),
            Signal::ActiveSessions => format!("{value} other sessions are active"),
            Signal::ProbeLatency => format!("a statement takes {value} longer because of the work"),
            Signal::OldestXmin => format!("the oldest snapshot is {value} transactions old"),
            Signal::Checkpoints => format!("{value} checkpoints are requested a minute"),
            Signal::StatementTime => format!("the application's statements take {value} times as long as before"),
            Signal::Rollbacks => format!("{value} rollbacks a minute more than before"),
            Signal::Deadlocks => format!("{value} deadlocks a minute more than before"),
            Signal::User => format!("signal {source} is {value}"),
        };
        if self.kind == Kind::Shown { what } else { format!("{what} (limit {limit})") }
    }
}

/// All readings of one database, as of the last attempt to sample it.
#[derive(Debug, Clone, Default)]
pub struct Readings {
    /// When the database last answered; none before its first answer. An empty `list` is good news only while this
    /// is fresh.
    pub heard_at: Option<Instant>,
    /// Why the last attempt failed; none if it did not.
    pub trouble: Option<String>,
    pub list: Vec<Reading>,
    /// Where autovacuum is at work.
    pub vacuums: Vacuums,
    /// A signal that holds when it can't be read, and was not read yet since the work began.
    pub unread: Option<(Reason, String)>,
    /// What the controller made of them.
    pub pace: Pace,
    /// The duty that budgets alone leave; none without budgets.
    pub budget_duty: Option<f64>,
}

/// The source of the reading of [`Signal::ActiveSessions`] that is above 0 while anybody else is at work on the server.
pub const COMPANY: &str = "company";

impl Readings {
    /// Whether anybody else is at work on the server. Who can't tell takes it that somebody is; where nobody was asked,
    /// nobody is.
    pub fn in_company(&self) -> bool {
        let mut asked = self.list.iter().filter(|reading| reading.signal == Signal::ActiveSessions).peekable();
        asked.peek().is_some()
            && asked
                .find(|reading| reading.source == COMPANY)
                .is_none_or(|reading| reading.value.is_none_or(|value| value > 0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_old_budget_is_not_a_healthy_one() {
        let reading = Reading::budget(Signal::ReplicaLagSeconds, "s1", 0.0, 1.0, Instant::now());
        assert_eq!(reading.hold(Instant::now()), None);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(
            reading.hold(Instant::now()).as_deref(),
            Some("replica_lag_seconds of s1 has not been read for 3.0 s")
        );
    }

    #[tokio::test]
    async fn a_value_that_is_no_number_holds() {
        let at = Instant::now();
        assert!(Reading::budget(Signal::ReplicaLagBytes, "s1", f64::NAN, 1.0, at).hold(at).is_some());
        assert!(Reading::budget(Signal::ReplicaLagBytes, "s1", 1.0, 0.0, at).hold(at).is_some());
        assert!(Reading::budget(Signal::ReplicaLagBytes, "s1", 0.0, 0.0, at).hold(at).is_none());
    }
}
