//! The built-in signals except replica lag, one file for each signal. `counter_rate` is shared by
//! the signals that are rates of server counters.

pub mod active_sessions;
pub mod archiver;
pub mod checkpoints;
pub mod counter_rate;
pub mod deadlocks;
pub mod lock_waits;
pub mod oldest_xmin;
pub mod probe_latency;
pub mod rollbacks;
pub mod slot;
pub mod statement_time;
