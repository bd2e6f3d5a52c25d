//! Integration tests on real servers that each test starts itself. One binary, so that it is linked once.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cancel;
mod control;
mod drift;
mod enqueue;
mod exactly_once;
mod fence;
mod fenced;
mod isolation;
mod majors;
mod messages;
mod migrate;
mod plans;
mod previous;
mod proof;
mod queue;
mod reconnect;
mod rights;
mod stubborn;
mod support;
mod throttle;
mod upgrade;
mod verify;
mod walking;
