//! `backfilld pause`: pauses one job, or sets the switch that pauses all jobs.

use clap::Args;

use super::commands::Commands;
use super::{session, show};
use crate::config::Config;
use crate::error::Result;

#[derive(Debug, Args)]
pub struct PauseArgs {
    /// Name of the job
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    name: Option<String>,
    /// Pause all jobs until `resume --all`, which does not resume jobs that were paused
    /// individually
    #[arg(long)]
    all: bool,
    /// Reason, shown with the job
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

const PAUSE: &str = "select backfill.pause($1, $2)";
const PAUSE_ALL: &str = "select backfill.pause_all($1)::text";

pub(super) async fn run(config: &Config, args: PauseArgs) -> Result<u8> {
    let session = session::open(config).await?;
    let commands = Commands::of(config);
    let Some(name) = args.name else {
        session::ask(&session, PAUSE_ALL, &[&args.reason]).await?;
        show::line(&format!("all jobs paused; to resume: {}", commands.of_verb("resume --all")))?;
        return Ok(0);
    };
    let state = session::ask(&session, PAUSE, &[&name, &args.reason]).await?.unwrap_or_default();
    let state = session::settle(&session, &name, state, "paused").await?;
    if state == "paused" {
        let resume = commands.of_verb(&format!("resume {}", show::word(&name)));
        show::line(&format!("job \"{name}\" paused; to resume: {resume}"))?;
    } else {
        show::line(&format!(
            "pause of job \"{name}\" requested; the job is still {state} and pauses after the batch in flight"
        ))?;
    }
    Ok(0)
}
