//! Implements TLS as libpq does: the `sslmode` and `ssl*` parameters, and the connector that
//! applies them.
//!
//! The files of certificates and keys are read again for each connection, so that a rotated
//! certificate takes effect without a restart.

mod certificate;
pub mod connector;
pub(in crate::pg) mod failure;
mod files;
pub mod https;
pub mod stream;
pub mod terms;
mod verify;
