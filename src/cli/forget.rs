//! `backfilld forget`: deletes a finished job and its history.

use clap::Args;

use super::{session, show};
use crate::config::Config;
use crate::error::Result;

#[derive(Debug, Args)]
pub struct ForgetArgs {
    /// Name of the job
    name: String,
}

const FORGET: &str = "select backfill.forget($1)::text";

pub(super) async fn run(config: &Config, args: ForgetArgs) -> Result<u8> {
    session::command(config, FORGET, &[&args.name]).await?;
    show::line(&format!("job \"{}\" deleted; enqueueing it again will run it again", args.name))?;
    Ok(0)
}
