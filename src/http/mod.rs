//! Probes, metrics and the status page: read-only, for ever. Changes are made by SQL or the command line, where rights
//! are the database's.

pub mod access;
mod edge;
pub mod health;
pub mod pages;
pub mod server;
pub mod status;
mod token;

#[cfg(test)]
mod tests;
