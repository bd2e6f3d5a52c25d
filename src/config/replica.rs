//! The lag limits of replicas, and the rules that select a replica.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::environment::{self, Environment};
use super::secret::Login;
use super::{source, units};
use crate::error::{Error, Kind, Result};

/// The lag limits of the replicas that the rule matches. Jobs are held when the lag of a replica
/// reaches a limit. If `match` and `address` are both set, a replica must match both.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplicaRule {
    /// `match`: a pattern for the replica's application_name, in which `*` stands for any run of
    /// characters. Default: `*`.
    #[serde(rename = "match")]
    pub pattern: String,
    /// The replica's client_addr: an IP address, or a network, for example `10.0.0.0/8`. Default:
    /// any address.
    pub address: Option<String>,
    /// Whether to ignore the lag of the replicas that the rule matches. Default: false.
    pub ignore: bool,
    /// `max_lag_seconds`: the replay lag at which jobs are held. Default: 1.
    #[serde(rename = "max_lag_seconds", deserialize_with = "units::seconds")]
    pub max_lag: Duration,
    /// `max_lag_bytes`: the amount of unreplayed WAL at which jobs are held. The value is a size
    /// (`64MiB`) or a number of bytes. Default: 64MiB.
    #[serde(deserialize_with = "units::bytes")]
    pub max_lag_bytes: u64,
    /// Whether jobs are also held until a replica has matched this rule, and while a replica that
    /// matched the rule is disconnected. Default: false.
    pub required: bool,
    /// The environment variable that contains the connection string of the replica. If `url_env` or
    /// `url_file` is set, the lag is read from the replica itself. Otherwise, the lag is read from
    /// the primary. Default: none.
    pub url_env: Option<String>,
    /// The file that contains the connection string of the replica. Default: none.
    pub url_file: Option<PathBuf>,
    /// The environment variable that contains the password, if the URL contains no password.
    /// Default: none.
    pub password_env: Option<String>,
    /// The file that contains the password, if the URL contains no password. Default: none.
    pub password_file: Option<PathBuf>,
}

impl Default for ReplicaRule {
    fn default() -> Self {
        Self {
            pattern: "*".to_owned(),
            address: None,
            ignore: false,
            max_lag: Duration::from_secs(1),
            max_lag_bytes: 64 << 20,
            required: false,
            url_env: None,
            url_file: None,
            password_env: None,
            password_file: None,
        }
    }
}

impl ReplicaRule {
    /// Returns whether the rule matches a replica. `client_addr` is none for a replica that
    /// connects over a Unix socket.
    pub fn matches(&self, application_name: &str, client_addr: Option<IpAddr>) -> bool {
        let address_fits = match self.address.as_deref().map(Network::parse) {
            None => true,
            Some(network) => network.zip(client_addr).is_some_and(|(network, address)| network.holds(address)),
        };
        address_fits && glob(&self.pattern, application_name)
    }

    /// Returns whether the lag is read from the replica itself, and not from the primary. A rule
    /// that reads from the replica itself applies to a single replica.
    pub fn asks_itself(&self) -> bool {
        self.url_env.is_some() || self.url_file.is_some()
    }

    /// Returns the current login for the replica. Reads the variables and files at each call.
    pub fn login(&self) -> Result<Login> {
        self.login_with(&environment::of_process)
    }

    fn login_with(&self, environment: Environment) -> Result<Login> {
        source::resolve(self.sources(), environment).map_err(|error| error.context(format!("replica {}", self.pattern)))
    }

    fn sources(&self) -> source::Sources<'_> {
        source::Sources {
            url: None,
            url_env: self.url_env.as_deref(),
            url_file: self.url_file.as_deref(),
            password_env: self.password_env.as_deref(),
            password_file: self.password_file.as_deref(),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let refuse = |message: String, remedy: &str| Err(Error::new(Kind::Config, message).hint(remedy));
        if self.pattern.is_empty() {
            return refuse("match is empty".to_owned(), "Write \"*\" to match every replica.");
        }
        if let Some(address) = &self.address
            && Network::parse(address).is_none()
        {
            return refuse(
                format!("address \"{address}\" is neither an IP address nor a network"),
                "Write an IP address such as 10.1.2.3, or a network such as 10.0.0.0/8 or fd00::/8.",
            );
        }
        if self.asks_itself() {
            source::check(self.sources())?;
            if self.pattern.contains('*') {
                return refuse(
                    format!("match \"{}\" is a pattern, but the url belongs to one replica", self.pattern),
                    "Set the key `match` to the application_name of this replica, or to any name if the primary does not list the replica.",
                );
            }
            if self.ignore {
                return refuse("the key `ignore` and a url cannot both be set".to_owned(), "Keep one of them.");
            }
        } else if self.password_env.is_some() || self.password_file.is_some() {
            return refuse(
                "a password is set without a url".to_owned(),
                "Set url_env or url_file to read the lag from the replica itself, or remove the password.",
            );
        }
        if self.ignore && self.required {
            return refuse("the keys `ignore` and `required` cannot both be set".to_owned(), "Keep one of them.");
        }
        if self.max_lag.is_zero() || self.max_lag_bytes == 0 {
            return refuse(
                "max_lag_seconds or max_lag_bytes is 0: jobs would be held permanently".to_owned(),
                "Set a limit above 0, or set ignore: true to ignore the lag of the replica.",
            );
        }
        Ok(())
    }
}

