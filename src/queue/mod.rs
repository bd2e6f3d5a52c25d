//! The queue: claims and their leases, wake-ups when there is something to claim, and the retention
//! of finished jobs.

mod call;
pub mod claim;
pub mod daemon;
pub mod lease;
pub mod retention;
pub mod wakeup;
