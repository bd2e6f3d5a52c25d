//! TLS with libpq's meaning: what `sslmode` and the `ssl*` parameters ask for, and the connector that does it.
//!
//! Files are read again for each connection, so that a certificate which is rotated is followed without a restart.

mod certificate;
mod stream;
pub(in crate::pg) mod trouble;
mod verify;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme, SupportedProtocolVersion, version};

pub use self::stream::{Handshake, Stream};
use self::verify::{Verifier, Verify};
use crate::config::environment::Environment;
use crate::error::{Error, Kind, Result};
use crate::pg::conninfo::SSLMODES;

/// How much the connection must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// In the open.
    Disable,
    /// In the open, or encrypted where the server insists.
    Allow,
    /// Encrypted, or in the open where the server can't.
    Prefer,
    /// Encrypted, whoever the server is; a root file is heeded, if there is one.
    Require,
    /// And the server's certificate comes from a CA that is trusted.
    VerifyCa,
    /// And is for the host that was asked for.
    VerifyFull,
}

/// Whom to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// Nobody was named: any certificate will do.
    Anybody,
    File(PathBuf),
    /// The system's CAs.
    System,
}

/// What the parameters ask for.
#[derive(Debug, Clone)]
pub struct Terms {
    pub mode: SslMode,
    pub roots: Roots,
    /// The client's certificate and its key.
    client: Option<(PathBuf, PathBuf)>,
    sni: bool,
    versions: Vec<&'static SupportedProtocolVersion>,
    /// `sslnegotiation=direct`: no question beforehand.
    pub direct: bool,
}

fn wrong(message: impl Into<String>, remedy: impl Into<String>) -> Error {
    Error::new(Kind::Config, message).hint(remedy)
}

impl Terms {
    /// `get` has the parameters, `environment` the home folder, where libpq's default files lie.
    ///
    /// # Errors
    /// [`Kind::Config`] for what is unknown, or does not go together.
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
                wrong(
                    "sslmode has a value that is none of those known",
                    format!("sslmode is one of: {}", known.join(", ")),
                )
            })?,
        };
        if roots == Roots::System && mode != SslMode::VerifyFull {
            return Err(wrong(
                "sslrootcert=system says little with a weak sslmode: anybody can get a certificate from a public CA",
                "Use sslmode=verify-full with it.",
            ));
        }
        if mode >= SslMode::VerifyCa && roots == Roots::Anybody {
            return Err(wrong(
                format!("sslmode={} needs a root certificate, and there is none", mode.name()),
                "Name the CA's file with sslrootcert=/path/root.crt (or put it at ~/.postgresql/root.crt), or use \
                 sslrootcert=system with sslmode=verify-full for a certificate of a public CA.",
            ));
        }
        let direct = match get("sslnegotiation").as_deref() {
            None | Some("postgres") => false,
            Some("direct") if mode >= SslMode::Require => true,
            Some("direct") => {
                return Err(wrong(
                    "sslnegotiation=direct needs TLS for certain",
                    "Use sslmode=require, verify-ca or verify-full with it.",
                ));
            }
            Some(_) => {
                return Err(wrong(
                    "sslnegotiation has a value that is none of those known",
                    "sslnegotiation is one of: postgres, direct",
                ));
            }
        };
        let sni = match get("sslsni").as_deref() {
            None | Some("1") => true,
            Some("0") => false,
            Some(_) => return Err(wrong("sslsni is neither 0 nor 1", "Write sslsni=1, or leave it out.")),
        };
        Ok(Self { mode, roots, client: client(get, &home)?, sni, versions: versions(get)?, direct })
    }

    /// Nothing is asked for, and no file is read.
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

    /// A connector for the files as they are now.
    ///
    /// # Errors
    /// [`Kind::Config`] for a file that can't be read or used.
    pub fn connector(&self) -> Result<Connector> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verify = match (&self.roots, self.mode) {
            (Roots::Anybody, _) => Verify::Nothing,
            (_, SslMode::VerifyFull) => Verify::ChainAndName(self.read_roots()?),
            // As in libpq: a root file is heeded in every mode.
            _ => Verify::Chain(self.read_roots()?),
        };
        let identity =
            self.client.as_ref().map(|(certificate, key)| identity(certificate, key, &provider)).transpose()?;
        let presented = Arc::new(Presented { identity: identity.map(Arc::new), asked: AtomicBool::new(false) });
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&self.versions)
            .map_err(|error| Error::new(Kind::Internal, error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier::new(verify, &provider)))
            .with_client_cert_resolver(presented.clone());
        config.enable_sni = self.sni;
        config.resumption = Resumption::disabled();
        if self.direct {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(Connector { config: Arc::new(config), presented, terms: Arc::new(self.clone()) })
    }

    fn read_roots(&self) -> Result<Vec<CertificateDer<'static>>> {
        match &self.roots {
            Roots::Anybody => Ok(Vec::new()),
            Roots::File(path) => certificates(path, "sslrootcert"),
            Roots::System => {
                let found = rustls_native_certs::load_native_certs();
                if found.certs.is_empty() {
                    let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
                    return Err(wrong(
                        format!("sslrootcert=system: this system has no CA certificates {}", why.join("; ")).trim_end(),
                        "Install the package ca-certificates, set SSL_CERT_FILE, or name the CA's file with sslrootcert.",
                    ));
                }
                Ok(found.certs)
            }
        }
    }
}

