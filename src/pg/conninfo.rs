//! Reads a connection string as libpq does. Parameters that the string leaves out come from a
//! service file, then from the `PG*` variables, then from defaults. The defaults are those of
//! libpq, except for the timeouts and keepalives.
//!
//! The driver's parser supports neither `sslmode=verify-full` nor service and password files, so
//! only the driver's setters are used. An error names the parameter and never its value, because
//! the value may be a part of a password that was not quoted.

mod parameters;
mod service;
mod words;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, LoadBalanceHosts, SslNegotiation, TargetSessionAttrs};

use self::parameters::{PARAMETERS, Use};
use crate::config::environment::Environment;
use crate::config::place::host_and_port;
use crate::config::secret::{Login, Password};
use crate::error::{Error, Kind, Result};
use crate::pg::passfile::{Passfile, Wanted};
use crate::pg::tls::terms::Terms;

/// Default of `connect_timeout`. A server that does not respond within this time counts as down.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The default directories of Unix sockets, used if no host is given: Debian's default and
/// PostgreSQL's own.
const SOCKETS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// The host of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// If `address` is set, the name is not resolved. The name in the server's certificate is still
    /// compared with `name`.
    Tcp { name: String, address: Option<IpAddr> },
    /// The directory of a Unix socket.
    Unix(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub host: Host,
    pub port: u16,
}

impl Place {
    /// Reads `host` or `host:port`; see [`host_and_port`].
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = host_and_port(text)?;
        let host = match host.starts_with('/') {
            true => Host::Unix(host.into()),
            false => Host::Tcp { name: host.to_owned(), address: None },
        };
        Some(Self { host, port })
    }
}

/// The parsed form of a connection string.
#[derive(Debug, Clone)]
pub struct ConnInfo {
    /// The driver's configuration without host, port, password and `sslmode`. It contains no
    /// password, so the `Debug` output of [`ConnInfo`] shows none.
    base: Config,
    /// The places to try, in this order unless `shuffled` is set.
    pub places: Vec<Place>,
    pub terms: Terms,
    /// Maximum time to connect to one place (a host and a port).
    pub timeout: Duration,
    pub shuffled: bool,
    user: String,
    password: Option<Password>,
    passfile: Option<Passfile>,
}

/// Reads the connection information of a login. `environment` returns the value of an environment
/// variable: a `PG*` variable or `HOME`.
///
/// # Errors
/// [`Kind::Config`], with the name of the parameter and the reason, but without its value.
pub fn read(login: &Login, application_name: &str, environment: Environment) -> Result<ConnInfo> {
    let given = Given::gather(login, environment)?;
    given.conninfo(login, application_name, environment)
}

impl ConnInfo {
    /// Returns the driver's configuration for one place. It contains the password, but not the
    /// host, the port and `sslmode`.
    ///
    /// # Errors
    /// [`Kind::Config`] if the user named a password file and the file cannot be used.
    pub fn config(&self, place: &Place) -> Result<Config> {
        let mut config = self.base.clone();
        if let Some(password) = self.password_for(place)? {
            config.password(password.expose());
        }
        Ok(config)
    }

    fn password_for(&self, place: &Place) -> Result<Option<Password>> {
        let (Some(passfile), None) = (&self.passfile, &self.password) else { return Ok(self.password.clone()) };
        let folder;
        let host = match &place.host {
            Host::Tcp { name, .. } => name,
            Host::Unix(path) if SOCKETS.iter().any(|usual| Path::new(usual) == path) => "localhost",
            Host::Unix(path) => {
                folder = path.to_string_lossy();
                folder.as_ref()
            }
        };
        let database = self.base.get_dbname().unwrap_or(&self.user);
        passfile.find(Wanted { host, port: place.port, database, user: &self.user })
    }

    /// Replaces the places to try. The new places may be standbys.
    pub fn move_to(&mut self, places: Vec<Place>) {
        self.places = places;
        self.base.target_session_attrs(TargetSessionAttrs::Any);
    }

    /// Returns the name of the login.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Makes `role` a startup parameter of the session, so that RESET ROLE returns to this role.
    pub fn set_role(&mut self, role: &str) {
        let role = role.replace('\\', "\\\\").replace(' ', "\\ ");
        let given = self.base.get_options().map_or(String::new(), |given| format!("{given} "));
        self.base.options(format!("{given}-c role={role}"));
    }
}

