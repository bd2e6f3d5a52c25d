//! Who may work on what: claims and their leases, being woken when there is something to claim, and what is kept of
//! jobs that have ended.

mod call;
pub mod claim;
pub mod daemon;
pub mod lease;
pub mod retention;
pub mod wakeup;
