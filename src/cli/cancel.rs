//! `backfilld cancel`: ends a job where it is; what was filled stays filled.

use clap::Args;

use super::{session, show};
use crate::config::Config;
use crate::error::Result;

#[derive(Debug, Args)]
pub struct CancelArgs {
    /// The job
    name: String,
    /// Why, for whoever looks at the job
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

const CANCEL: &str = "select backfill.cancel($1, $2)";

pub(super) async fn run(config: &Config, args: CancelArgs) -> Result<u8> {
    let session = session::open(config).await?;
    let state = session::ask(&session, CANCEL, &[&args.name, &args.reason]).await?.unwrap_or_default();
    let state = session::settle(&session, &args.name, state, "cancelled").await?;
    let name = &args.name;
    if state == "cancelled" {
        show::line(&format!("job \"{name}\" is cancelled; rows that it filled stay filled"))?;
    } else {
        show::line(&format!("job \"{name}\" is {state} still; it ends when its last batch is done"))?;
    }
    Ok(0)
}
