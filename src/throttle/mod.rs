//! Decides when the next batch of a slice may start and how large the batch may be. This keeps
//! replica lag, lock waits and the load on the server within their limits. Each database has one
//! `handle::Throttle`.
//!
//! ```text
//! measure ── Readings ──> control ── Verdict ──> Snapshot ──> admit ── Permit ──> walk
//! (poller,                (no I/O:               (readings    (gate of one
//!  signals)                controller)            + verdict)   slice)
//!                                                      ▲
//!                                                      └── regulator: the loop that polls, steers and publishes
//! ```
//!
//! `measure` samples the signals at intervals, and decides nothing. `control` turns readings into a
//! verdict, and accesses neither the database nor the clock. `admit` makes a slice wait as long as
//! the cost of its last batch requires, and then lets it run its next batch.
//!
//! CONTRIBUTING.md describes how to add a signal. To change how jobs respond to a signal, edit
//! `control/budgets.rs` (budgets, which slow jobs down and hold them) or `control/load.rs` (load
//! gauges, which slow jobs down).

pub(crate) mod admit;
mod control;
pub(crate) mod handle;
mod in_flight;
pub(crate) mod measure;
mod publisher;
mod regulator;
mod snapshot;
mod transition_log;
