//! Holds the SQL of schema `backfill`, installs the schema, and checks its version.
//!
//! `versions/` holds tables, columns, constraints and indexes, one file for each version. A version
//! is frozen once CHANGELOG has a heading for the release that contains it. `functions/`,
//! `views.sql`, `triggers.sql` and `policies.sql` hold the current text of all other objects, each
//! object once. `rights.sql` grants and revokes privileges. `schema.sql` is a dump of the whole
//! schema, for searching. A test generates it.

pub mod install;
pub mod ownership;
pub mod release;
pub mod state;
