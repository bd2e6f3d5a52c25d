//! The configuration of one database: its logins, its replicas and its signals.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;

use super::environment::{self, Environment};
use super::place::host_and_port;
use super::replica::ReplicaRule;
use super::secret::{Login, SecretUrl};
use super::signal::SignalRule;
use super::{source, units};
use crate::error::{Error, Kind, Result};
use crate::window::Window;

/// The settings of one database. Exactly one of `url`, `url_env` and `url_file` is set.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// The unique name in logs, metrics and `--database`: 1 to 63 characters of `[A-Za-z0-9._-]`.
    /// Default: `main`.
    pub name: String,
    /// The connection string of the control login. Default: none.
    pub url: Option<SecretUrl>,
    /// The environment variable that contains the connection string. Default: none.
    pub url_env: Option<String>,
    /// The file that contains the connection string. Default: none.
    pub url_file: Option<PathBuf>,
    /// The environment variable that contains the password, if the URL contains no password.
    /// Default: none.
    pub password_env: Option<String>,
    /// The file that contains the password, if the URL contains no password. Default: none.
    pub password_file: Option<PathBuf>,
    /// The number of slices that this daemon processes at the same time, 1 to 64. Default: 2.
    pub workers: u32,
    /// The maximum number of slices of one role that this daemon processes at the same time while
    /// slices of other roles wait, 1 to 64. Default: one less than `workers`, but at least 1.
    pub max_workers_per_role: Option<u32>,
    /// One login for each role that jobs run as. Default: none. Jobs then run as the control login.
    #[serde(deserialize_with = "units::or_default")]
    pub executors: Vec<Executor>,
    /// Whether jobs may change tables whose owners lack privileges of the control login. The code
    /// of these owners then runs as the control login. Applies only to a database without
    /// executors. Default: false, such jobs are refused.
    pub trust_table_owners: bool,
    /// The lag limits of the replicas. The first rule that matches a replica applies. Default: one
    /// rule that matches every replica.
    #[serde(deserialize_with = "units::or_default")]
    pub replicas: Vec<ReplicaRule>,
    /// The standbys on which verifications read the rows, each as `host` or `host:port`. The first
    /// one that can be used is used. The daemon connects to them with the logins of the primary.
    /// Default: none. Then verifications read on the primary.
    #[serde(deserialize_with = "units::or_default")]
    pub verify_on: Vec<String>,
    /// Limits of built-in signals other than replica lag, and the user's own signals. Default:
    /// none. The built-in signals then have their default limits.
    #[serde(deserialize_with = "units::or_default")]
    pub signals: Vec<SignalRule>,
    /// The window in which jobs may run. Default: always.
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
            max_workers_per_role: None,
            executors: Vec::new(),
            trust_table_owners: false,
            replicas: vec![ReplicaRule::default()],
            verify_on: Vec::new(),
            signals: Vec::new(),
            window: None,
        }
    }
}

/// A login for the jobs of one role. The login must be a member of `run_as` and of no other role.
/// Otherwise code that a job calls could gain privileges with RESET ROLE or SET ROLE.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Executor {
    /// The role. Its jobs run in sessions of this login. Required.
    pub run_as: String,
    /// The connection string of the executor login. Exactly one of `url`, `url_env` and `url_file`
    /// is set.
    pub url: Option<SecretUrl>,
    /// The environment variable that contains the connection string.
    pub url_env: Option<String>,
    /// The file that contains the connection string.
    pub url_file: Option<PathBuf>,
    /// The environment variable that contains the password, if the URL contains no password.
    pub password_env: Option<String>,
    /// The file that contains the password, if the URL contains no password.
    pub password_file: Option<PathBuf>,
}

impl Database {
    /// Returns the current connection string. Reads the environment variable or the file at each
    /// call, so that a rotated secret takes effect.
    ///
    /// # Errors
    /// [`Kind::Config`] if the variable is not set, the file cannot be read, or the text is not a
    /// connection string.
    pub fn resolve_url(&self) -> Result<SecretUrl> {
        self.resolve_url_with(&environment::of_process)
    }

    /// Like [`Database::resolve_url`], but looks up the variable in the given environment.
    pub fn resolve_url_with(&self, environment: Environment) -> Result<SecretUrl> {
        source::resolve_url(self.sources(), environment).map_err(|error| self.named(error))
    }