/// The parameters by name, from all sources.
struct Given(BTreeMap<&'static str, String>);

fn wrong(name: &str, why: &str, remedy: impl Into<String>) -> Error {
    Error::new(Kind::Config, format!("{name} {why}")).hint(remedy)
}

fn one_of(name: &str, known: &[&str]) -> Error {
    wrong(name, "has an unknown value", format!("Set {name} to one of: {}.", known.join(", ")))
}

impl Given {
    fn gather(login: &Login, environment: Environment) -> Result<Self> {
        let pairs = words::split(login.url.expose())
            .map_err(|why| Error::new(Kind::Config, format!("it is not a connection string ({why})")))?;
        let mut given = Self(BTreeMap::new());
        given.add(pairs, true, login.url.is_plain())?;
        let set = |name: &str| environment(name).filter(|value| !value.is_empty());
        if let Some(service) = given.0.get("service").cloned().or_else(|| set("PGSERVICE")) {
            let file = given.0.get("servicefile").cloned().or_else(|| set("PGSERVICEFILE"));
            let pairs = service::read(&service, file.as_deref(), environment)?;
            given.add(pairs, false, true).map_err(|error| error.context(format!("service \"{service}\"")))?;
        }
        // If the string or the service names a host, `PGHOSTADDR` is ignored, because it would be
        // the address of another host.
        let named_host = given.0.contains_key("host");
        for parameter in PARAMETERS {
            if given.0.contains_key(parameter.name) || (named_host && parameter.name == "hostaddr") {
                continue;
            }
            if let (Some(variable), Some(value)) = (parameter.variable, parameter.variable.and_then(set)) {
                if let Use::Refused(remedy) = parameter.used {
                    return Err(wrong(variable, "is set but not supported", remedy));
                }
                given.0.insert(parameter.name, value);
            }
        }
        // `PGREQUIRESSL` is obsolete, but libpq still reads it.
        if !given.0.contains_key("sslmode") && set("PGREQUIRESSL").is_some_and(|value| value.starts_with('1')) {
            given.0.insert("sslmode", "require".to_owned());
        }
        Ok(given)
    }

    /// Adds parameters. If a parameter of the same name already exists, the new value replaces the
    /// old value only if `strongest` is set.
    fn add(&mut self, pairs: words::Pairs, strongest: bool, names_are_plain: bool) -> Result<()> {
        for (name, value) in pairs {
            let Some(parameter) = parameters::find(&name) else {
                // The name is shown only if it looks like the name of a parameter. Any other text
                // may be the rest of a password.
                let looks =
                    names_are_plain && name.len() < 40 && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
                let name = if looks { format!("\"{name}\"") } else { "(name not shown)".to_owned() };
                let known: Vec<&str> = PARAMETERS
                    .iter()
                    .filter(|parameter| parameter.used == Use::Heeded)
                    .map(|parameter| parameter.name)
                    .collect();
                return Err(Error::new(Kind::Config, format!("unknown parameter {name}"))
                    .hint(format!("Known parameters: {}.", known.join(", "))));
            };
            match parameter.used {
                Use::Refused(remedy) => return Err(wrong(parameter.name, "is not supported", remedy)),
                Use::Ignored => {}
                Use::Heeded if strongest || !self.0.contains_key(parameter.name) => {
                    self.0.insert(parameter.name, value);
                }
                Use::Heeded => {}
            }
        }
        Ok(())
    }

    /// Returns the value of a parameter. An empty value counts as not given.
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn number(&self, name: &str) -> Result<Option<u32>> {
        self.get(name)
            .map(|value| {
                value
                    .trim()
                    .parse::<i32>()
                    // As in libpq, a negative number counts as 0.
                    .map(|number| u32::try_from(number).unwrap_or(0))
                    .map_err(|_| {
                        wrong(name, "is not an integer", format!("Set {name} to an integer, or leave it out."))
                    })
            })
            .transpose()
    }

    fn choice<T: Copy>(&self, name: &str, known: &[(&str, T)]) -> Result<Option<T>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let found = known.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning);
        let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
        found.map(Some).ok_or_else(|| one_of(name, &words))
    }

    fn conninfo(&self, login: &Login, application_name: &str, environment: Environment) -> Result<ConnInfo> {
        let set = |name: &str| environment(name).filter(|value| !value.is_empty());
        let places = self.places()?;
        let terms = Terms::read(&|name| self.get(name).map(str::to_owned), &set)?;
        if self.get("gssencmode") == Some("require") {
            return Err(wrong(
                "gssencmode=require",
                "is not supported",
                "GSSAPI is not built in. Use sslmode=verify-full instead.",
            ));
        }
        let mut base = Config::new();
        let user = match self.get("user") {
            Some(user) => user.to_owned(),
            None => whoami::username().map_err(|_| {
                wrong(
                    "user",
                    "is missing, and the system user has no name",
                    "Name a user, for example postgres://user@host/database.",
                )
            })?,
        };
        // A user name with a colon probably contains a password. The server repeats the user name
        // in its errors, so the password could appear in the log.
        if user.contains(':') {
            return Err(wrong(
                "user",
                "contains a colon",
                "Write the password in its own part of the URL (postgres://USER:PASSWORD@HOST/DATABASE), or in password_file.",
            ));
        }
        base.user(&user).application_name(application_name);
        if let Some(database) = self.get("dbname") {
            base.dbname(database);
        }
        if let Some(options) = self.get("options") {
            base.options(options);
        }
        self.network(&mut base)?;
        if let Some(binding) = self.choice(
            "channel_binding",
            &[
                ("disable", ChannelBinding::Disable),
                ("prefer", ChannelBinding::Prefer),
                ("require", ChannelBinding::Require),
            ],
        )? {
            base.channel_binding(binding);
        }
        if terms.direct {
            base.ssl_negotiation(SslNegotiation::Direct);
        }
        let wanted = self.choice(
            "target_session_attrs",
            &[
                ("any", Some(TargetSessionAttrs::Any)),
                ("read-write", Some(TargetSessionAttrs::ReadWrite)),
                ("primary", Some(TargetSessionAttrs::ReadWrite)),
                ("read-only", None),
                ("standby", None),
                ("prefer-standby", None),
            ],
        )?;
        match wanted {
            Some(Some(wanted)) => _ = base.target_session_attrs(wanted),
            Some(None) => {
                return Err(wrong(
                    "target_session_attrs",
                    "can select a read-only server",
                    "Set target_session_attrs=read-write, because the daemon needs a writable server.",
                ));
            }
            None => {}
        }
        let shuffled = self.choice(
            "load_balance_hosts",
            &[("disable", LoadBalanceHosts::Disable), ("random", LoadBalanceHosts::Random)],
        )? == Some(LoadBalanceHosts::Random);
        let password = login.password.clone().or_else(|| self.get("password").map(Password::new));
        let passfile = match self.get("passfile") {
            Some(path) => Some(Passfile { path: path.into(), named: true }),
            None => set("HOME").map(|home| Passfile { path: Path::new(&home).join(".pgpass"), named: false }),
        };
        // In libpq the value 0 means to wait forever. No connection of the daemon may wait forever,
        // so here 0 means the default. The minimum is 2 s, as in libpq, because 1 s is too short to
        // look up a name.
        let timeout = match self.number("connect_timeout")? {
            None | Some(0) => CONNECT_TIMEOUT,
            Some(seconds) => Duration::from_secs(u64::from(seconds.max(2))),
        };
        Ok(ConnInfo { base, places, terms, timeout, shuffled, user, password, passfile })
    }

    /// Sets the keepalives so that the loss of a server is detected within half a minute, unless
    /// the connection string sets other values.
    fn network(&self, base: &mut Config) -> Result<()> {
        let seconds = |number: u32| Duration::from_secs(u64::from(number));
        let given = |name| self.number(name).map(|number| number.filter(|number| *number > 0));
        base.keepalives(self.number("keepalives")? != Some(0));
        base.keepalives_idle(seconds(given("keepalives_idle")?.unwrap_or(10)));
        base.keepalives_interval(seconds(given("keepalives_interval")?.unwrap_or(5)));
        base.keepalives_retries(given("keepalives_count")?.unwrap_or(3));
        // As in libpq, the unit of this parameter is milliseconds.
        base.tcp_user_timeout(Duration::from_millis(u64::from(given("tcp_user_timeout")?.unwrap_or(20_000))));
        Ok(())
    }

    fn places(&self) -> Result<Vec<Place>> {
        let list = |name: &str| -> Vec<&str> {
            self.get(name).map_or(Vec::new(), |text| text.split(',').map(str::trim).collect())
        };
        let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
        let count = names.len().max(addresses.len()).max(1);
        let fits = |len: usize| len == 0 || len == count;
        if !fits(names.len()) || !fits(addresses.len()) || !(fits(ports.len()) || ports.len() == 1) {
            return Err(wrong(
                "host",
                "does not have the same number of entries as hostaddr or port",
                "Give one port for all hosts, or one per host. Give no hostaddr, or one per host.",
            ));
        }
        (0..count)
            .map(|at| {
                let port = match ports.get(at).or(ports.first()).copied().unwrap_or_default() {
                    "" => 5432,
                    port => port.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
                        wrong("port", "is not a number from 1 to 65535", "Write the port as in host:5432 or port=5432.")
                    })?,
                };
                let address = match addresses.get(at).copied().unwrap_or_default() {
                    "" => None,
                    address => Some(address.parse::<IpAddr>().map_err(|_| {
                        wrong(
                            "hostaddr",
                            "is not an IP address",
                            "Set hostaddr to an address, for example 10.0.0.5. A name belongs in host.",
                        )
                    })?),
                };
                let host = match (names.get(at).copied().unwrap_or_default(), address) {
                    (path, _) if path.starts_with('/') => Host::Unix(path.into()),
                    (name, _) if name.starts_with('@') => {
                        return Err(wrong(
                            "host",
                            "is an abstract Unix socket, which is not supported",
                            "Set host to the directory of a regular Unix socket.",
                        ));
                    }
                    ("", Some(address)) => Host::Tcp { name: address.to_string(), address: Some(address) },
                    ("", None) => usual_host(port),
                    (name, _) => Host::Tcp { name: name.to_owned(), address },
                };
                Ok(Place { host, port })
            })
            .collect()
    }
}

/// Returns the default directory that contains the Unix socket of this port, or localhost if no
/// default directory contains it.
fn usual_host(port: u16) -> Host {
    let found = SOCKETS.iter().find(|folder| Path::new(folder).join(format!(".s.PGSQL.{port}")).exists());
    found.map_or_else(
        || Host::Tcp { name: "localhost".to_owned(), address: None },
        |folder| Host::Unix(PathBuf::from(folder)),
    )
}

#[cfg(test)]
mod tests;
