//! Defines the connector that adds TLS to one connection. Each connector reads the certificate
//! files again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};

use super::files::{certificates, identity};
use super::terms::{Roots, SslMode, Terms, wrong};
use super::verify::{Verifier, Verify};
use crate::error::{Error, Kind, Result};

/// The name of PostgreSQL's protocol in the TLS handshake (ALPN).
pub(super) const PROTOCOL: &[u8] = b"postgresql";

/// Adds TLS to one connection.
#[derive(Debug, Clone)]
pub struct Connector {
    pub(super) config: Arc<ClientConfig>,
    presented: Arc<Presented>,
    pub(super) terms: Arc<Terms>,
}

impl Connector {
    /// Creates a connector with the current content of the files.
    ///
    /// # Errors
    /// [`Kind::Config`] if a file cannot be read or used.
    pub fn new(terms: &Terms) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verify = match (&terms.roots, terms.mode) {
            (Roots::Anybody, _) => Verify::Nothing,
            (_, SslMode::VerifyFull) => Verify::ChainAndName(read_roots(terms)?),
            // As in libpq, a root file is used even in the modes that do not require one.
            _ => Verify::Chain(read_roots(terms)?),
        };
        let identity =
            terms.client.as_ref().map(|(certificate, key)| identity(certificate, key, &provider)).transpose()?;
        let presented = Arc::new(Presented { identity: identity.map(Arc::new), asked: AtomicBool::new(false) });
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&terms.versions)
            .map_err(|error| Error::new(Kind::Internal, error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier::new(verify, &provider)))
            .with_client_cert_resolver(presented.clone());
        config.enable_sni = terms.sni;
        config.resumption = Resumption::disabled();
        if terms.direct {
            config.alpn_protocols = vec![PROTOCOL.to_vec()];
        }
        Ok(Self { config: Arc::new(config), presented, terms: Arc::new(terms.clone()) })
    }

    pub(super) fn was_asked_for_certificate(&self) -> bool {
        self.presented.asked.load(Ordering::Relaxed)
    }

    pub(super) fn has_certificate(&self) -> bool {
        self.presented.identity.is_some()
    }
}

fn read_roots(terms: &Terms) -> Result<Vec<CertificateDer<'static>>> {
    match &terms.roots {
        Roots::Anybody => Ok(Vec::new()),
        Roots::File(path) => certificates(path, "sslrootcert"),
        Roots::System => {
            let found = rustls_native_certs::load_native_certs();
            if found.certs.is_empty() {
                let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
                return Err(wrong(
                    format!("sslrootcert=system: could not load any CA certificate of this system: {}", why.join("; "))
                        .trim_end_matches(": "),
                    "Install the package ca-certificates, set SSL_CERT_FILE, or set sslrootcert to the CA's file.",
                ));
            }
            Ok(found.certs)
        }
    }
}

/// The client's certificate, and whether the server requested a certificate. If the server requests
/// a certificate and then closes the connection, it has probably refused the certificate.
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
