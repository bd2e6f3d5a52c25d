//! Integration tests on real servers that each test starts itself. One binary, so that it is linked once.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod control;
mod enqueue;
mod messages;
mod migrate;
mod plans;
mod queue;
mod rights;
mod support;
mod throttle;
mod verify;
mod walking;
