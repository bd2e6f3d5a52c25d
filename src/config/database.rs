//! A database to work in: its logins, its replicas and its signals.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;

use super::environment::{self, Environment};
use super::replica::ReplicaRule;
use super::secret::{Login, SecretUrl};
use super::signal::SignalRule;
use super::{source, units};
use crate::error::{Error, Kind, Result};
use crate::window::Window;

/// One database to work in. Of `url`, `url_env` and `url_file` exactly one is set.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// What logs, metrics and `--database` call it: 1 to 63 of `[A-Za-z0-9._-]`, unique. Default: `main`.
    pub name: String,
    /// The control login's connection string. Default: none.
    pub url: Option<SecretUrl>,
    /// The environment variable that holds it. Default: none.
    pub url_env: Option<String>,
    /// The file that holds it. Default: none.
    pub url_file: Option<PathBuf>,
    /// The environment variable with the password, for a url that has none. Default: none.
    pub password_env: Option<String>,
    /// The file with the password, for a url that has none. Default: none.
    pub password_file: Option<PathBuf>,
    /// Slices that this daemon walks at once, 1 to 64. Default: 2.
    pub workers: u32,
    /// A login for each role that jobs run as. Default: none; jobs then run as the control login.
    #[serde(deserialize_with = "units::or_default")]
    pub executors: Vec<Executor>,
    /// How far each replica may lag; the first match wins. Default: one rule that matches every replica.
    #[serde(deserialize_with = "units::or_default")]
    pub replicas: Vec<ReplicaRule>,
    /// Signals beside replica lag, each with a limit: built-in ones by their name, and the user's own. Default: the built-in ones.
    #[serde(deserialize_with = "units::or_default")]
    pub signals: Vec<SignalRule>,
    /// When work is allowed. Default: always.
    pub window: Option<Window>,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            name: "main".to_owned(),
            url: None,
            url_env: None,
            url_file: None,
            password_env: None,
            password_file: None,
            workers: 2,
            executors: Vec::new(),
            replicas: vec![ReplicaRule::default()],
            signals: Vec::new(),
            window: None,
        }
    }
}

/// A login with nothing to gain: a member of `run_as` and of nothing else.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Executor {
    /// The role whose jobs run over this login. Required.
    pub run_as: String,
    /// The executor login's connection string; of the three exactly one is set.
    pub url: Option<SecretUrl>,
    /// The environment variable that holds it.
    pub url_env: Option<String>,
    /// The file that holds it.
    pub url_file: Option<PathBuf>,
    /// The environment variable with the password, for a url that has none.
    pub password_env: Option<String>,
    /// The file with the password, for a url that has none.
    pub password_file: Option<PathBuf>,
}

impl Database {
    /// The connection string as it is now: variable or file are read at each call, so that a rotated secret works.
    pub fn resolve_url(&self) -> Result<SecretUrl> {
        self.resolve_url_with(&environment::of_process)
    }

    /// [`Database::resolve_url`] with another environment.
    pub fn resolve_url_with(&self, environment: Environment) -> Result<SecretUrl> {
        source::resolve_url(self.sources(), environment).map_err(|error| self.named(error))
    }

    /// Connection string and password as they are now; see [`Database::resolve_url`].
    pub fn login(&self) -> Result<Login> {
        self.login_with(&environment::of_process)
    }

    /// [`Database::login`] with another environment.
    pub fn login_with(&self, environment: Environment) -> Result<Login> {
        source::resolve(self.sources(), environment).map_err(|error| self.named(error))
    }

    fn named(&self, error: Error) -> Error {
        error.context(format!("database \"{}\"", self.name))
    }

    fn sources(&self) -> source::Sources<'_> {
        source::Sources {
            url: self.url.as_ref(),
            url_env: self.url_env.as_deref(),
            url_file: self.url_file.as_deref(),
            password_env: self.password_env.as_deref(),
            password_file: self.password_file.as_deref(),
        }
    }

    /// The rule for a replica as the primary sees it. One that no rule matches is held to the default limits: a
    /// replica that nobody thought of is still a replica.
    pub fn replica_rule(&self, application_name: &str, client_addr: Option<std::net::IpAddr>) -> ReplicaRule {
        self.replicas.iter().find(|rule| rule.matches(application_name, client_addr)).cloned().unwrap_or_default()
    }

    pub(super) fn check(&self) -> Result<()> {
        let refuse = |message: String, remedy: &str| Err(Error::new(Kind::Config, message).hint(remedy));
        let named = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if self.name.is_empty() || self.name.len() > 63 || !self.name.chars().all(named) {
            return refuse("the name is not 1 to 63 of [A-Za-z0-9._-]".to_owned(), "choose a short plain name");
        }
        if !(1..=64).contains(&self.workers) {
            return refuse(
                format!("workers is {}", self.workers),
                "set it between 1 and 64; a few are enough, the throttle shares one rate among them",
            );
        }
        source::check(self.sources())?;
        let mut roles = BTreeSet::new();
        for (at, executor) in self.executors.iter().enumerate() {
            let place = format!("executors[{at}]");
            if executor.run_as.is_empty() {
                return refuse(format!("{place} has no run_as"), "name the role whose jobs run over this login");
            }
            if !roles.insert(executor.run_as.as_str()) {
                return refuse(
                    format!("{place}: run_as \"{}\" is used twice", executor.run_as),
                    "keep one executor for each role",
                );
            }
            source::check(executor.sources()).map_err(|error| error.context(place))?;
        }
        for (at, rule) in self.replicas.iter().enumerate() {
            rule.check().map_err(|error| error.context(format!("replicas[{at}]")))?;
            if rule.asks_itself() && self.replicas[..at].iter().any(|other| other.pattern == rule.pattern) {
                return refuse(
                    format!("replicas[{at}]: \"{}\" has a rule above it, which would take its place", rule.pattern),
                    "keep one rule for each replica that is asked itself",
                );
            }
        }
        Ok(())
    }
}

impl Executor {
    /// Connection string and password as they are now; see [`Database::login`].
    pub fn login(&self) -> Result<Login> {
        source::resolve(self.sources(), &environment::of_process)
            .map_err(|error| error.context(format!("executor for \"{}\"", self.run_as)))
    }

    fn sources(&self) -> source::Sources<'_> {
        source::Sources {
            url: self.url.as_ref(),
            url_env: self.url_env.as_deref(),
            url_file: self.url_file.as_deref(),
            password_env: self.password_env.as_deref(),
            password_file: self.password_file.as_deref(),
        }
    }
}
