//! The configuration of signals other than replica lag: limits of built-in signals, and the user's
//! own signals.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use serde::{Deserialize, Deserializer};

use super::units;
use crate::error::{Error, Kind, Result};

/// Either a limit for a built-in signal, or the user's own signal: an SQL query, an HTTP check or a
/// Prometheus query.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SignalRule {
    /// One of [`SignalRule::BUILT_IN`] if none of `sql`, `http` and `prometheus` is set. If one of
    /// them is set, any name that is not built in. Required.
    pub name: String,
    /// An SQL query that returns one number. The control login runs it read-only. Default: none.
    pub sql: Option<String>,
    /// The URL of an HTTP check. Status 2xx lets jobs run, and status 429 holds them. With any
    /// other status, the signal counts as unreadable. Default: none.
    pub http: Option<HttpUrl>,
    /// A Prometheus instant query that returns one number. Default: none.
    pub prometheus: Option<PrometheusQuery>,
    /// A file that contains a bearer token for `http` or `prometheus`. The file is read again for
    /// each request. Default: none.
    pub token_file: Option<PathBuf>,
    /// A file that contains the CA of an https server. Default: the CAs of the system.
    pub ca_file: Option<PathBuf>,
    /// `match`, for `slot` only: a pattern for the slot's name, in which `*` stands for any run of
    /// characters. Default: every slot.
    #[serde(rename = "match")]
    pub pattern: Option<String>,
    /// The number of cores of the server, for `active_sessions` only. If set, the limit applies to
    /// each core. Default: none, and the limit applies to the whole server.
    pub cores: Option<u32>,
    /// The limit, as a number or a size. Required, except for `http`, whose limit is always 1.
    #[serde(deserialize_with = "units::limit")]
    pub limit: Option<f64>,
    /// `interval_seconds`: the time between two readings while jobs run, 1 s to 1 h. Default: the
    /// interval of the built-in signal, or 5 s for the user's own signals.
    #[serde(rename = "interval_seconds", deserialize_with = "some_seconds")]
    pub interval: Option<Duration>,
    /// `timeout_seconds`: the time after which a query or a request counts as failed, 0.1 s to 60
    /// s. Default: 2 s.
    #[serde(rename = "timeout_seconds", deserialize_with = "units::seconds")]
    pub timeout: Duration,
}

impl Default for SignalRule {
    fn default() -> Self {
        Self {
            name: String::new(),
            sql: None,
            http: None,
            prometheus: None,
            token_file: None,
            ca_file: None,
            pattern: None,
            cores: None,
            limit: None,
            interval: None,
            timeout: Self::TIMEOUT,
        }
    }
}

/// A query for a Prometheus server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrometheusQuery {
    /// The URL of the server, including its path prefix if it has one.
    pub url: HttpUrl,
    pub query: String,
}

/// A URL. `Debug` and `Display` show only the scheme, host and port, because the rest may contain a
/// secret.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpUrl {
    uri: Uri,
    host: String,
}

impl HttpUrl {
    /// Parses an `http://` or `https://` URL.
    ///
    /// # Errors
    /// A message that does not contain the URL.
    pub fn parse(text: &str) -> Result<Self, String> {
        let no_url = "it is not an http:// or https:// url with a host".to_owned();
        let uri: Uri = text.trim().parse().map_err(|_| no_url.clone())?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(no_url);
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("it contains a user or a password: put a bearer token into token_file instead".to_owned());
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if host.is_empty() { Err(no_url) } else { Ok(Self { uri, host }) }
    }

    /// Returns the whole URL. Only the code that sends the request may use it.
    pub fn expose(&self) -> &Uri {
        &self.uri
    }

    /// Returns the host: a name or an address. An IPv6 address has no brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(if self.is_https() { 443 } else { 80 })
    }

    pub fn is_https(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        write!(f, "{}://{authority}", self.uri.scheme_str().unwrap_or_default())
    }
}

impl fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl<'de> Deserialize<'de> for HttpUrl {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(input)?).map_err(serde::de::Error::custom)
    }
}

fn some_seconds<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    units::seconds(input).map(Some)
}

impl SignalRule {
    /// Names of the built-in signals except replica lag. The built-in signals take no `sql`, `http`
    /// or `prometheus`.
    pub const BUILT_IN: [&str; 10] = [
        "lock_waits",
        "active_sessions",
        "probe_latency",
        "slot",
        "archiver",
        "oldest_xmin",
        "checkpoints",
        "statement_time",
        "rollbacks",
        "deadlocks",
    ];
    /// The default value of `timeout_seconds`.
    pub const TIMEOUT: Duration = Duration::from_secs(2);

