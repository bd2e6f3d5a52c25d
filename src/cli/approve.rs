//! `backfilld approve`: approves a job that waits for approval, so that it can start.

use clap::Args;

use super::{session, show};
use crate::config::Config;
use crate::error::Result;

#[derive(Debug, Args)]
pub struct ApproveArgs {
    /// Name of the job
    name: String,
}

const APPROVE: &str = "select backfill.approve($1)";

pub(super) async fn run(config: &Config, args: ApproveArgs) -> Result<u8> {
    let state = session::command(config, APPROVE, &[&args.name]).await?;
    show::line(&format!("job \"{}\" approved; state: {state}", args.name))?;
    Ok(0)
}
