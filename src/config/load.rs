//! Which configuration holds: flags beat environment, environment beats file.

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

/// Bytes of a configuration. What its aliases may grow to is bounded by the parser.
const LARGEST: u64 = 1 << 20;

impl Config {
    /// Read the file, lay environment and flags over it, and check the whole.
    pub fn load(args: LoadArgs) -> Result<Self> {
        Self::load_with(args, &environment::of_process)
    }

    /// What the file, the environment and the flags say now.
    pub fn load_again(&self) -> Result<Self> {
        Self::load(self.origin.clone())
    }

    /// [`Config::load`] with another environment.
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
                    .hint("give --database-url URL, set BACKFILLD_DATABASE_URL, or name one under `databases` in --config FILE"));
            }
            config.databases.push(Database::default());
        }
        config.selected = args.database;
        config.http.listen = args.listen.unwrap_or(config.http.listen);
        if let Some(url) = url {
            let name =
                config.database().map_err(|error| error.context("no telling whose url to replace"))?.name.clone();
            for database in config.databases.iter_mut().filter(|database| database.name == name) {
                let url = SecretUrl::new(url.as_str());
                // A url that brings its password is whole; the file's would be that of another login.
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

    /// The `http` section alone, for a verb that asks the daemon and no database: none need be configured.
    pub fn load_http(args: LoadArgs) -> Result<Http> {
        let from_environment = || environment::of_process("BACKFILLD_CONFIG").filter(|value| !value.is_empty());
        match args.config.or_else(|| from_environment().map(PathBuf::from)) {
            Some(path) => Ok(Self::read(&path)?.http),
            None => Ok(Http::default()),
        }
    }

    fn read(path: &Path) -> Result<Self> {
        let cannot = |error| Error::new(Kind::Config, format!("cannot read the config {}: {error}", path.display()));
        let mut text = String::new();
        let file = fs::File::open(path).map_err(cannot)?;
        let mode = file.metadata().map_err(cannot)?.permissions().mode();
        // A device, or a pipe, has no end of its own.
        file.take(LARGEST + 1).read_to_string(&mut text).map_err(cannot)?;
        if text.len() as u64 > LARGEST {
            return Err(Error::new(Kind::Config, format!("the config {} is larger than 1 MiB", path.display()))
                .hint("is it the right file? A configuration has some hundred lines"));
        }
        let mut config: Self = yaml::parse(&text, &path.to_string_lossy())?;
        if mode & 0o077 != 0 && config.holds_password() {
            config.warnings.push(format!(
                "{} holds a password, and others than its owner may read it (mode {:03o}): chmod 600, or keep the password in password_file, url_file or url_env",
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

    /// The one database that a verb speaks of: the selected one, or the sole one.
    pub fn database(&self) -> Result<&Database> {
        match (&self.selected, self.databases.as_slice()) {
            (Some(name), all) => all.iter().find(|database| &database.name == name).ok_or_else(|| {
                Error::new(Kind::Usage, format!("no database \"{name}\" in the configuration"))
                    .hint(format!("it knows: {}", self.names()))
            }),
            (None, [sole]) => Ok(sole),
            (None, _) => Err(Error::new(Kind::Usage, "the configuration has several databases and none is selected")
                .hint(format!("add --database NAME, one of: {}", self.names()))),
        }
    }

    /// The databases that `run` works in: the selected one, or all.
    pub fn databases_to_run(&self) -> Result<Vec<&Database>> {
        if self.selected.is_some() { Ok(vec![self.database()?]) } else { Ok(self.databases.iter().collect()) }
    }

    fn names(&self) -> String {
        self.databases.iter().map(|database| database.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}
