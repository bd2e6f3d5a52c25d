//! Probes, metrics and the status page, all of them read-only. Users make changes by SQL or the
//! command line, where the privileges of the database apply.

pub mod access;
mod edge;
pub mod health;
pub mod pages;
pub mod server;
pub mod status;
mod token;

#[cfg(test)]
mod tests;
