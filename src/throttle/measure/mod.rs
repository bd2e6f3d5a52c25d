//! Reads the input of the throttle. This module polls replicas, the server and the user's own
//! sources, and turns the samples into readings.

pub mod ask;
pub mod autovacuum;
pub mod builtin;
pub mod custom;
pub mod monitoring;
pub mod poll;
pub mod polled_signal;
pub mod poller;
pub mod readings;
pub mod registry;
pub mod replica_lag;
pub mod signal;
