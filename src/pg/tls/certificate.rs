//! Reads the few fields of a certificate that webpki does not expose. If a certificate cannot be
//! parsed, [`read`] returns `None`. Depending on the check, the caller then rejects the
//! certificate, leaves the check to webpki, or offers no channel binding.

use ring::digest;
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// The fields of a certificate that [`read`] returns.
pub(super) struct Fields {
    signed_with: ObjectIdentifier,
    /// The `SubjectPublicKeyInfo` in DER.
    pub public_key: Vec<u8>,
    /// Start and end of the validity, in seconds since 1970.
    pub not_before: u64,
    pub not_after: u64,
    /// The first common name of the subject, if it is text.
    pub common_name: Option<String>,
    /// Whether the certificate has alternative names of these types. Both are true if the
    /// alternative names cannot be parsed.
    pub has_dns_names: bool,
    pub has_addresses: bool,
}

pub(super) fn read(der: &[u8]) -> Option<Fields> {
    // The profile `Raw` also accepts serial numbers that RFC 5280 forbids. Such certificates exist.
    let certificate = CertificateInner::<Raw>::from_der(der).ok()?;
    let body = certificate.tbs_certificate();
    let common_name = body.subject().iter().find(|attribute| attribute.oid == COMMON_NAME);
    let names = body.get_extension::<SubjectAltName>();
    let has = |is_of_type: fn(&GeneralName) -> bool| match &names {
        Ok(None) => false,
        Ok(Some((_, names))) => names.0.iter().any(is_of_type),
        Err(_) => true,
    };
    Some(Fields {
        signed_with: certificate.signature_algorithm().oid,
        public_key: body.subject_public_key_info().to_der().ok()?,
        not_before: body.validity().not_before.to_unix_duration().as_secs(),
        not_after: body.validity().not_after.to_unix_duration().as_secs(),
        common_name: common_name.and_then(|name| String::from_utf8(name.value.value().to_vec()).ok()),
        has_dns_names: has(|name| matches!(name, GeneralName::DnsName(_))),
        has_addresses: has(|name| matches!(name, GeneralName::IpAddress(_))),
    })
}

/// Returns the certificate's hash for channel binding. The hash algorithm is that of the
/// certificate's signature, or SHA-256 if that algorithm is MD5 or SHA-1. Source: RFC 5929, 4.1.
/// Returns `None` if the signature algorithm has no separate hash (for example Ed25519) or is not
/// supported here.
pub(super) fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    // 1.2.840.113549.1.1 is RSA, 1.2.840.10045.4 is ECDSA.
    let hash = match read(der)?.signed_with.to_string().as_str() {
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.113549.1.1.11" => &digest::SHA256,
        "1.2.840.10045.4.1" | "1.2.840.10045.4.3.2" => &digest::SHA256,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => &digest::SHA384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(hash, der).as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_input_makes_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (read(&bytes).is_some(), end_point(&bytes));
        }
    }
}
