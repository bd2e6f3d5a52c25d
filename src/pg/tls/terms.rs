//! Reads the `ssl*` parameters of a connection string, with libpq's meaning.

use std::path::{Path, PathBuf};

use rustls::{SupportedProtocolVersion, version};

use crate::config::environment::Environment;
use crate::error::{Error, Kind, Result};

/// The protection that the connection must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Unencrypted.
    Disable,
    /// Unencrypted if the server accepts an unencrypted connection, otherwise encrypted.
    Allow,
    /// Encrypted if the server accepts an encrypted connection, otherwise unencrypted.
    Prefer,
    /// Encrypted. If a root file exists, the server's certificate must also be issued by a CA in
    /// this file.
    Require,
    /// Encrypted. The server's certificate must be issued by a trusted CA.
    VerifyCa,
    /// Like `VerifyCa`. The certificate must also be valid for the host in the connection string.
    VerifyFull,
}

/// libpq's name of each mode.
const SSLMODES: [(&str, SslMode); 6] = [
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

impl SslMode {
    pub fn name(self) -> &'static str {
        SSLMODES.iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }
}

/// The CAs to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// No CA is named, so any certificate is accepted.
    Anybody,
    File(PathBuf),
    /// The system's CAs.
    System,
}

/// The parsed `ssl*` parameters.
#[derive(Debug, Clone)]
pub struct Terms {
    pub mode: SslMode,
    pub roots: Roots,
    /// The files of the client's certificate and of its key.
    pub(super) client: Option<(PathBuf, PathBuf)>,
    pub(super) sni: bool,
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
    /// Whether `sslnegotiation=direct` is set. The handshake then starts without a preceding
    /// SSLRequest.
    pub direct: bool,
}

pub(super) fn wrong(message: impl Into<String>, remedy: impl Into<String>) -> Error {
    Error::new(Kind::Config, message).hint(remedy)
}

impl Terms {
    /// Reads the parameters. `get` returns the value of a parameter. `environment` returns `HOME`,
    /// whose subdirectory `.postgresql` contains libpq's default files.
    ///
    /// # Errors
    /// [`Kind::Config`] if a value is unknown or not supported, if two parameters contradict each
    /// other, or if a required certificate or key is not named.
    pub fn read(get: &dyn Fn(&str) -> Option<String>, environment: Environment) -> Result<Self> {
        let home = |name: &str| {
            let path = Path::new(&environment("HOME")?).join(".postgresql").join(name);
            path.exists().then_some(path)
        };
        let roots = match get("sslrootcert").as_deref() {
            Some("system") => Roots::System,
            Some(path) => Roots::File(path.into()),
            None => home("root.crt").map_or(Roots::Anybody, Roots::File),
        };
        let mode = match get("sslmode") {
            None if roots == Roots::System => SslMode::VerifyFull,
            None => SslMode::Prefer,
            Some(word) => SSLMODES.iter().find(|(name, _)| *name == word).map(|(_, mode)| *mode).ok_or_else(|| {
                let known: Vec<&str> = SSLMODES.iter().map(|(name, _)| *name).collect();
                wrong("sslmode has an unknown value", format!("Set sslmode to one of: {}.", known.join(", ")))
            })?,
        };
        if roots == Roots::System && mode != SslMode::VerifyFull {
            return Err(wrong(
                "sslrootcert=system is not secure with this sslmode: anyone can get a certificate from a public CA",
                "Set sslmode=verify-full.",
            ));
        }
        if mode >= SslMode::VerifyCa && roots == Roots::Anybody {
            return Err(wrong(
                format!("sslmode={} requires a root certificate, but none is configured", mode.name()),
                "Set sslrootcert=/path/root.crt (or put the file at ~/.postgresql/root.crt), or use \
                 sslrootcert=system with sslmode=verify-full for a certificate of a public CA.",
            ));
        }
        let direct = match get("sslnegotiation").as_deref() {
            None | Some("postgres") => false,
            Some("direct") if mode >= SslMode::Require => true,
            Some("direct") => {
                return Err(wrong(
                    "sslnegotiation=direct requires an sslmode that always uses TLS",
                    "Set sslmode to require, verify-ca or verify-full.",
                ));
            }
            Some(_) => {
                return Err(wrong("sslnegotiation has an unknown value", "Set sslnegotiation to postgres or direct."));
            }
        };
        let sni = match get("sslsni").as_deref() {
            None | Some("1") => true,
            Some("0") => false,
            Some(_) => return Err(wrong("sslsni is neither 0 nor 1", "Set sslsni to 0 or 1, or leave it out.")),
        };
        Ok(Self { mode, roots, client: client(get, &home)?, sni, versions: versions(get)?, direct })
    }

    /// Returns the terms of an unencrypted connection, for which no file is read.
    pub fn open() -> Self {
        Self {
            mode: SslMode::Disable,
            roots: Roots::Anybody,
            client: None,
            sni: true,
            versions: vec![&version::TLS12, &version::TLS13],
            direct: false,
        }
    }
}

fn client(
    get: &dyn Fn(&str) -> Option<String>,
    home: &dyn Fn(&str) -> Option<PathBuf>,
) -> Result<Option<(PathBuf, PathBuf)>> {
    match get("sslcertmode").as_deref() {
        None | Some("allow") => {}
        Some("disable") => return Ok(None),
        Some("require") => {
            return Err(wrong(
                "sslcertmode=require is not supported",
                "Make the server require a certificate: hostssl ... clientcert=verify-full in pg_hba.conf.",
            ));
        }
        Some(_) => {
            return Err(wrong("sslcertmode has an unknown value", "Set sslcertmode to disable or allow."));
        }
    }
    let certificate = get("sslcert").map(PathBuf::from).or_else(|| home("postgresql.crt"));
    let key = get("sslkey").map(PathBuf::from).or_else(|| home("postgresql.key"));
    match (certificate, key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (Some(certificate), None) => Err(wrong(
            format!("sslcert {} has no sslkey", certificate.display()),
            "Set sslkey to the file with the private key of the certificate.",
        )),
        (None, Some(_)) if get("sslkey").is_none() => Ok(None),
        (None, Some(key)) => Err(wrong(
            format!("sslkey {} has no sslcert", key.display()),
            "Set sslcert to the file with the certificate of the key.",
        )),
    }
}

fn versions(get: &dyn Fn(&str) -> Option<String>) -> Result<Vec<&'static SupportedProtocolVersion>> {
    let known = ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"];
    let rank = |name: &str| {
        let Some(word) = get(name) else { return Ok(None) };
        known.iter().position(|known| known.eq_ignore_ascii_case(&word)).map(Some).ok_or_else(|| {
            wrong(format!("{name} has an unknown value"), format!("Set {name} to one of: {}.", known.join(", ")))
        })
    };
    let (least, most) =
        (rank("ssl_min_protocol_version")?.unwrap_or(0), rank("ssl_max_protocol_version")?.unwrap_or(3));
    let fitting: Vec<_> = [(2, &version::TLS12), (3, &version::TLS13)]
        .into_iter()
        .filter_map(|(rank, version)| (least..=most).contains(&rank).then_some(version))
        .collect();
    if fitting.is_empty() {
        return Err(wrong(
            "ssl_min_protocol_version and ssl_max_protocol_version allow no TLS version that backfilld supports (TLSv1.2 and TLSv1.3)",
            "Leave both parameters out.",
        ));
    }
    Ok(fitting)
}
