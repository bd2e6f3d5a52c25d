//! The status page and its JSON, written for an operator who has been woken by an alert. Both are
//! read-only: the page shows the SQL for a change, but does not run it.

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
