//! Integration tests on real servers that each test starts itself. One binary, so that it is linked once.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod assert;
mod attacks;
mod cancel;
mod control;
mod crowd;
mod delete;
mod drift;
mod enqueue;
mod exactly_once;
mod fence;
mod fenced;
mod isolation;
mod majors;
mod messages;
mod migrate;
mod model;
mod plans;
mod preview;
mod previous;
mod proof;
mod queue;
mod reconnect;
mod retention;
mod rights;
mod set_aside;
mod stubborn;
mod support;
mod tables;
mod throttle;
mod tls;
mod trouble;
mod upgrade;
mod verify;
mod walking;
mod writers;
