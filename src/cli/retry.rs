//! `backfilld retry`: continues a failed or cancelled job where it stopped.

use clap::Args;

use super::{session, show};
use crate::config::Config;
use crate::error::Result;

#[derive(Debug, Args)]
pub struct RetryArgs {
    /// Name of the job
    name: String,
}

const RETRY: &str = "select backfill.retry($1)";

pub(super) async fn run(config: &Config, args: RetryArgs) -> Result<u8> {
    let state = session::command(config, RETRY, &[&args.name]).await?;
    show::line(&format!("job \"{}\" continues where it stopped; state: {state}", args.name))?;
    Ok(0)
}
