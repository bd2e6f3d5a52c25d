//! A snapshot is the state of the throttle at one moment: the readings, and the verdict that the
//! controller derived from them. Readings and verdict are published together, so that the gates,
//! the view `backfill.signals` and the log all use the same state.

use tokio::time::Instant;

use crate::throttle::control::verdict::{Decision, Verdict};
use crate::throttle::measure::readings::{Reading, Readings};

#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub readings: Readings,
    pub verdict: Verdict,
}

impl Snapshot {
    /// Decides whether a batch may start at `now`.
    pub fn decide(&self, now: Instant) -> Decision {
        self.verdict.decide(&self.readings, now)
    }

    /// Returns each reading, with the reason if the reading holds jobs at `now`.
    pub fn holds(&self, now: Instant) -> impl Iterator<Item = (&Reading, Option<String>)> {
        self.readings.list.iter().map(move |reading| (reading, self.verdict.hold(reading, now)))
    }

    /// Returns whether any reading holds jobs at `now`.
    pub fn is_holding(&self, now: Instant) -> bool {
        self.holds(now).any(|(_, hold)| hold.is_some())
    }
}
