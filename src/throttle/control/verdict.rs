//! The verdict is the controller's decision about one set of readings. It determines whether a
//! batch may start at a given time.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::job::waiting::{Waiting, WaitingReason};
use crate::throttle::measure::readings::{MAX_AGE, Reading, ReadingId, Readings};
use crate::throttle::measure::signal::SignalKind;

/// Maximum duty cycle while other sessions are active. With a higher duty cycle, the pauses would
/// be too short to measure the server while none of the daemon's batches runs.
pub const MOST_BESIDE_OTHERS: f64 = 0.8;

/// The speed at which batches may run.
#[derive(Debug, Clone, PartialEq)]
pub struct Pace {
    /// Share of time in which batches may run, above 0 and at most 1. After a batch that took `d`,
    /// the slice pauses for `d * (1 / duty_cycle - 1)`.
    pub duty_cycle: f64,
    /// Reason why the duty cycle is below 1.
    pub because: Option<Waiting>,
    /// Whether other sessions are active on the server. If so, the default target time of a batch
    /// is shorter than on an otherwise idle server.
    pub other_load: bool,
}

impl Pace {
    pub const FULL: Self = Self { duty_cycle: 1.0, because: None, other_load: false };

    /// Returns whether the pace is slower than the fastest pace that is possible while other
    /// sessions are active.
    pub fn is_slowed(&self) -> bool {
        self.duty_cycle < MOST_BESIDE_OTHERS
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::FULL
    }
}

/// The controller's decision about one set of readings.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Verdict {
    pub pace: Pace,
    /// Duty cycle that budgets alone allow. None without budgets.
    pub budget_duty_cycle: Option<f64>,
    /// Budgets that hold jobs, each with its reason.
    pub holds: BTreeMap<ReadingId, String>,
}

/// Whether the next batch may start.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    Go(Pace),
    Hold(Waiting),
}

impl Verdict {
    /// Decides whether a batch may start at `now`, and at what pace. `readings` must be the
    /// readings from which the controller made this verdict.
    ///
    /// If the readings are not stale and contain no replica lag, the primary has no replica whose
    /// lag counts, so replica lag does not hold the batch.
    pub fn decide(&self, readings: &Readings, now: Instant) -> Decision {
        if let Some(text) = stale(readings, now) {
            return Decision::Hold(Waiting::new(WaitingReason::ReplicaLag, text));
        }
        if let Some(unread) = readings.unread.clone() {
            return Decision::Hold(unread);
        }
        let tightness = |reading: &Reading| reading.utilization().unwrap_or(f64::INFINITY);
        let holding = readings.list.iter().filter_map(|reading| Some((reading, self.hold(reading, now)?)));
        match holding.max_by(|(a, _), (b, _)| tightness(a).total_cmp(&tightness(b))) {
            Some((reading, text)) => Decision::Hold(Waiting::new(reading.signal.waiting_reason(), text)),
            None => Decision::Go(self.pace.clone()),
        }
    }

    /// Returns the reason for which this reading holds jobs at `now`. Returns none if this reading
    /// does not hold jobs.
    pub fn hold(&self, reading: &Reading, now: Instant) -> Option<String> {
        let by_itself = reading.hold(now);
        if reading.kind != SignalKind::Budget || reading.is_stale(now) {
            return by_itself;
        }
        self.holds.get(&reading.id()).cloned().or(by_itself)
    }

    /// Returns the same reason as [`Verdict::hold`], but ignores the age of the reading.
    pub fn hold_at_any_age(&self, reading: &Reading) -> Option<String> {
        match reading.kind {
            SignalKind::Budget => self.holds.get(&reading.id()).cloned(),
            SignalKind::Load | SignalKind::Shown => reading.must_hold.then(|| reading.note.clone().unwrap_or_default()),
        }
    }
}

/// Returns the reason why the readings as a whole cannot be used, if there is one.
fn stale(readings: &Readings, now: Instant) -> Option<String> {
    let cause = readings.failure.as_deref().map(|failure| format!(": {failure}")).unwrap_or_default();
    match readings.sampled_at.map(|at| now.saturating_duration_since(at)) {
        None => Some(format!("replica lag has not been read yet{cause}")),
        Some(age) if age > MAX_AGE => {
            Some(format!("replica lag has not been read for {:.1} s{cause}", age.as_secs_f64()))
        }
        Some(_) => None,
    }
}
