//! backfilld fills columns of live PostgreSQL tables without anyone noticing.
pub mod error;
pub mod throttle;
