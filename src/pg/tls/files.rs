//! Reads certificates and keys from files.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::terms::wrong;
use crate::error::Result;

pub(super) fn certificates(path: &Path, parameter: &str) -> Result<Vec<CertificateDer<'static>>> {
    let place = || format!("{parameter} {}", path.display());
    let text = std::fs::read(path).map_err(|error| {
        wrong(
            format!("could not read {}: {error}", place()),
            "Check the path, and check that the user of this process can read the file.",
        )
    })?;
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(wrong(
            format!("{} contains no readable certificate", place()),
            "The file must be in PEM format, with -----BEGIN CERTIFICATE-----.",
        )),
    }
}

pub(super) fn identity(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey> {
    let place = || format!("sslkey {}", key.display());
    let unreadable = |error| {
        wrong(
            format!("could not read {}: {error}", place()),
            "Check the path, and check that the user of this process can read the file.",
        )
    };
    let chain = certificates(certificate, "sslcert")?;
    let meta = std::fs::metadata(key).map_err(unreadable)?;
    // As in libpq, a key that root owns may be readable by its group, because administrators pass
    // keys to services in this way.
    let others = if meta.uid() == 0 { 0o037 } else { 0o077 };
    if !meta.is_file() || meta.permissions().mode() & others != 0 {
        return Err(wrong(
            format!("{} is not a regular file, or is accessible to other users", place()),
            format!(
                "Run: chmod 0600 {} (or 0640 if root owns the file). In Kubernetes, set defaultMode: 0440 and fsGroup.",
                key.display()
            ),
        ));
    }
    let text = std::fs::read(key).map_err(unreadable)?;
    let Ok(der) = PrivateKeyDer::from_pem_slice(&text) else {
        let encrypted = text.windows(9).any(|word| word == b"ENCRYPTED");
        return Err(wrong(
            format!(
                "{} {}",
                place(),
                if encrypted { "is encrypted" } else { "contains no valid private key in PEM format" }
            ),
            "The key must be in PEM format and not encrypted. To decrypt it, run: openssl pkey -in FILE -out NEW_FILE",
        ));
    };
    let signer = provider.key_provider.load_private_key(der).map_err(|error| {
        wrong(format!("{} is not usable: {error}", place()), "Use an RSA, ECDSA (P-256 or P-384) or Ed25519 key.")
    })?;
    let identity = CertifiedKey::new(chain, signer);
    match identity.keys_match() {
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => Err(wrong(
            format!("{} is not the key of sslcert {}", place(), certificate.display()),
            "Set sslcert to a certificate, and sslkey to the key of this certificate. During a rotation, replace both files.",
        )),
        _ => Ok(identity),
    }
}