struct Network {
    address: IpAddr,
    /// The number of leading bits that an address must share with the network.
    prefix: u32,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(width);
        if prefix > width {
            return None;
        }
        // An IPv4-mapped IPv6 address is compared as IPv4, so the 96 bits before the IPv4 address
        // are subtracted from the prefix length.
        let canonical = address.to_canonical();
        let prefix = if canonical == address { prefix } else { prefix.checked_sub(96)? };
        Some(Self { address: canonical, prefix })
    }

    fn holds(&self, other: IpAddr) -> bool {
        match (self.address, other.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (a.to_bits() ^ b.to_bits()).checked_shr(32 - self.prefix).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                (a.to_bits() ^ b.to_bits()).checked_shr(128 - self.prefix).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Returns whether the text matches the pattern, in which `*` stands for any run of characters.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == text };
    let (middle, end) = tail.rsplit_once('*').unwrap_or(("", tail));
    let Some(mut rest) = text.strip_prefix(head).and_then(|rest| rest.strip_suffix(end)) else { return false };
    // Each part takes its first match, because this leaves the most text for the next parts.
    middle.split('*').all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        assert!(
            glob("*", "") && glob("*", "eu-1") && glob("eu-*", "eu-1") && glob("*-1", "eu-1") && glob("e*-*1", "eu-1")
        );
        assert!(!glob("eu-*", "us-1") && !glob("eu", "eu-1") && !glob("*2", "eu-1") && glob("ü*", "üx"));
    }

    #[test]
    fn an_address_is_one_host_or_a_network() {
        let fits = |address: &str, client: &str| {
            let rule = ReplicaRule { address: Some(address.to_owned()), ..ReplicaRule::default() };
            rule.matches("any", client.parse().ok())
        };
        assert!(fits("10.0.0.5", "10.0.0.5") && !fits("10.0.0.5", "10.0.0.6"));
        assert!(fits("10.0.0.0/8", "10.9.8.7") && !fits("10.0.0.0/8", "11.0.0.1"));
        assert!(fits("0.0.0.0/0", "192.0.2.1") && fits("fd00::/8", "fd12::1") && !fits("fd00::/8", "fe80::1"));
        assert!(!fits("0.0.0.0/0", "over a socket"));
    }

    /// A simple and slow reference implementation of [`glob`].
    fn slow_glob(pattern: &str, text: &str) -> bool {
        match (pattern.chars().next(), text.chars().next()) {
            (None, None) => true,
            (Some('*'), next) => {
                slow_glob(&pattern[1..], text) || next.is_some_and(|c| slow_glob(pattern, &text[c.len_utf8()..]))
            }
            (Some(p), Some(c)) if p == c => slow_glob(&pattern[p.len_utf8()..], &text[c.len_utf8()..]),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_as_the_simple_algorithm_does(pattern in "[ab*ü]{0,9}", text in "[abü]{0,9}") {
            prop_assert_eq!(glob(&pattern, &text), slow_glob(&pattern, &text));
        }

        #[test]
        fn no_address_makes_the_parser_panic(text in "[0-9a-f:./]{0,40}|.*", a: u32, b: u128, prefix in 0u32..=128) {
            let clients = [IpAddr::from(a.to_be_bytes()), IpAddr::from(b.to_be_bytes())];
            for text in [text, format!("::ffff:{}/{prefix}", std::net::Ipv4Addr::from(a))] {
                if let Some(network) = Network::parse(&text) {
                    let _ = clients.map(|client| network.holds(client));
                }
            }
        }

        #[test]
        fn a_network_contains_the_addresses_with_its_first_bits(a: u32, flipped in 0u32..32, prefix in 0u32..=32) {
            let other = IpAddr::from((a ^ (1 << (31 - flipped))).to_be_bytes());
            let address = std::net::Ipv4Addr::from(a);
            for text in [format!("{address}/{prefix}"), format!("::ffff:{address}/{}", prefix + 96)] {
                let network = Network::parse(&text).unwrap();
                prop_assert!(network.holds(address.into()) && network.holds(address.to_ipv6_mapped().into()));
                prop_assert_eq!(network.holds(other), flipped >= prefix);
            }
        }
    }
}
