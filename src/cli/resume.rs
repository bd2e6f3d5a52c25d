//! `backfilld resume`: one job, or the switch that paused all.

use clap::Args;

use super::{session, show};
use crate::config::Config;
use crate::error::Result;

#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// The job
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    name: Option<String>,
    /// Lift `pause --all`; a job that was paused by itself stays paused
    #[arg(long)]
    all: bool,
}

const RESUME: &str = "select backfill.resume($1)";
const RESUME_ALL: &str = "select backfill.resume_all()::text";

pub(super) async fn run(config: &Config, args: ResumeArgs) -> Result<u8> {
    let said = match args.name {
        Some(name) => {
            let state = session::command(config, RESUME, &[&name]).await?;
            format!("job \"{name}\" goes on; it is {state} now")
        }
        None => {
            session::command(config, RESUME_ALL, &[]).await?;
            "the pause of all jobs is lifted; jobs that were paused one by one stay paused".to_owned()
        }
    };
    show::line(&said)?;
    Ok(0)
}
