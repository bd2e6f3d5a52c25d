//! Which replica a limit is for, and the limit.

use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;

use super::units;
use crate::error::{Error, Kind, Result};

/// How far a replica may lag before the work holds. Where `match` and `address` are both set, both must fit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplicaRule {
    /// `match`: a pattern for the replica's application_name, `*` for any run of characters. Default: `*`.
    #[serde(rename = "match")]
    pub pattern: String,
    /// The replica's client_addr: an IP address, or a network such as `10.0.0.0/8`. Default: any.
    pub address: Option<String>,
    /// Leave this replica out of the account altogether. Default: false.
    pub ignore: bool,
    /// `max_lag_seconds`: replay lag at which the work holds. Default: 1.
    #[serde(rename = "max_lag_seconds", deserialize_with = "units::seconds")]
    pub max_lag: Duration,
    /// `max_lag_bytes`: WAL not yet replayed at which the work holds; a size (`64MiB`) or bytes. Default: 64MiB.
    #[serde(deserialize_with = "units::bytes")]
    pub max_lag_bytes: u64,
    /// Hold the work too while no replica matches this rule. Default: false.
    pub required: bool,
    /// The environment variable with a connection string of the replica itself, to ask it for its lag. Default: none;
    /// the primary is asked.
    pub url_env: Option<String>,
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
        }
    }
}

impl ReplicaRule {
    /// `client_addr` is none for a replica that comes over a Unix socket.
    pub fn matches(&self, application_name: &str, client_addr: Option<IpAddr>) -> bool {
        let address_fits = match self.address.as_deref().map(Network::parse) {
            None => true,
            Some(network) => network.zip(client_addr).is_some_and(|(network, address)| network.holds(address)),
        };
        address_fits && glob(&self.pattern, application_name)
    }

    pub(super) fn check(&self) -> Result<()> {
        let refuse = |message: String, remedy: &str| Err(Error::new(Kind::Config, message).hint(remedy));
        if self.pattern.is_empty() {
            return refuse("match is empty".to_owned(), "write \"*\" to match every replica");
        }
        if let Some(address) = &self.address
            && Network::parse(address).is_none()
        {
            return refuse(
                format!("address \"{address}\" is neither an IP address nor a network"),
                "write 10.1.2.3, 10.0.0.0/8 or fd00::/8",
            );
        }
        if self.ignore && self.required {
            return refuse("ignore and required are both set".to_owned(), "keep one of them");
        }
        if self.max_lag.is_zero() || self.max_lag_bytes == 0 {
            return refuse(
                "max_lag_seconds or max_lag_bytes is 0, which would hold for ever".to_owned(),
                "set a limit above 0, or ignore: true to leave the replica out",
            );
        }
        Ok(())
    }
}

struct Network {
    address: IpAddr,
    /// Leading bits that count.
    prefix: u32,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(width);
        (prefix <= width).then_some(Self { address, prefix })
    }

    fn holds(&self, other: IpAddr) -> bool {
        match (self.address.to_canonical(), other.to_canonical()) {
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

/// `*` stands for any run of characters, everything else for itself.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == text };
    let Some(rest) = text.strip_prefix(head) else { return false };
    let starts = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    tail.is_empty() || starts.into_iter().any(|at| glob(tail, &rest[at..]))
}

#[cfg(test)]
mod tests {
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
}
