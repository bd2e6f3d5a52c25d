//! What the command line says about the configuration.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::secret::SecretUrl;

/// What the command line says about the configuration.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct LoadArgs {
    /// `--config`, or else `BACKFILLD_CONFIG`.
    pub config: Option<PathBuf>,
    /// `--database-url`, or else `BACKFILLD_DATABASE_URL`, or else, if there is no config, `DATABASE_URL`.
    pub database_url: Option<String>,
    /// `--database`
    pub database: Option<String>,
    /// `run --listen`
    pub listen: Option<SocketAddr>,
}

impl fmt::Debug for LoadArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadArgs")
            .field("config", &self.config)
            .field("database_url", &self.database_url.as_deref().map(SecretUrl::new))
            .field("database", &self.database)
            .field("listen", &self.listen)
            .finish()
    }
}
