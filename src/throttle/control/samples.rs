//! Readings for the tests of this room.

use tokio::time::Instant;

use crate::throttle::control::circumstances::Circumstances;
use crate::throttle::control::controller::Controller;
use crate::throttle::measure::readings::{Reading, Readings};
use crate::throttle::measure::signal::Signal;
use crate::throttle::snapshot::Snapshot;

pub fn lag(value: f64, at: Instant) -> Reading {
    Reading::budget(Signal::ReplicaLagSeconds, "s1", value, 1.0, at)
}

pub fn fresh(list: Vec<Reading>, at: Instant) -> Readings {
    Readings { sampled_at: Some(at), list, ..Readings::default() }
}

/// What would be published of these readings while batches run.
pub fn steered(controller: &mut Controller, list: Vec<Reading>, now: Instant) -> Snapshot {
    let readings = fresh(list, now);
    let verdict = controller.steer(&readings, &Circumstances { now, working: true, other_daemons: None });
    Snapshot { readings, verdict }
}
