//! Checks the server's certificate as `sslmode` requires: no check, a check of its CA, or a check
//! of its CA and its name.
//!
//! Users of libpq have two kinds of certificates that webpki does not accept. This module accepts
//! both kinds:
//!
//! - a certificate that is itself one of the given root certificates;
//! - a certificate that contains the host name only in its common name.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate;

/// The checks of the server's certificate.
#[derive(Debug)]
pub(super) enum Verify {
    Nothing,
    Chain(Vec<CertificateDer<'static>>),
    ChainAndName(Vec<CertificateDer<'static>>),
}

#[derive(Debug)]
pub(super) struct Verifier {
    verify: Verify,
    store: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub fn new(verify: Verify, provider: &CryptoProvider) -> Self {
        let store = match &verify {
            Verify::Nothing => RootCertStore::empty(),
            Verify::Chain(roots) | Verify::ChainAndName(roots) => store(roots),
        };
        Self { verify, store, algorithms: provider.signature_verification_algorithms }
    }

    fn chain(
        &self,
        roots: &[CertificateDer<'static>],
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        // `openssl req -x509` makes a certificate that is its own CA, and webpki rejects a CA
        // certificate as a server's certificate.
        if roots.iter().any(|root| root.as_ref() == leaf.as_ref()) {
            return in_time(leaf, now);
        }
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.store, intermediates, now, self.algorithms.all)
    }
}

fn in_time(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let Some(fields) = certificate::read(leaf) else { return Err(CertificateError::BadEncoding.into()) };
    let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let (not_before, not_after) = (at(fields.not_before), at(fields.not_after));
    if now.as_secs() < fields.not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if now.as_secs() > fields.not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    Ok(())
}

/// Compares the host with the alternative names. As in libpq, compares it with the common name
/// instead if the certificate has no alternative names of the host's type (DNS name or address).
fn name(leaf: &CertificateDer<'_>, wanted: &ServerName<'_>) -> Result<(), Error> {
    let has_names = |fields: &certificate::Fields| match wanted {
        ServerName::IpAddress(_) => fields.has_addresses,
        _ => fields.has_dns_names,
    };
    if let Some(fields) = certificate::read(leaf).filter(|fields| !has_names(fields)) {
        if fields.common_name.as_deref().is_some_and(|common| fits(common, &wanted.to_str())) {
            return Ok(());
        }
        let presented = fields.common_name.into_iter().collect();
        return Err(CertificateError::NotValidForNameContext { expected: wanted.to_owned(), presented }.into());
    }
    verify_server_name(&ParsedCertificate::try_from(leaf)?, wanted)
}

/// Compares a host with a common name. `*` matches only the first label, and only if at least two
/// more labels follow. A dot at the end of the host is ignored. webpki does the same for
/// alternative names.
fn fits(common: &str, wanted: &str) -> bool {
    let wanted = wanted.strip_suffix('.').unwrap_or(wanted);
    if common.contains('\0') {
        return false;
    }
    match (common.strip_prefix("*."), wanted.split_once('.')) {
        (Some(parent), Some((_, rest))) => parent.contains('.') && parent.eq_ignore_ascii_case(rest),
        (Some(_), None) => false,
        (None, _) => common.eq_ignore_ascii_case(wanted),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.verify {
            Verify::Nothing => {}
            Verify::Chain(roots) => self.chain(roots, leaf, intermediates, now)?,
            Verify::ChainAndName(roots) => {
                self.chain(roots, leaf, intermediates, now)?;
                name(leaf, server)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    // The two methods below check that the server has the private key of the certificate. They do
    // so even if the certificate itself is not checked, because channel binding depends on this
    // check.

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, leaf, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // The signature is checked with the key itself, because webpki cannot read certificates of
        // X.509 version 1. Users who follow older instructions for openssl create such
        // certificates.
        match certificate::read(leaf) {
            Some(fields) => {
                let key = SubjectPublicKeyInfoDer::from(fields.public_key.as_slice());
                rustls::crypto::verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
            }
            None => rustls::crypto::verify_tls13_signature(message, leaf, signed, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Returns a store of the given root certificates. As in libpq, a certificate that cannot be parsed
/// is skipped, and the other certificates in its file are used.
fn store(roots: &[CertificateDer<'static>]) -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    store
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_common_name_fits_as_in_libpq() {
        assert!(fits("db.example.com", "DB.example.com") && fits("*.example.com", "db.example.com"));
        assert!(fits("db.example.com", "db.example.com."));
        assert!(fits("localhost", "localhost") && fits("127.0.0.1", "127.0.0.1"));
        for (common, wanted) in [
            ("*.example.com", "a.db.example.com"),
            ("*.example.com", "example.com"),
            ("*.com", "example.com"),
            ("*", "db"),
            ("db.example.com\0.evil", "db.example.com"),
        ] {
            assert!(!fits(common, wanted), "{common} {wanted}");
        }
    }
}
