//! The statements that work on rows, as text. Names enter them quoted, values as parameters only.

#[cfg(any(debug_assertions, feature = "failpoint"))]
pub mod apart;
pub mod batch;
pub mod deferred;
mod fragments;
mod key_scan;
pub mod table;
#[cfg(test)]
mod tests;
