//! Readings: one sample of each signal, with its age.
//!
//! The one rule that everything here serves: a signal that can't be read is not a healthy signal. A
//! budget without a value, or with one that is too old, holds the work and says why.

use std::time::Duration;

use tokio::time::Instant;

use crate::job::waiting::Waiting;
use crate::throttle::measure::autovacuum::Vacuums;
use crate::throttle::measure::signal::{Signal, SignalKind};

/// A budget reading older than this is stale. At rest the poller polls once a second, so this
/// leaves the server one whole second to answer. With the default lag limit of 1 s, a higher value
/// would let the work pass the limit unnoticed.
pub const MAX_AGE: Duration = Duration::from_secs(2);

/// Which reading: its signal and its source.
pub type ReadingId = (Signal, String);

/// One sample of one signal from one source.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub signal: Signal,
    /// What was sampled: for replica lag the replica, for a slot the slot.
    pub source: String,
    pub kind: SignalKind,
    /// In the signal's base unit; none if it could not be read.
    pub value: Option<f64>,
    pub limit: f64,
    /// What the value will become because of what is being written now, in the same unit, if that
    /// is known.
    pub forecast: Option<f64>,
    pub at: Instant,
    /// A reading older than this is stale.
    pub max_age: Duration,
    /// Holds the work whatever its value: it could not be read and must be, or the source itself
    /// said hold.
    pub must_hold: bool,
    /// Why it could not be read, or what the source itself said.
    pub note: Option<String>,
}

impl Reading {
    pub fn id(&self) -> ReadingId {
        (self.signal, self.source.clone())
    }

    /// A budget that was read.
    pub fn budget(signal: Signal, source: &str, value: f64, limit: f64, at: Instant) -> Self {
        let source = source.to_owned();
        Self {
            signal,
            source,
            kind: SignalKind::Budget,
            value: Some(value),
            limit,
            forecast: None,
            at,
            max_age: MAX_AGE,
            must_hold: false,
            note: None,
        }
    }

    /// The same, with what its value will become.
    pub fn with_forecast(self, forecast: Option<f64>) -> Self {
        Self { forecast, ..self }
    }

    /// A budget that can't be read now: it holds, as `note` says.
    pub fn unreadable(signal: Signal, source: &str, limit: f64, at: Instant, note: String) -> Self {
        let source = source.to_owned();
        Self {
            signal,
            source,
            kind: SignalKind::Budget,
            value: None,
            limit,
            forecast: None,
            at,
            max_age: MAX_AGE,
            must_hold: true,
            note: Some(note),
        }
    }

    /// Value over limit; none if there is no value. A limit of 0 means that nothing at all is
    /// allowed.
    pub fn utilization(&self) -> Option<f64> {
        self.value.and_then(|value| self.share(value))
    }

    /// The same of what it will become, if that is more.
    pub fn pressure(&self) -> Option<f64> {
        let now = self.utilization()?;
        Some(self.forecast.and_then(|forecast| self.share(forecast)).map_or(now, |later| later.max(now)))
    }

    fn share(&self, value: f64) -> Option<f64> {
        if self.kind == SignalKind::Shown {
            return None;
        }
        let value = Some(value).filter(|value| !value.is_nan())?.max(0.0);
        if self.limit > 0.0 { Some(value / self.limit) } else { Some(if value > 0.0 { f64::INFINITY } else { 0.0 }) }
    }

    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at)
    }

    pub fn is_stale(&self, now: Instant) -> bool {
        self.age(now) > self.max_age
    }

    /// Why no batch may start because of this reading alone, whatever the controller remembers;
    /// none if it lets the work go on.
    pub fn hold(&self, now: Instant) -> Option<String> {
        let text = || self.note.clone().unwrap_or_else(|| self.describe());
        if self.kind != SignalKind::Budget {
            return self.must_hold.then(text);
        }
        if self.is_stale(now) {
            let age = self.age(now).as_secs_f64();
            return Some(format!("{} of {} has not been read for {age:.1} s", self.signal.as_str(), self.source));
        }
        let within = self.utilization().is_some_and(|utilization| utilization < 1.0);
        (!within || self.must_hold).then(text)
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
            Signal::ActiveSessions if *source == OTHER_SESSIONS_ACTIVE => "others are at work on the server".to_owned(),
            Signal::ActiveSessions => format!("{value} other sessions are active"),
            Signal::ProbeLatency => format!("a statement takes {value} longer because of the work"),
            Signal::OldestXmin => format!("the oldest snapshot is {value} transactions old"),
            Signal::Checkpoints => format!("{value} checkpoints are requested a minute"),
            Signal::StatementTime => format!("the application's statements take {value} times as long as before"),
            Signal::Rollbacks => format!("{value} rollbacks a minute more than before"),
            Signal::Deadlocks => format!("{value} deadlocks a minute more than before"),
            Signal::User => format!("signal {source} is {value}"),
        };
        if self.kind == SignalKind::Shown { what } else { format!("{what} (limit {limit})") }
    }
}

/// All readings of one database, as of the last attempt to poll it.
#[derive(Debug, Clone, Default)]
pub struct Readings {
    /// When the database last answered; none before its first answer. An empty `list` is good news
    /// only while this is fresh.
    pub sampled_at: Option<Instant>,
    /// Why the last poll failed; none if it did not.
    pub failure: Option<String>,
    pub list: Vec<Reading>,
    /// The tables on which autovacuum runs.
    pub vacuums: Vacuums,
    /// A signal that holds the work while it can't be read, and that has not been read since the
    /// work began.
    pub unread: Option<Waiting>,
}

/// The source of the reading of [`Signal::ActiveSessions`] that is above 0 while other sessions are
/// active on the server. The value is public: it is what `backfill.signals` shows.
pub const OTHER_SESSIONS_ACTIVE: &str = "company";

impl Readings {
    /// Whether other sessions are active on the server. If that can't be read it is taken to be so;
    /// if it is not measured at all, it is taken not to be.
    pub fn other_sessions_active(&self) -> bool {
        let mut measured = self.list.iter().filter(|reading| reading.signal == Signal::ActiveSessions).peekable();
        measured.peek().is_some()
            && measured
                .find(|reading| reading.source == OTHER_SESSIONS_ACTIVE)
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
    async fn a_value_that_is_not_a_number_holds() {
        let at = Instant::now();
        assert!(Reading::budget(Signal::ReplicaLagBytes, "s1", f64::NAN, 1.0, at).hold(at).is_some());
        assert!(Reading::budget(Signal::ReplicaLagBytes, "s1", 1.0, 0.0, at).hold(at).is_some());
        assert!(Reading::budget(Signal::ReplicaLagBytes, "s1", 0.0, 0.0, at).hold(at).is_none());
    }
}
