//! The way to the next batch: a gate for each slice that is walked, which says when its next batch
//! may start and how many rows it may scan, and which makes the slice pay for the last one.

pub mod batch_size;
pub mod carry_over;
pub mod decaying_ratio;
pub mod gate;
pub mod hold_time;
pub mod pacer;
pub mod rate_gauge;
