//! The command line arguments that concern the configuration.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::secret::SecretUrl;

/// The command line arguments that concern the configuration.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct LoadArgs {
    /// The value of `--config`, otherwise of `BACKFILLD_CONFIG`.
    pub config: Option<PathBuf>,
    /// The value of `--database-url`, otherwise of `BACKFILLD_DATABASE_URL`, otherwise, if there is
    /// no configuration file, of `DATABASE_URL`.
    pub database_url: Option<String>,
    /// The value of `--database`.
    pub database: Option<String>,
    /// The value of `run --listen`.
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
