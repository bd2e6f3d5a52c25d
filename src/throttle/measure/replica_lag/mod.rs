//! The signal for replica lag. It lists the replicas, and measures the lag of each replica in
//! seconds and in bytes.

pub mod history;
pub mod lost;
pub mod replay_rate;
pub mod replicas;
pub mod standby;
pub mod walsender;
