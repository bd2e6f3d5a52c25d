//! `backfilld tune`: changes options of a job, even while the job runs.

use clap::Args;

use super::options::OptionArgs;
use super::{session, show};
use crate::config::Config;
use crate::error::{Error, Kind, Result};

#[derive(Debug, Args)]
pub struct TuneArgs {
    /// Name of the job
    name: String,
    #[command(flatten)]
    options: OptionArgs,
}

const TUNE: &str = "select backfill.tune($1, $2::text::pg_catalog.jsonb)";
const OPTIONS: &str = "select options::text from backfill.jobs where name = $1";

pub(super) async fn run(config: &Config, args: TuneArgs) -> Result<u8> {
    if args.options.is_empty() {
        return Err(Error::new(Kind::Usage, "no option is given")
            .hint("Give at least one option, for example --option max_rows_per_second=2000. The value null restores the default."));
    }
    let options = args.options.merged()?.to_string();
    let session = session::open(config).await?;
    session::ask(&session, TUNE, &[&args.name, &options]).await?;
    let now = session::ask(&session, OPTIONS, &[&args.name]).await?.unwrap_or_default();
    show::line(&format!("options of job \"{}\": {now}", args.name))?;
    Ok(0)
}
