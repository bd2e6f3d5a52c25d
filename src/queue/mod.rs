//! The queue: claims and their leases, wake-ups when a slice can be claimed, housekeeping, and the
//! retention of finished jobs.

pub mod claim;
pub mod daemon;
pub mod lease;
pub mod retention;
pub mod wakeup;
