//! backfilld fills columns of live PostgreSQL tables without anyone noticing.
pub mod config;
pub mod error;
pub mod yaml;
