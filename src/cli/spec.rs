//! What a job is to do, as `enqueue` and `preview` both take it.

use clap::Args;

use super::options::OptionArgs;
use super::session;
use crate::error::{Error, Kind};

#[derive(Debug, Args)]
pub struct SpecArgs {
    /// The table, such as public.orders
    #[arg(long, value_name = "TABLE")]
    pub target: String,
    /// What to fill, such as 'total_cents = round(total * 100)::bigint'
    #[arg(long, value_name = "ASSIGNMENTS", required_unless_present = "delete", conflicts_with = "delete")]
    pub set: Option<String>,
    /// Delete the rows that match --filter, in batches, instead of changing rows
    #[arg(long, requires = "filter")]
    pub delete: bool,
    /// Which rows still need work, such as 'total_cents is null'
    #[arg(long, value_name = "CONDITION")]
    pub filter: Option<String>,
    /// Columns of the unique key to walk by; without it the primary key
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    pub key: Option<Vec<String>>,
    #[command(flatten)]
    pub options: OptionArgs,
}

impl SpecArgs {
    /// Says what a user can do about an error of the server about the spec.
    pub(super) fn explain(&self, error: Error) -> Error {
        match error.sqlstate.as_deref() {
            // Of the target's cast: what `set` and `filter` name is refused with BF001.
            Some("42P01" | "3F000") if error.hint.is_none() && !error.message.contains("backfill") => {
                error.hint(format!(
                    "Is --target {} spelled as in psql, with its schema, and is this the right database?",
                    self.target
                ))
            }
            Some("22007" | "22008") => Error { kind: Kind::Usage, ..error }
                .context("--run-at")
                .hint("It takes a time as the server reads it, such as '2027-01-31 22:00+01'."),
            _ => session::explain(error),
        }
    }
}