    /// Returns the maximum number of connections that the daemon opens as the control login: three
    /// of the control pool (housekeeping, metrics, status page), three of the throttle, one each
    /// for the heartbeat, LISTEN and the guard, and, for each worker, one more connection of the
    /// control pool. Without executors, the number also includes one session for each worker, in
    /// which the worker runs its batches.
    pub fn connections(&self) -> u32 {
        9 + self.workers * if self.executors.is_empty() { 2 } else { 1 }
    }

    /// Returns the number of connections of the control login without which the daemon cannot work.
    pub fn least_connections(&self) -> u32 {
        if self.executors.is_empty() { 6 } else { 5 }
    }

    /// Returns the current connection string and password; see [`Database::resolve_url`].
    pub fn login(&self) -> Result<Login> {
        self.login_with(&environment::of_process)
    }

    /// Like [`Database::login`], but looks up the variables in the given environment.
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

    /// Returns the rule for a replica. `application_name` and `client_addr` are the values that the
    /// primary reports. A replica that matches no rule gets the default limits, because a replica
    /// without limits could fall behind unnoticed.
    pub fn replica_rule(&self, application_name: &str, client_addr: Option<std::net::IpAddr>) -> ReplicaRule {
        self.replicas.iter().find(|rule| rule.matches(application_name, client_addr)).cloned().unwrap_or_default()
    }

    /// Returns the number of workers that one role may hold while slices of other roles wait.
    pub fn worker_share(&self) -> u32 {
        self.max_workers_per_role.unwrap_or_else(|| self.workers.saturating_sub(1).max(1))
    }

    pub(super) fn check(&self) -> Result<()> {
        let refuse = |message: String, remedy: &str| Err(Error::new(Kind::Config, message).hint(remedy));
        let named = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if self.name.is_empty() || self.name.len() > 63 || !self.name.chars().all(named) {
            return refuse(
                "the name must have 1 to 63 characters; the allowed characters are A-Z a-z 0-9 . _ -".to_owned(),
                "Use a short name, for example main.",
            );
        }
        if !(1..=64).contains(&self.workers) {
            return refuse(
                format!("workers is {}", self.workers),
                "Set it to a number from 1 to 64. A few workers are enough, because the throttle limits all workers together.",
            );
        }
        if let Some(limit) = self.max_workers_per_role.filter(|limit| !(1..=64).contains(limit)) {
            return refuse(
                format!("max_workers_per_role is {limit}"),
                "Set it to a number from 1 to 64, or remove the key. By default, one role can use all workers except one while jobs of other roles wait.",
            );
        }
        source::check(self.sources())?;
        if let Some(wrong) = self.verify_on.iter().find(|standby| host_and_port(standby).is_none()) {
            return refuse(
                format!("verify_on names \"{wrong}\""),
                "Name a standby as host or host:port, for example replica1:5432 or [::1]:5433. The login and the other parameters are those of the url.",
            );
        }
        let mut roles = BTreeSet::new();
        for (at, executor) in self.executors.iter().enumerate() {
            let place = format!("executors[{at}]");
            if executor.run_as.is_empty() {
                return refuse(
                    format!("{place} has no run_as"),
                    "Set run_as to the role whose jobs run as this login.",
                );
            }
            if !roles.insert(executor.run_as.as_str()) {
                return refuse(
                    format!("{place}: run_as \"{}\" is used twice", executor.run_as),
                    "Keep only one executor for each role.",
                );
            }
            source::check(executor.sources()).map_err(|error| error.context(place))?;
        }
        for (at, rule) in self.replicas.iter().enumerate() {
            rule.check().map_err(|error| error.context(format!("replicas[{at}]")))?;
            if rule.asks_itself() && self.replicas[..at].iter().any(|other| other.pattern == rule.pattern) {
                return refuse(
                    format!("replicas[{at}]: \"{}\" has a url, but an earlier rule has the same `match`", rule.pattern),
                    "Remove one of the two rules. Or, if the earlier rule has no url, put it after this rule.",
                );
            }
        }
        Ok(())
    }
}

impl Executor {
    /// Returns the current connection string and password; see [`Database::login`].
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
