//! Who may work on what: claims and their leases, and being woken when there is something to claim.

pub mod claim;
pub mod lease;
pub mod wakeup;
