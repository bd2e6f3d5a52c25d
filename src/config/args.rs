//! The command line arguments that concern the configuration.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::secret::SecretUrl;

/// The command line arguments that concern the configuration.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct LoadArgs {
    /// The value of `--config`. Without the flag, `BACKFILLD_CONFIG` applies.
    pub config: Option<PathBuf>,
    /// The value of `--database-url`. Without the flag, `BACKFILLD_DATABASE_URL` applies. If that
    /// variable is not set either and there is no configuration file, `DATABASE_URL` applies.
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
