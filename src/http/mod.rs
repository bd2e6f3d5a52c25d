//! Serves probes, metrics and the status page. All pages are read-only. Users make changes with SQL
//! or the command line, where the privileges of their database role apply.

pub mod access;
mod edge;
pub mod health;
pub mod pages;
pub mod server;
pub mod status;
mod token;

#[cfg(test)]
mod tests;
