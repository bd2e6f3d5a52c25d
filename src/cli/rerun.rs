//! `backfilld rerun`: an ended job once more, from the start, with a new bound.

use clap::Args;

use super::{session, show};
use crate::config::Config;
use crate::error::Result;

#[derive(Debug, Args)]
pub struct RerunArgs {
    /// The job
    name: String,
}

const RERUN: &str = "select backfill.rerun($1)";

pub(super) async fn run(config: &Config, args: RerunArgs) -> Result<u8> {
    let state = session::command(config, RERUN, &[&args.name]).await?;
    show::line(&format!("job \"{}\" starts again from the beginning; it is {state} now", args.name))?;
    Ok(0)
}
