//! A reading is a sample of a signal, with the age of the sample.
//!
//! All code in this module follows one rule: a signal that cannot be read does not count as
//! healthy. A budget with no value, or with a value that is too old, holds jobs and gives the
//! reason.

use std::time::Duration;

use tokio::time::Instant;

use crate::job::waiting::Waiting;
use crate::throttle::measure::autovacuum::Vacuums;
use crate::throttle::measure::signal::{Signal, SignalKind};

/// Maximum age of a reading of replica lag, and of the last poll of the primary. An older reading
/// is stale. While no job runs, the poller polls once a second, so a reading becomes stale only if
/// the next response takes longer than 1 s. With a higher maximum age, replica lag could rise far
/// above its default limit of 1 s unnoticed.
pub const MAX_AGE: Duration = Duration::from_secs(2);

/// Identifies a reading by its signal and its source.
pub type ReadingId = (Signal, String);

/// One sample of one signal from one source.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub signal: Signal,
    /// Name of the sampled object:
    ///
    /// - a replica, or `*` for all replicas whose state the daemon is not allowed to see;
    /// - the pattern of a required rule that no replica matches;
    /// - a replication slot;
    /// - a signal that the user defined;
    /// - `server` or `other_load`.
    pub source: String,
    pub kind: SignalKind,
    /// The value in the signal's base unit. None if the value could not be read.
    pub value: Option<f64>,
    pub limit: f64,
    /// Forecast in the signal's base unit: the value that the signal will reach because of WAL that
    /// has already been written. None if the forecast is not known.
    pub forecast: Option<f64>,
    pub at: Instant,
    /// Maximum age of the reading. An older reading is stale.
    pub max_age: Duration,
    /// Whether the reading holds jobs regardless of its value. True if a required value could not
    /// be read, or if the source itself requested a hold.
    pub must_hold: bool,
    /// Reason why the value could not be read, or reason for a hold that the source itself
    /// requested.
    pub note: Option<String>,
}

impl Reading {
    pub fn id(&self) -> ReadingId {
        (self.signal, self.source.clone())
    }

    /// Creates the reading of a budget whose value could be read.
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

    /// Adds a forecast to the reading: the value that the signal will reach.
    pub fn with_forecast(self, forecast: Option<f64>) -> Self {
        Self { forecast, ..self }
    }

    /// Creates the reading of a budget that cannot be read now. The reading holds jobs, with `note`
    /// as the reason.
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

    /// Returns the value divided by the limit. Returns none if there is no value, the value is not
    /// a number, or the value is only shown. With a limit of 0, each value above 0 exceeds the
    /// limit.
    pub fn utilization(&self) -> Option<f64> {
        self.value.and_then(|value| self.share(value))
    }

    /// Returns the utilization of the present value or of the forecast, whichever is higher.
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

    /// Returns the reason why this reading holds jobs, without regard to the controller's state.
    /// Returns none if the reading does not hold jobs.
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

    /// Describes the value and its limit in words.
    pub fn describe(&self) -> String {
        let (source, limit) = (&self.source, self.signal.show(self.limit));
        let Some(value) = self.value else { return format!("{} of {source} could not be read", self.signal.as_str()) };
        let value = self.signal.show(value);
        let what = match self.signal {
            Signal::ReplicaLagSeconds | Signal::ReplicaLagBytes => format!("{source} is {value} behind"),
            Signal::Slot => format!("slot {source} retains {value} of WAL"),
            Signal::Archiver => format!("WAL has been waiting for the archiver for {value}"),
            Signal::LockWaits if value == "1" => "1 session is waiting for a lock".to_owned(),
            Signal::LockWaits => format!("{value} sessions are waiting for locks"),
            Signal::ActiveSessions if *source == OTHER_SESSIONS_ACTIVE => "other sessions are active".to_owned(),
            Signal::ActiveSessions if value == "1" => "1 other session is active".to_owned(),
            Signal::ActiveSessions => format!("{value} other sessions are active"),
            Signal::ProbeLatency => format!("statement latency has risen by {value} because of backfilld"),
            Signal::OldestXmin => format!("the oldest snapshot is {value} transactions old"),
            Signal::Checkpoints => format!("{value} requested checkpoints per minute"),
            Signal::StatementTime => {
                format!("the application's statements take {value} times as long as they do when no job runs")
            }
            Signal::Rollbacks => format!("{value} more rollbacks per minute than while no job runs"),
            Signal::Deadlocks => format!("{value} more deadlocks per minute than while no job runs"),
            Signal::User => format!("signal {source} is {value}"),
        };
        if self.kind == SignalKind::Shown { what } else { format!("{what} (limit {limit})") }
    }
}

/// All readings of one database, as of the last attempt to poll it.
#[derive(Debug, Clone, Default)]
pub struct Readings {
    /// Time when the database last responded. None before the first response. If this time is
    /// recent and the field `list` contains no replica lag, the primary has no replica whose lag
    /// counts.
    pub sampled_at: Option<Instant>,
    /// Reason why the last poll failed. None if the poll succeeded.
    pub failure: Option<String>,
    pub list: Vec<Reading>,
    /// The tables on which autovacuum runs.
    pub vacuums: Vacuums,
    /// `Some` while a signal that the first batch needs has neither a value nor a failure yet.
    pub unread: Option<Waiting>,
    /// The names of replicas that disconnected and no longer cause jobs to be held.
    pub lost_replicas: Vec<String>,
}

/// The source of the reading that tells whether other sessions are active on the server. While
/// other sessions are active, the value of this reading is above 0. The signal of the reading is
/// [`Signal::ActiveSessions`]. The view `backfill.signals` shows this source, so its name is
/// public.
pub const OTHER_SESSIONS_ACTIVE: &str = "other_load";

impl Readings {
    /// Returns whether other sessions are active on the server. Returns true if this cannot be
    /// read, and false if no reading measures active sessions.
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
