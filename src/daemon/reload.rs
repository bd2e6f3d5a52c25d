//! SIGHUP: the configuration is read again. All of it holds from then on, or, if anything is wrong with it, nothing.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;

use super::databases::{Change, Databases};
use crate::config::Config;
use crate::error::Result;
use crate::http::access::Access;
use crate::http::pages::Pages;
use crate::telemetry;

/// What holds, and where to change it.
pub(super) struct Reloading {
    pub config: Config,
    pub databases: Databases,
    pub pages: Pages,
    /// Where the pages are served.
    pub address: SocketAddr,
    pub grace: watch::Sender<Duration>,
}

impl Reloading {
    /// Reads the configuration again, says in the log what became of it, and goes on with it or with the one before.
    pub async fn reload(&mut self) {
        tracing::info!("SIGHUP: reading the configuration again");
        match self.prove().await {
            Ok((newer, access, change)) => self.adopt(newer, access, change),
            Err(error) => {
                tracing::error!(error = %error, "the configuration was not taken: the one before stays in force; mend it and send SIGHUP again");
            }
        }
    }

    /// All that can fail.
    async fn prove(&self) -> Result<(Config, Access, Change)> {
        let newer = self.config.load_again()?;
        let access = Access::read(&newer.http)?;
        let change = self.databases.prove(&newer).await?;
        telemetry::set_level(newer.log.level)?;
        Ok((newer, access, change))
    }

    fn adopt(&mut self, mut newer: Config, access: Access, change: Change) {
        log_warnings(&newer);
        if let Some(variable) = telemetry::beaten_by().filter(|_| newer.log.level != self.config.log.level) {
            tracing::warn!("log.level of the configuration has no effect while {variable} is set");
        }
        let names = change.names(&self.databases);
        for key in self.config.needs_restart(&newer) {
            tracing::warn!(key, "changed in the configuration: takes a restart");
        }
        self.pages.set_access(access, self.address);
        self.grace.send_replace(newer.shutdown.grace);
        self.databases.replace(change);
        // What runs is what the next one is held against.
        (newer.http.listen, newer.log.format) = (self.config.http.listen, self.config.log.format);
        tracing::debug!(config = ?newer, "the configuration in force");
        self.config = newer;
        tracing::info!(databases = ?names, "the configuration was read again; these databases begin anew with it");
    }
}

/// What the operator should know of the configuration that is in force from now on.
pub(super) fn log_warnings(config: &Config) {
    for sentence in &config.warnings {
        tracing::warn!("{sentence}");
    }
}
