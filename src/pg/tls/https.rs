//! Configures TLS for the user's own signals that are polled over HTTPS.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, version};

use super::files::certificates;
use super::terms::wrong;
use super::verify::{Verifier, Verify};
use crate::error::{Error, Kind, Result};

/// Returns a configuration that checks the name in the server's certificate, and checks that a CA
/// in `ca_file` issued the certificate. If `ca_file` is `None`, the system's CAs are used.
///
/// # Errors
/// [`Kind::Config`] if a file cannot be read or used.
pub fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = match ca_file {
        Some(path) => certificates(path, "ca_file")?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    if roots.is_empty() {
        return Err(wrong(
            "this system has no CA certificates with which to check an https server",
            "Install the package ca-certificates, set SSL_CERT_FILE, or set ca_file to the CA's file.",
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
