//! TLS with libpq's meaning: what `sslmode` and the `ssl*` parameters ask for, and the connector that does it.
//!
//! Files are read again for each connection, so that a certificate which is rotated is followed without a restart.

mod certificate;
pub mod connector;
pub(in crate::pg) mod failure;
mod files;
pub mod https;
pub mod stream;
pub mod terms;
mod verify;
