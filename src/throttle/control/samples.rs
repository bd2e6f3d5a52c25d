//! Readings for the tests of `control`.

use tokio::time::Instant;

use crate::throttle::measure::readings::{Reading, Readings};
use crate::throttle::measure::signal::Signal;

pub fn lag(value: f64, at: Instant) -> Reading {
    Reading::budget(Signal::ReplicaLagSeconds, "s1", value, 1.0, at)
}

pub fn fresh(list: Vec<Reading>, at: Instant) -> Readings {
    Readings { sampled_at: Some(at), list, ..Readings::default() }
}
