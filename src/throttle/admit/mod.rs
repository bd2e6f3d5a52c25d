//! Admits batches. Each slice that this daemon walks or verifies has a gate. The gate decides when
//! the next batch of the slice may start and how many rows the batch may scan. After a batch, the
//! gate also makes the slice wait as long as the cost of that batch requires.

pub mod batch_size;
pub mod carry_over;
pub mod decaying_ratio;
pub mod gate;
pub mod hold_time;
pub mod network;
pub mod pacer;
pub mod rate_gauge;
