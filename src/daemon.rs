//! Starts, watches and stops the long-lived tasks of each database.

use crate::config::Config;
use crate::error::{Error, Kind, Result};

/// What the command line says beside the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// End when nothing is left to do.
    pub until_idle: bool,
    /// Install or upgrade schema `backfill` first.
    pub migrate: bool,
}

/// Runs until it is told to stop, or until idle; returns the exit code.
///
/// # Errors
/// The daemon is not built yet.
pub async fn run(config: Config, options: Options) -> Result<u8> {
    let databases = config.databases_to_run()?.len();
    tracing::debug!(databases, until_idle = options.until_idle, migrate = options.migrate, "run");
    std::future::ready(Err(Error::new(Kind::Internal, "the daemon is not built yet"))).await
}