    pub(super) fn check(&self) -> Result<()> {
        let name = &self.name;
        let refuse = |message: String, remedy: &str| Err(Error::new(Kind::Config, message).hint(remedy));
        let ways = [self.sql.is_some(), self.http.is_some(), self.prometheus.is_some()];
        let ways = ways.into_iter().filter(|way| *way).count();
        if name.is_empty() {
            return refuse(
                "signals: an entry has no name".to_owned(),
                "Set the key `name`. The view backfill.signals shows this name in the column source.",
            );
        }
        if self.is_built_in() && ways > 0 {
            return refuse(
                format!("signal \"{name}\" is built in, so it cannot set sql, http or prometheus"),
                "Remove the key, or give your own signal another name.",
            );
        }
        if !self.is_built_in() && ways != 1 {
            let message = if ways == 0 {
                format!(
                    "signal \"{name}\" sets none of sql, http and prometheus, and it is not one of the built-in signals that can be configured here"
                )
            } else {
                format!("signal \"{name}\" sets more than one of sql, http and prometheus")
            };
            let remedy = format!(
                "Set exactly one of sql, http and prometheus, or none of them if the signal is one of these built-in ones: {}. The limits of replica lag are set under the key replicas.",
                Self::BUILT_IN.join(", ")
            );
            return refuse(message, &remedy);
        }
        match self.limit {
            None if self.http.is_some() => {}
            Some(1.0) if self.http.is_some() => {}
            Some(limit) if self.http.is_some() => {
                return refuse(
                    format!(
                        "signal \"{name}\": limit is {limit}, but the limit of an http signal is always 1 (value 0 lets jobs run, 1 holds them)"
                    ),
                    "Leave limit out.",
                );
            }
            None => {
                return refuse(
                    format!("signal \"{name}\" has no limit"),
                    "Set the key `limit` to the value at which jobs are held or slowed down.",
                );
            }
            Some(limit) if !(limit.is_finite() && limit > 0.0) => {
                return refuse(format!("signal \"{name}\": limit is {limit}"), "Set it to a finite number above 0.");
            }
            Some(_) => {}
        }
        if self.pattern.is_some() && name != "slot" {
            return refuse(
                format!("signal \"{name}\" sets match"),
                "Leave out the key `match`; only the signal slot uses it.",
            );
        }
        if self.cores.is_some() && name != "active_sessions" {
            return refuse(
                format!("signal \"{name}\" has cores"),
                "Leave out the key cores; only the signal active_sessions uses this key.",
            );
        }
        if self.cores == Some(0) {
            return refuse(
                format!("signal \"{name}\": cores is 0"),
                "Set it to the number of cores of the server, or leave it out.",
            );
        }
        if self.http.is_none() && self.prometheus.is_none() && (self.token_file.is_some() || self.ca_file.is_some()) {
            return refuse(
                format!("signal \"{name}\" has a token_file or a ca_file"),
                "Leave them out; they are for http and prometheus only.",
            );
        }
        for (key, given, least, most) in
            [("interval_seconds", self.interval, 1.0, 3600.0), ("timeout_seconds", Some(self.timeout), 0.1, 60.0)]
        {
            let Some(seconds) = given.map(|given| given.as_secs_f64()) else { continue };
            if !(least..=most).contains(&seconds) {
                return refuse(
                    format!("signal \"{name}\": {key} is {seconds}"),
                    &format!("Set it to a value between {least} and {most}."),
                );
            }
        }
        Ok(())
    }

    /// Returns whether the rule is for a built-in signal, and not for the user's own signal.
    pub fn is_built_in(&self) -> bool {
        Self::BUILT_IN.contains(&self.name.as_str())
    }

    /// Returns whether the rule applies to the replication slot with this name.
    pub fn matches(&self, slot: &str) -> bool {
        self.pattern.as_deref().is_none_or(|pattern| super::replica::glob(pattern, slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scheme_host_and_port_of_a_url_are_shown() {
        let url = HttpUrl::parse("https://check.example:8443/hunter2?token=hunter2").unwrap();
        assert_eq!(
            (url.to_string(), format!("{url:?}")),
            ("https://check.example:8443".to_owned(), "\"https://check.example:8443\"".to_owned())
        );
        assert_eq!((url.host(), url.port(), url.is_https()), ("check.example", 8443, true));
        let six = HttpUrl::parse("http://[::1]/").unwrap();
        assert_eq!((six.host(), six.port()), ("::1", 80));
        for wrong in
            ["hunter2", "ftp://hunter2/", "/hunter2", "http://", "http://me:hunter2@host/", "https://hunter2@host"]
        {
            let error = HttpUrl::parse(wrong).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn an_inconsistent_rule_is_refused_with_the_remedy() {
        let base = SignalRule { name: "mine".to_owned(), limit: Some(1.0), ..SignalRule::default() };
        let sql = SignalRule { sql: Some("select 1".to_owned()), ..base.clone() };
        let check = HttpUrl::parse("http://host/").ok();
        let seconds = Duration::from_secs;
        sql.check().unwrap();
        SignalRule { http: check.clone(), limit: None, ..base.clone() }.check().unwrap();
        SignalRule { name: "slot".to_owned(), pattern: Some("a*".to_owned()), ..base.clone() }.check().unwrap();
        for (rule, told) in [
            (base.clone(), "sets none of sql, http and prometheus"),
            (SignalRule { name: String::new(), ..sql.clone() }, "has no name"),
            (SignalRule { http: check.clone(), ..sql.clone() }, "sets more than one of"),
            (SignalRule { name: "archiver".to_owned(), ..sql.clone() }, "is built in, so it cannot set"),
            (SignalRule { limit: None, ..sql.clone() }, "has no limit"),
            (SignalRule { limit: Some(0.0), ..sql.clone() }, "limit is 0"),
            (SignalRule { http: check, limit: Some(2.0), ..base }, "is always 1 (value 0 lets jobs run, 1 holds them)"),
            (SignalRule { pattern: Some("*".to_owned()), ..sql.clone() }, "sets match"),
            (SignalRule { cores: Some(4), ..sql.clone() }, "has cores"),
            (SignalRule { token_file: Some("/t".into()), ..sql.clone() }, "token_file"),
            (SignalRule { interval: Some(seconds(0)), ..sql.clone() }, "interval_seconds is 0"),
            (SignalRule { timeout: seconds(61), ..sql }, "timeout_seconds is 61"),
        ] {
            let error = rule.check().unwrap_err();
            assert!(error.message.contains(told) && error.hint.is_some(), "{error:?}");
        }
    }
}
