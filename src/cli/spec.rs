//! The arguments of `enqueue` and `preview` that describe a job.

use clap::Args;

use super::options::OptionArgs;
use super::session;
use crate::error::{Error, Kind};

#[derive(Debug, Args)]
pub struct SpecArgs {
    /// Table to change, for example public.orders
    #[arg(long, value_name = "TABLE")]
    pub target: String,
    /// SQL assignments, for example 'total_cents = round(total * 100)::bigint'
    #[arg(long, value_name = "ASSIGNMENTS", required_unless_present = "delete", conflicts_with = "delete")]
    pub set: Option<String>,
    /// Delete the rows that match --filter instead of updating rows
    #[arg(long, requires = "filter")]
    pub delete: bool,
    /// SQL condition that selects the rows to change, for example 'total_cents is null'; the
    /// condition should be false after a row is changed
    #[arg(long, value_name = "CONDITION")]
    pub filter: Option<String>,
    /// Columns of a unique key that defines the order of the batches [default: the primary key]
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    pub key: Option<Vec<String>>,
    #[command(flatten)]
    pub options: OptionArgs,
}

impl SpecArgs {
    /// Adds a hint to an error that the server returned about the spec.
    pub(super) fn explain(&self, error: Error) -> Error {
        match error.sqlstate.as_deref() {
            // The cast of the target to regclass raises these two SQLSTATEs. An unknown name in the
            // assignments or the filter is refused with BF001.
            Some("42P01" | "3F000") if error.hint.is_none() && !error.message.contains("backfill") => {
                error.hint(format!(
                    "Check the spelling of --target {}, and whether its schema and the database of the connection are correct.",
                    self.target
                ))
            }
            Some("22007" | "22008") => Error { kind: Kind::Usage, ..error }
                .context("--run-at")
                .hint("Give a timestamp in PostgreSQL's input format, for example '2027-01-31 22:00+01'."),
            _ => session::explain(error),
        }
    }
}
