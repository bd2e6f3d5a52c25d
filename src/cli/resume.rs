//! `backfilld resume`: resumes one job, or lifts the pause of all jobs.

use clap::Args;

use super::{session, show};
use crate::config::Config;
use crate::error::Result;

#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// Name of the job
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    name: Option<String>,
    /// End `pause --all`; jobs that were paused individually stay paused
    #[arg(long)]
    all: bool,
}

const RESUME: &str = "select backfill.resume($1)";
const RESUME_ALL: &str = "select backfill.resume_all()::text";

pub(super) async fn run(config: &Config, args: ResumeArgs) -> Result<u8> {
    let said = match args.name {
        Some(name) => {
            let state = session::command(config, RESUME, &[&name]).await?;
            format!("job \"{name}\" is no longer paused; state: {state}")
        }
        None => {
            session::command(config, RESUME_ALL, &[]).await?;
            "no pause of all jobs is in effect; jobs that were paused individually stay paused".to_owned()
        }
    };
    show::line(&said)?;
    Ok(0)
}
