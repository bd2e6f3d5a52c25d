//! The configuration: one YAML file. One URL is enough, because all other keys have defaults.
//!
//! Flags take precedence over the environment, and the environment over the file. An unknown key is
//! refused, and the error names the known keys. The name of a key contains the unit of its value.
//! `config/backfilld.yaml` explains every key and its default.

pub mod args;
pub mod database;
pub mod environment;
mod load;
pub mod place;
pub mod replica;
pub mod secret;
pub mod signal;
mod source;
#[cfg(test)]
mod tests;
pub mod units;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use self::args::LoadArgs;
use self::database::Database;
use crate::error::{Error, Kind, Result};
use crate::window::Window;

/// The configuration: the whole file, with environment and flags applied.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    #[serde(deserialize_with = "units::or_default")]
    pub http: Http,
    #[serde(deserialize_with = "units::or_default")]
    pub log: Log,
    #[serde(deserialize_with = "units::or_default")]
    pub shutdown: Shutdown,
    #[serde(deserialize_with = "units::or_default")]
    pub retention: Retention,
    /// Options that apply to each job that does not set them. The server checks these options in
    /// the same way as the options of a job. Default: none.
    #[serde(deserialize_with = "units::or_default")]
    pub defaults: Map<String, Value>,
    #[serde(deserialize_with = "units::or_default")]
    pub lease: Lease,
    /// The databases to work in. Default: one database named `main`, if a flag or the environment
    /// contains a URL.
    #[serde(deserialize_with = "units::or_default")]
    pub databases: Vec<Database>,
    /// The value of `--database NAME`. The configuration file cannot set this field.
    #[serde(skip)]
    pub selected: Option<String>,
    /// The arguments with which the configuration was loaded. Not a key of the file.
    #[serde(skip)]
    pub origin: LoadArgs,
    /// Warnings about the file itself, for the log.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// The HTTP server with probes, metrics and the status page. All pages are read-only.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// The address and port. With port 0 the daemon takes any free port and logs its number.
    /// Default: `127.0.0.1:8432`.
    #[serde(deserialize_with = "listen")]
    pub listen: SocketAddr,
    /// Whether `/` and `/status.json` are served. Metrics and probes are always served. Default:
    /// true.
    pub status_page: bool,
    /// The file with the bearer token that every page except metrics and probes requires. Default:
    /// none. Without a token, the pages other than metrics and probes are served only if `listen`
    /// is a loopback address.
    pub token_file: Option<PathBuf>,
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8432)), status_page: true, token_file: None }
    }
}

/// The log on standard error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `text` for people, `json` for log collectors (one object per line). Default: `text`.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`. `BACKFILLD_LOG` accepts finer filters. Default:
    /// `info`.
    pub level: LogLevel,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// `grace_seconds`: how long the daemon, after SIGTERM or SIGINT, waits for the batches in
    /// flight. Then it cancels these batches. Default: 20.
    #[serde(rename = "grace_seconds", deserialize_with = "units::seconds")]
    pub grace: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { grace: Duration::from_secs(20) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// The number of days for which the slices, events and row errors of a finished job are kept.
    /// The name, spec and verdict of a job are kept after this time. Default: 90.
    #[serde(deserialize_with = "units::days")]
    pub days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { days: 90 }
    }
}

/// How long a daemon keeps its slices without a heartbeat, and how often it sends heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lease {
    /// `ttl_seconds`: the time without a heartbeat after which another daemon may take over a
    /// slice. Default: 6.
    #[serde(rename = "ttl_seconds", deserialize_with = "units::seconds")]
    pub ttl: Duration,
    /// `heartbeat_seconds`: the interval at which a holder renews its leases. Must be less than
    /// half of `ttl_seconds`. Default: 1.5.
    #[serde(rename = "heartbeat_seconds", deserialize_with = "units::seconds")]
    pub heartbeat: Duration,
    /// `poll_ms`: the interval at which the daemon polls the queue if no notification arrives.
    /// Default: 500.
    #[serde(rename = "poll_ms", deserialize_with = "units::milliseconds")]
    pub poll: Duration,
}

