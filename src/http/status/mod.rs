//! The status page and `/status.json`, for an operator who reacts to an alert. Both are read-only.
//! The page shows SQL statements that pause, resume or otherwise control jobs, but does not run
//! them.

pub mod board;
mod chart;
mod database_state;
mod document;
pub(super) mod handlers;
pub mod history;
mod page;
mod sql;

#[cfg(test)]
mod tests;
