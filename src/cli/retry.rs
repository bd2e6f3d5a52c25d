//! `backfilld retry`: on from the checkpoint.

use clap::Args;

use super::{session, show};
use crate::config::Config;
use crate::error::Result;

#[derive(Debug, Args)]
pub struct RetryArgs {
    /// The job
    name: String,
}

const RETRY: &str = "select backfill.retry($1)";

pub(super) async fn run(config: &Config, args: RetryArgs) -> Result<u8> {
    let state = session::command(config, RETRY, &[&args.name]).await?;
    show::line(&format!("job \"{}\" goes on from where it stopped; it is {state} now", args.name))?;
    Ok(0)
}
