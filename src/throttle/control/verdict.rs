//! The verdict: what the controller makes of the readings, and whether it lets a batch start at a
//! given time.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::job::waiting::{Waiting, WaitingReason};
use crate::throttle::measure::readings::{MAX_AGE, Reading, ReadingId, Readings};
use crate::throttle::measure::signal::SignalKind;

/// The most that the duty cycle grows to while other sessions are active. Without pauses nobody
/// could tell what the server is like without our batches.
pub const MOST_BESIDE_OTHERS: f64 = 0.8;

/// How fast batches may run.
#[derive(Debug, Clone, PartialEq)]
pub struct Pace {
    /// The share of time in which batches may run, above 0 and up to 1: after a batch that took `d`
    /// comes a pause of `d * (1 / duty_cycle - 1)`.
    pub duty_cycle: f64,
    /// What keeps the duty cycle below 1.
    pub because: Option<Waiting>,
    /// Other sessions are active on the server, so batches have to be small.
    pub other_load: bool,
}

impl Pace {
    pub const FULL: Self = Self { duty_cycle: 1.0, because: None, other_load: false };

    /// Whether it is slower than other sessions alone would make it.
    pub fn is_slowed(&self) -> bool {
        self.duty_cycle < MOST_BESIDE_OTHERS
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::FULL
    }
}

/// What the controller decided about one set of readings.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Verdict {
    pub pace: Pace,
    /// The duty cycle that budgets alone allow; none without budgets.
    pub budget_duty_cycle: Option<f64>,
    /// The budgets that hold the work, with the reason.
    pub holds: BTreeMap<ReadingId, String>,
}

/// Whether the next batch may start.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    Go(Pace),
    Hold(Waiting),
}

impl Verdict {
    /// Whether a batch may start at `now`, and at what pace. `readings` are those that the verdict
    /// was made of.
    ///
    /// No readings at all from a database that answers means that it has no replica: go.
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

    /// Why no batch may start at `now` because of this reading; none if it lets the work go on.
    pub fn hold(&self, reading: &Reading, now: Instant) -> Option<String> {
        let by_itself = reading.hold(now);
        if reading.kind != SignalKind::Budget || reading.is_stale(now) {
            return by_itself;
        }
        self.holds.get(&reading.id()).cloned().or(by_itself)
    }

    /// The same, without regard to the age of the reading.
    pub fn hold_at_any_age(&self, reading: &Reading) -> Option<String> {
        match reading.kind {
            SignalKind::Budget => self.holds.get(&reading.id()).cloned(),
            SignalKind::Load | SignalKind::Shown => reading.must_hold.then(|| reading.note.clone().unwrap_or_default()),
        }
    }
}

/// Why the readings as a whole can't be relied on.
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
