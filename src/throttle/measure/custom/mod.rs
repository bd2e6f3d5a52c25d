//! The user's own signals: a query, an HTTP check, or a query of Prometheus.

pub mod fetch;
pub mod http;
pub mod prometheus;
pub mod sql;
