//! The SQL text of the statements that process rows. Names are quoted, and values enter only as
//! parameters.

#[cfg(any(debug_assertions, feature = "failpoint"))]
pub mod apart;
pub mod batch;
pub mod deferred;
mod fragments;
mod key_scan;
pub mod table;
#[cfg(test)]
mod tests;
