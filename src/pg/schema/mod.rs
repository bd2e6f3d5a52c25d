//! Schema `backfill`: its SQL, its installation, and the check of its version.
//!
//! `versions/` holds tables, columns, constraints and indexes, one file for each version. A version
//! is frozen once CHANGELOG has its heading. `functions/`, `views.sql`, `triggers.sql` and
//! `policies.sql` hold the current text of everything else, each object once. `schema.sql` is the
//! dump of the whole schema. A test generates it, and it is there to be searched.

pub mod install;
pub mod release;
pub mod state;
