//! `backfilld cancel`: cancels a job. Keeps the changes that are already committed.

use clap::Args;

use super::{session, show};
use crate::config::Config;
use crate::error::Result;

#[derive(Debug, Args)]
pub struct CancelArgs {
    /// Name of the job
    name: String,
    /// Reason, shown with the job
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
        show::line(&format!("job \"{name}\" cancelled; changes already committed are kept"))?;
    } else {
        show::line(&format!(
            "cancel of job \"{name}\" requested; the job is still {state} and stops after the batch in flight"
        ))?;
    }
    Ok(0)
}
