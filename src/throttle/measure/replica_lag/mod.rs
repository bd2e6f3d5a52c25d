//! The signal "replica lag": which replicas there are, and how far each is behind, in seconds and
//! in bytes.

pub mod history;
pub mod replay_rate;
pub mod replicas;
pub mod standby;
pub mod walsender;
