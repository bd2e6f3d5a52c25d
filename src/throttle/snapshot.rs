//! What the throttle knows at one moment: the readings, and the verdict that was made of them. They
//! are published together, so that every gate, the view `backfill.signals` and the log say the
//! same.

use tokio::time::Instant;

use crate::throttle::control::verdict::{Decision, Verdict};
use crate::throttle::measure::readings::{Reading, Readings};

#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub readings: Readings,
    pub verdict: Verdict,
}

impl Snapshot {
    /// Whether a batch may start at `now`.
    pub fn decide(&self, now: Instant) -> Decision {
        self.verdict.decide(&self.readings, now)
    }

    /// Each reading, and why it holds the work at `now` if it does.
    pub fn holds(&self, now: Instant) -> impl Iterator<Item = (&Reading, Option<String>)> {
        self.readings.list.iter().map(move |reading| (reading, self.verdict.hold(reading, now)))
    }

    /// Whether any reading holds the work at `now`.
    pub fn is_holding(&self, now: Instant) -> bool {
        self.holds(now).any(|(_, hold)| hold.is_some())
    }
}
