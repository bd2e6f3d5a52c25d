//! `backfilld pause`: one job, or all of them by a switch of its own.

use clap::Args;

use super::{session, show};
use crate::config::Config;
use crate::error::Result;

#[derive(Debug, Args)]
pub struct PauseArgs {
    /// The job
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    name: Option<String>,
    /// Every job, apart from each one's own pause, until `resume --all`
    #[arg(long)]
    all: bool,
    /// Why, for whoever looks at the job
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

const PAUSE: &str = "select backfill.pause($1, $2)";
const PAUSE_ALL: &str = "select backfill.pause_all($1)::text";

pub(super) async fn run(config: &Config, args: PauseArgs) -> Result<u8> {
    let session = session::open(config).await?;
    let Some(name) = args.name else {
        session::ask(&session, PAUSE_ALL, &[&args.reason]).await?;
        show::line("all jobs are paused; to lift it: backfilld resume --all")?;
        return Ok(0);
    };
    let state = session::ask(&session, PAUSE, &[&name, &args.reason]).await?.unwrap_or_default();
    let state = session::settle(&session, &name, state, "paused").await?;
    if state == "paused" {
        show::line(&format!("job \"{name}\" is paused; to go on: backfilld resume {}", show::word(&name)))?;
    } else {
        show::line(&format!("job \"{name}\" is {state} still; it pauses when its last batch is done"))?;
    }
    Ok(0)
}
