//! The status page and its JSON: what a person wants to know of the jobs when they were woken for it. Read-only; the
//! page shows the SQL to change something and does not do it.

pub mod board;
mod chart;
mod document;
pub(super) mod handlers;
pub mod history;
mod page;
mod seen;
mod sql;

#[cfg(test)]
mod tests;
