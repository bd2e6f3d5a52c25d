//! The signal "replica lag": the list of replicas, and the lag of each replica in seconds and in
//! bytes.

pub mod history;
pub mod lost;
pub mod replay_rate;
pub mod replicas;
pub mod standby;
pub mod walsender;