impl Default for Lease {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(6), heartbeat: Duration::from_millis(1500), poll: Duration::from_millis(500) }
    }
}

impl Config {
    /// Returns the keys whose values differ in `newer` and whose new values take effect only after
    /// backfilld restarts.
    pub fn needs_restart(&self, newer: &Self) -> Vec<&'static str> {
        let keys = [
            ("http.listen", self.http.listen != newer.http.listen),
            ("log.format", self.log.format != newer.log.format),
        ];
        keys.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }

    /// Checks the rules that the types of the fields do not enforce.
    ///
    /// # Errors
    /// [`Kind::Config`]. The text names the configuration key, the reason and the fix.
    fn check(&self) -> Result<()> {
        let refuse = |message: String, remedy: &str| Err(Error::new(Kind::Config, message).hint(remedy));
        let Lease { ttl, heartbeat, poll } = self.lease;
        if ttl < Duration::from_secs(1) || ttl > Duration::from_secs(3600) {
            return refuse(
                format!("lease.ttl_seconds is {}, which is out of range", ttl.as_secs_f64()),
                "Set it to a value between 1 and 3600.",
            );
        }
        if heartbeat.is_zero() || heartbeat * 2 >= ttl {
            return refuse(
                format!(
                    "lease.heartbeat_seconds ({}) must be above 0 and less than half of lease.ttl_seconds ({}): \
                     otherwise one lost heartbeat would let the lease expire",
                    heartbeat.as_secs_f64(),
                    ttl.as_secs_f64()
                ),
                "Lower heartbeat_seconds (a quarter of ttl_seconds is a good value) or raise ttl_seconds.",
            );
        }
        if poll < Duration::from_millis(10) || poll > Duration::from_secs(60) {
            return refuse(
                format!("lease.poll_ms is {}, which is out of range", poll.as_millis()),
                "Set it to a value between 10 and 60000.",
            );
        }
        if self.shutdown.grace > Duration::from_secs(3600) {
            return refuse(
                format!("shutdown.grace_seconds is {}, which is too long", self.shutdown.grace.as_secs_f64()),
                "Set it to 3600 or less. A batch takes milliseconds.",
            );
        }
        if !(1..=36_500).contains(&self.retention.days) {
            return refuse(
                format!("retention.days is {}, which is out of range", self.retention.days),
                "Set it to a value between 1 and 36500.",
            );
        }
        if let Some(window) = self.defaults.get("window").filter(|window| !window.is_null()) {
            Window::read(window).map_err(|error| Error::new(Kind::Config, format!("defaults: {}", error.message)))?;
        }
        let mut names = BTreeSet::new();
        for (at, database) in self.databases.iter().enumerate() {
            if !names.insert(database.name.as_str()) {
                return refuse(
                    format!("databases[{at}]: the name \"{}\" is used twice", database.name),
                    "Give each database a unique name. Logs, metrics and --database use the name.",
                );
            }
            let mut signals = BTreeSet::new();
            for signal in &database.signals {
                signal.check().map_err(|error| error.context(format!("databases[{at}] ({})", database.name)))?;
                if !signals.insert((signal.name.as_str(), signal.pattern.as_deref())) {
                    return refuse(
                        format!("databases[{at}] ({}): signal \"{}\" is configured twice", database.name, signal.name),
                        "Give each signal a unique name. Several entries for slot must differ in `match`.",
                    );
                }
            }
            database.check().map_err(|error| error.context(format!("databases[{at}] ({})", database.name)))?;
        }
        Ok(())
    }
}

fn listen<'de, D: serde::Deserializer<'de>>(input: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(input)?;
    text.parse().map_err(|_| {
        serde::de::Error::custom(format!(
            "\"{text}\" is not an address to listen on: write an IP address and a port, for example \"127.0.0.1:8432\" or \"[::]:8432\""
        ))
    })
}
