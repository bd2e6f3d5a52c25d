//! Reloads the configuration at SIGHUP. If any part of the new configuration is invalid, or a new
//! or changed database cannot be served, the whole new configuration is refused.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;

use super::databases::{Change, Databases};
use crate::config::Config;
use crate::error::Result;
use crate::http::access::Access;
use crate::http::pages::Pages;
use crate::telemetry;

/// The configuration in force, and the objects to which a new configuration is applied.
pub(super) struct Reloading {
    pub config: Config,
    pub databases: Databases,
    pub pages: Pages,
    /// The address on which the HTTP server listens.
    pub address: SocketAddr,
    pub grace: watch::Sender<Duration>,
    /// Reports each reload to the services of all databases, even if their settings did not change.
    pub reloads: watch::Sender<()>,
}

impl Reloading {
    /// Reads the configuration again, applies it and logs the result. If the new configuration
    /// cannot be applied, the previous configuration stays in effect.
    pub async fn reload(&mut self) {
        tracing::info!("received SIGHUP, reloading the configuration");
        match self.prove().await {
            Ok((newer, access, change)) => self.adopt(newer, access, change),
            Err(error) => {
                tracing::error!(error = %error.message, hint = error.hint, "could not apply the new configuration; the previous configuration stays in effect until the error is fixed and SIGHUP is sent again");
            }
        }
    }

    /// Performs all steps of a reload that can fail.
    async fn prove(&self) -> Result<(Config, Access, Change)> {
        let newer = self.config.load_again()?;
        let access = Access::read(&newer.http)?;
        let change = self.databases.prove(&newer).await?;
        telemetry::set_level(newer.log.level)?;
        Ok((newer, access, change))
    }

    fn adopt(&mut self, mut newer: Config, access: Access, change: Change) {
        log_warnings(&newer);
        if let Some(variable) = telemetry::overridden_by().filter(|_| newer.log.level != self.config.log.level) {
            tracing::warn!("log.level in the configuration has no effect while {variable} is set");
        }
        let names = change.names(&self.databases);
        for key in self.config.needs_restart(&newer) {
            tracing::warn!(
                key,
                "a key of the configuration has changed; the change takes effect only after backfilld restarts"
            );
        }
        self.pages.set_access(access, self.address);
        self.grace.send_replace(newer.shutdown.grace);
        self.databases.replace(change);
        self.reloads.send_replace(());
        // These two settings cannot change without a restart. The next reload must compare its
        // configuration with the values that are in effect.
        (newer.http.listen, newer.log.format) = (self.config.http.listen, self.config.log.format);
        tracing::debug!(config = ?newer, "the configuration in force");
        self.config = newer;
        tracing::info!(databases = ?names, "configuration reloaded; restarting the workers of the changed databases");
    }
}

/// Logs the warnings about the configuration that is now in force.
pub(super) fn log_warnings(config: &Config) {
    for sentence in &config.warnings {
        tracing::warn!("{sentence}");
    }
}