/// For https: the CA of `ca_file`, or the system's, and the server's name are checked.
///
/// # Errors
/// [`Kind::Config`] for a file that can't be read or used.
pub fn web(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = match ca_file {
        Some(path) => certificates(path, "ca_file")?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    if roots.is_empty() {
        return Err(wrong(
            "this system has no CA certificates to check an https server with",
            "Install the package ca-certificates, set SSL_CERT_FILE, or name the CA's file with ca_file.",
        ));
    }
    let verifier = Verifier::new(Verify::ChainAndName(roots), &provider);
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS12, &version::TLS13])
        .map_err(|error| Error::new(Kind::Internal, error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl SslMode {
    pub fn name(self) -> &'static str {
        SSLMODES.iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
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
                "sslcertmode=require can't be heeded",
                "Have the server insist: hostssl ... clientcert=verify-full in pg_hba.conf.",
            ));
        }
        Some(_) => {
            return Err(wrong(
                "sslcertmode has a value that is none of those known",
                "sslcertmode is one of: disable, allow",
            ));
        }
    }
    let certificate = get("sslcert").map(PathBuf::from).or_else(|| home("postgresql.crt"));
    let key = get("sslkey").map(PathBuf::from).or_else(|| home("postgresql.key"));
    match (certificate, key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (Some(certificate), None) => Err(wrong(
            format!("sslcert {} has no sslkey", certificate.display()),
            "Name the file with the certificate's private key: sslkey=/path/client.key",
        )),
        (None, Some(_)) if get("sslkey").is_none() => Ok(None),
        (None, Some(key)) => Err(wrong(
            format!("sslkey {} has no sslcert", key.display()),
            "Name the file with the certificate: sslcert=/path/client.crt",
        )),
    }
}

fn versions(get: &dyn Fn(&str) -> Option<String>) -> Result<Vec<&'static SupportedProtocolVersion>> {
    let known = ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"];
    let rank = |name: &str| {
        let Some(word) = get(name) else { return Ok(None) };
        known.iter().position(|known| known.eq_ignore_ascii_case(&word)).map(Some).ok_or_else(|| {
            wrong(
                format!("{name} has a value that is none of those known"),
                format!("{name} is one of: {}", known.join(", ")),
            )
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
            "ssl_min_protocol_version and ssl_max_protocol_version leave no version: TLSv1.2 and TLSv1.3 are spoken",
            "Leave both out.",
        ));
    }
    Ok(fitting)
}

fn certificates(path: &Path, parameter: &str) -> Result<Vec<CertificateDer<'static>>> {
    let place = || format!("{parameter} {}", path.display());
    let text = std::fs::read(path).map_err(|error| {
        wrong(format!("cannot read {}: {error}", place()), "Check the path, and that this user may read the file.")
    })?;
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(wrong(
            format!("{} has no certificate that can be read", place()),
            "It must be PEM, with -----BEGIN CERTIFICATE-----.",
        )),
    }
}

fn identity(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey> {
    let place = || format!("sslkey {}", key.display());
    let unreadable = |error| {
        wrong(format!("cannot read {}: {error}", place()), "Check the path, and that this user may read the file.")
    };
    let chain = certificates(certificate, "sslcert")?;
    let meta = std::fs::metadata(key).map_err(unreadable)?;
    // As in libpq: a key that root owns may be read by a group, for that is how it is handed to a service.
    let others = if meta.uid() == 0 { 0o037 } else { 0o077 };
    if !meta.is_file() || meta.permissions().mode() & others != 0 {
        return Err(wrong(
            format!("{} may be read by others, and is not used", place()),
            format!(
                "chmod 0600 {}; or 0640 if root owns it. In Kubernetes: defaultMode: 0440 with fsGroup.",
                key.display()
            ),
        ));
    }
    let text = std::fs::read(key).map_err(unreadable)?;
    let Ok(der) = PrivateKeyDer::from_pem_slice(&text) else {
        let encrypted = text.windows(9).any(|word| word == b"ENCRYPTED");
        return Err(wrong(
            format!("{} {}", place(), if encrypted { "is encrypted" } else { "has no private key that can be read" }),
            "It must be PEM, not encrypted: openssl pkey -in FILE -out FILE",
        ));
    };
    let signer = provider.key_provider.load_private_key(der).map_err(|error| {
        wrong(format!("{} can't be used: {error}", place()), "Use a key of RSA, ECDSA (P-256, P-384) or Ed25519.")
    })?;
    let identity = CertifiedKey::new(chain, signer);
    match identity.keys_match() {
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => Err(wrong(
            format!("{} is not the key of sslcert {}", place(), certificate.display()),
            "Give the certificate and the key that were made together; during a rotation both files change.",
        )),
        _ => Ok(identity),
    }
}

/// The client's certificate, and whether the server asked for one: a server that closes the connection after it asked
/// did not like the answer.
#[derive(Debug)]
struct Presented {
    identity: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
}

impl ResolvesClientCert for Presented {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.identity.clone()
    }

    fn has_certs(&self) -> bool {
        self.identity.is_some()
    }
}

/// Makes one connection a TLS one.
#[derive(Debug, Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    presented: Arc<Presented>,
    terms: Arc<Terms>,
}

impl Connector {
    /// `host` is the name that was asked for, or an address.
    pub fn handshake(&self, host: &str) -> Handshake {
        // A name that no certificate can have (an odd alias of a container) matters only where names are compared.
        let name = ServerName::try_from(host.to_owned()).ok().or_else(|| {
            (self.terms.mode < SslMode::VerifyFull).then(|| ServerName::from(std::net::Ipv4Addr::UNSPECIFIED))
        });
        Handshake::new(self.clone(), host.to_owned(), name)
    }

    fn was_asked_for_certificate(&self) -> bool {
        self.presented.asked.load(Ordering::Relaxed)
    }
}

/// The roots that can be used; libpq does not stumble over an odd one in a bundle either.
fn store(roots: &[CertificateDer<'static>]) -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    store
}
