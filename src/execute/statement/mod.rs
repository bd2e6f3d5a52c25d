//! Builds the SQL text of the statements that process rows. Names are quoted. Values are passed as
//! parameters, except for constants from the catalog or the plan.

pub mod apart;
pub mod batch;
pub mod deferred;
mod fragments;
mod key_scan;
pub mod since;
pub mod table;
#[cfg(test)]
mod tests;
