//! Writes the throttle's log lines. The daemon logs a line:
//!
//! - when a signal begins to hold jobs, and when it no longer holds them;
//! - when a load gauge reaches its limit, and when it has fallen well below the limit;
//! - when reading or publishing the signals begins to fail, when the kind of the failure changes,
//!   and when the operation succeeds again.

use std::collections::BTreeSet;

use tracing::{info, warn};

use crate::error::{Kind, Result};
use crate::throttle::measure::readings::{Reading, ReadingId};
use crate::throttle::measure::signal::SignalKind;
use crate::throttle::snapshot::Snapshot;

/// A load gauge that has reached its limit counts as over its limit until its value falls below
/// this share of the limit. Otherwise a gauge that stays near its limit would be logged each time
/// its value crosses the limit.
const NO_LONGER_OVER: f64 = 0.7;

#[derive(Debug)]
pub struct TransitionLog {
    /// The load gauges that reached their limit and have not fallen below [`NO_LONGER_OVER`] since
    /// then.
    over: BTreeSet<ReadingId>,
}

impl TransitionLog {
    pub fn new() -> Self {
        Self { over: BTreeSet::new() }
    }

    /// Returns the load gauges that have reached their limit and have not fallen well below it
    /// since.
    pub fn over(&self) -> &BTreeSet<ReadingId> {
        &self.over
    }

    pub fn observe(&mut self, before: &Snapshot, after: &Snapshot) {
        self.log_holds(before, after);
        self.log_load(&after.readings.list);
    }

    fn log_holds(&self, before: &Snapshot, after: &Snapshot) {
        let holding = |snapshot: &Snapshot, reading: &Reading| {
            let same = |r: &&Reading| (r.signal, &r.source) == (reading.signal, &reading.source);
            let there = snapshot.readings.list.iter().find(same);
            there.is_some_and(|reading| snapshot.verdict.hold_at_any_age(reading).is_some())
        };
        for reading in &after.readings.list {
            let Some(reason) = after.verdict.hold_at_any_age(reading) else { continue };
            if !holding(before, reading) {
                warn!(
                    signal.name = reading.signal.as_str(),
                    signal.source = &reading.source,
                    signal.limit = reading.limit,
                    "work held: {reason}"
                );
            }
        }
        for reading in &before.readings.list {
            if before.verdict.hold_at_any_age(reading).is_some() && !holding(after, reading) {
                info!(
                    signal.name = reading.signal.as_str(),
                    signal.source = &reading.source,
                    signal.limit = reading.limit,
                    "signal no longer holds jobs"
                );
            }
        }
    }

    fn log_load(&mut self, list: &[Reading]) {
        let mut over = BTreeSet::new();
        for reading in list.iter().filter(|reading| reading.kind == SignalKind::Load) {
            let was = self.over.contains(&reading.id());
            // A gauge that cannot be read keeps its previous state.
            let is = match reading.utilization() {
                Some(utilization) => utilization >= if was { NO_LONGER_OVER } else { 1.0 },
                None => was,
            };
            match (was, is) {
                (false, true) => warn!(
                    signal.name = reading.signal.as_str(),
                    signal.source = &reading.source,
                    signal.limit = reading.limit,
                    "work slowed down: {}",
                    reading.describe()
                ),
                (true, false) => info!(
                    signal.name = reading.signal.as_str(),
                    signal.source = &reading.source,
                    signal.limit = reading.limit,
                    "signal is well below its limit again"
                ),
                _ => {}
            }
            if is {
                over.insert(reading.id());
            }
        }
        self.over = over;
    }
}

/// Logs the failures of one operation. Writes one line when the operation begins to fail, one when
/// the kind of failure changes, and one when the operation succeeds again.
#[derive(Debug)]
pub struct OutageLog {
    what: &'static str,
    failing: Option<Kind>,
}

impl OutageLog {
    pub fn new(what: &'static str) -> Self {
        Self { what, failing: None }
    }

    pub fn observe<T>(&mut self, outcome: &Result<T>) {
        let what = self.what;
        match (self.failing, outcome) {
            (None, Ok(_)) => {}
            (Some(_), Ok(_)) => info!("can {what} again"),
            (was, Err(error)) if was == Some(error.kind) => {}
            (_, Err(error)) => warn!(error = %error.message, hint = error.hint, "could not {what}"),
        }
        self.failing = outcome.as_ref().err().map(|error| error.kind);
    }
}
