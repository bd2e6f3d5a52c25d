//! Loads the configuration: flags take precedence over the environment, and the environment over
//! the file.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::args::LoadArgs;
use super::database::Database;
use super::environment::{self, Environment};
use super::secret::SecretUrl;
use super::{Config, Http};
use crate::error::{Error, Kind, Result};
use crate::yaml;

/// Maximum size of the file in bytes. This limit does not cover the expansion of YAML aliases,
/// which the parser limits.
const LARGEST: u64 = 1 << 20;

impl Config {
    /// Reads the file, applies the environment and the flags, and checks the result.
    pub fn load(args: LoadArgs) -> Result<Self> {
        Self::load_with(args, &environment::of_process)
    }

    /// Loads the configuration again, with the arguments of the first load.
    pub fn load_again(&self) -> Result<Self> {
        Self::load(self.origin.clone())
    }

    /// Like [`Config::load`], but looks up the variables in the given environment.
    pub fn load_with(args: LoadArgs, environment: Environment) -> Result<Self> {
        let origin = args.clone();
        let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
        let path = args.config.or_else(|| variable("BACKFILLD_CONFIG").map(PathBuf::from));
        let url = args
            .database_url
            .or_else(|| variable("BACKFILLD_DATABASE_URL"))
            .or_else(|| if path.is_none() { variable("DATABASE_URL") } else { None });
        let mut config = match &path {
            Some(path) => Self::read(path)?,
            None => Self::default(),
        };
        if config.databases.is_empty() {
            if url.is_none() {
                return Err(Error::new(Kind::Config, "no database is configured")
                    .hint("Use --database-url URL, set BACKFILLD_DATABASE_URL, or configure a database under `databases` in --config FILE."));
            }
            config.databases.push(Database::default());
        }
        config.selected = args.database;
        config.http.listen = args.listen.unwrap_or(config.http.listen);
        if let Some(url) = url {
            let name = config.database().map_err(|error| no_database_for_the_url(error, path.is_none()))?.name.clone();
            for database in config.databases.iter_mut().filter(|database| database.name == name) {
                let url = SecretUrl::new(url.as_str());
                // The password in the configuration belongs to the replaced URL, which may be for a
                // different login from the new URL.
                if url.brings_password() {
                    database.password_env = None;
                    database.password_file = None;
                }
                database.url = Some(url);
                database.url_env = None;
                database.url_file = None;
            }
        }
        let place = path.as_deref().map_or("the configuration".into(), Path::to_string_lossy);
        config.check().map_err(|error| error.context(place))?;
        config.origin = origin;
        Ok(config)
    }

    /// Reads the file but returns only the section `http`, for a verb that sends requests to the
    /// daemon and needs no configured database.
    pub fn load_http(args: LoadArgs) -> Result<Http> {
        let from_environment = || environment::of_process("BACKFILLD_CONFIG").filter(|value| !value.is_empty());
        match args.config.or_else(|| from_environment().map(PathBuf::from)) {
            Some(path) => Ok(Self::read(&path)?.http),
            None => Ok(Http::default()),
        }
    }

    fn read(path: &Path) -> Result<Self> {
        let cannot = |error| {
            Error::new(Kind::Config, format!("could not read the configuration file {}: {error}", path.display()))
                .hint("Check the path after --config or in BACKFILLD_CONFIG, and the permissions of the file.")
        };
        let mut text = String::new();
        let file = fs::File::open(path).map_err(cannot)?;
        let mode = file.metadata().map_err(cannot)?.permissions().mode();
        // Without the limit, the read of a device or a pipe might never end.
        file.take(LARGEST + 1).read_to_string(&mut text).map_err(cannot)?;
        if text.len() as u64 > LARGEST {
            return Err(Error::new(
                Kind::Config,
                format!("the configuration file {} is larger than 1 MiB", path.display()),
            )
            .hint("Check the path of the file. A configuration has a few hundred lines at most."));
        }
        let mut config: Self = yaml::parse(&text, &path.to_string_lossy())?;
        if mode & 0o077 != 0 && config.holds_password() {
            config.warnings.push(format!(
                "{} contains a password and is accessible to other users (mode {:03o}): run chmod 600, or move the password to password_file, password_env, url_file or url_env",
                path.display(),
                mode & 0o777
            ));
        }
        Ok(config)
    }

    fn holds_password(&self) -> bool {
        let executors = self.databases.iter().flat_map(|database| database.executors.iter().map(|e| e.url.as_ref()));
        let urls = self.databases.iter().map(|database| database.url.as_ref()).chain(executors);
        urls.flatten().any(SecretUrl::brings_password)
    }

    /// Returns the database that a verb works on. This is the selected database, or the only one.
    pub fn database(&self) -> Result<&Database> {
        match (&self.selected, self.databases.as_slice()) {
            (Some(name), all) => all.iter().find(|database| &database.name == name).ok_or_else(|| {
                Error::new(Kind::Usage, format!("no database \"{name}\" in the configuration"))
                    .hint(format!("Use one of the configured databases: {}.", self.names()))
            }),
            (None, [sole]) => Ok(sole),
            (None, _) => Err(Error::new(Kind::Usage, "several databases are configured and none is selected")
                .hint(format!("Add --database with one of these names: {}.", self.names()))),
        }
    }

    /// Returns the databases that `run` works in: the selected one, or all if none is selected.
    pub fn databases_to_run(&self) -> Result<Vec<&Database>> {
        if self.selected.is_some() { Ok(vec![self.database()?]) } else { Ok(self.databases.iter().collect()) }
    }

    fn names(&self) -> String {
        self.databases.iter().map(|database| database.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// Returns the error for a url from a flag or from the environment if the selected database is not
/// in the configuration. `is_alone` means that there is no configuration file.
fn no_database_for_the_url(error: Error, is_alone: bool) -> Error {
    match is_alone {
        true => Error::new(Kind::Config, "--database names a database, but there is no configuration file")
            .hint("Leave --database out: the url from --database-url or the environment already names the database."),
        false => error.context("could not apply the url from --database-url or the environment"),
    }
}
