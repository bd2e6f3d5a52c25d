//! backfilld fills columns of live PostgreSQL tables without anyone noticing.
pub mod config;
pub mod error;
pub mod fault;
pub mod http;
pub mod metrics;
pub mod shutdown;
pub mod telemetry;
pub mod yaml;
