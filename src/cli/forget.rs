//! `backfilld forget`: removes an ended job, its events and its verdict.

use clap::Args;

use super::{session, show};
use crate::config::Config;
use crate::error::Result;

#[derive(Debug, Args)]
pub struct ForgetArgs {
    /// The job
    name: String,
}

const FORGET: &str = "select backfill.forget($1)::text";

pub(super) async fn run(config: &Config, args: ForgetArgs) -> Result<u8> {
    session::command(config, FORGET, &[&args.name]).await?;
    show::line(&format!("job \"{}\" forgotten; the same enqueue would run it again", args.name))?;
    Ok(0)
}
