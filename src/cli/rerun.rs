//! `backfilld rerun`: runs a finished job again from the start, with a new upper bound of its key
//! range.

use clap::Args;

use super::{session, show};
use crate::config::Config;
use crate::error::Result;

#[derive(Debug, Args)]
pub struct RerunArgs {
    /// Name of the job
    name: String,
}

const RERUN: &str = "select backfill.rerun($1)";

pub(super) async fn run(config: &Config, args: RerunArgs) -> Result<u8> {
    let state = session::command(config, RERUN, &[&args.name]).await?;
    show::line(&format!("job \"{}\" restarted from the beginning; state: {state}", args.name))?;
    Ok(0)
}
