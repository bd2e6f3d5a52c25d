//! Signals that the user defines as an SQL query, an HTTP check or a Prometheus query.

pub mod fetch;
pub mod http;
pub mod prometheus;
pub mod sql;
