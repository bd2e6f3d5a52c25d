//! `backfilld run`: runs the daemon.

use std::net::SocketAddr;

use clap::Args;

use crate::config::Config;
use crate::daemon;
use crate::daemon::options::Options;
use crate::error::Result;

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Exit when no job can run: each has finished, is paused (also by pause --all), or waits for
    /// approval, a window, an executor or run_at
    #[arg(long)]
    pub until_idle: bool,
    /// Address for metrics, probes and the status page; overrides http.listen of the configuration
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Do not migrate schema backfill; exit with an error if the schema is not compatible
    #[arg(long)]
    pub no_migrate: bool,
}

pub(super) async fn run(mut config: Config, args: RunArgs) -> Result<u8> {
    if let Some(listen) = args.listen {
        config.http.listen = listen;
        config.origin.listen = Some(listen);
    }
    daemon::run(config, Options { until_idle: args.until_idle, migrate: !args.no_migrate }).await
}
