//! Builds the errors of TLS. Each error names the object and the reason, and has a hint.

use std::io;

use rustls::{AlertDescription, CertificateError};

use super::terms::{Roots, SslMode, Terms};
use crate::error::{Error, Kind};

fn tls(message: impl Into<String>, remedy: impl Into<String>) -> Error {
    Error::new(Kind::Tls, message).hint(remedy)
}

/// Returns the error of a failed handshake.
pub(super) fn of_handshake(error: &io::Error, host: &str, terms: &Terms) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => of_certificate(why, host, terms),
        Some(rustls::Error::AlertReceived(alert)) => of_alert(*alert, host, terms),
        Some(rustls::Error::PeerIncompatible(why)) => tls(
            format!("the server \"{host}\" and backfilld have no TLS parameters in common ({why:?})"),
            "backfilld supports TLS 1.2 and 1.3. Check ssl_ciphers on the server, and ssl_min_protocol_version and \
             ssl_max_protocol_version in the connection string and on the server.",
        ),
        Some(other) => tls(
            format!("the TLS handshake with \"{host}\" failed: {other}"),
            "Check that a PostgreSQL server listens at this address, and that no proxy terminates TLS.",
        ),
        // A connection ends without an alert if the peer does not support TLS, or if the server is
        // stopping. If the server refuses the client certificate and closes the connection before
        // the client has sent everything, the alert is lost.
        None if terms.client.is_some() => tls(
            format!("the server \"{host}\" closed the connection during the TLS handshake: {error}"),
            format!("The server may have refused the client certificate. {}", refused_remedy(terms)),
        ),
        None => tls(
            format!("the connection to \"{host}\" broke during the TLS handshake: {error}"),
            "See the log of the server. If a proxy is between backfilld and the server, check that it supports TLS.",
        ),
    }
}

/// Explains an error that arrives after the handshake and before the server's first response.
/// Returns `None`, except in these two cases:
///
/// - The error is an alert.
/// - The connection ended, the server had asked for a client certificate (`asked`), and the client
///   had presented a certificate (`presented`).
pub(super) fn of_first_answer(
    error: &io::Error,
    host: &str,
    terms: &Terms,
    asked: bool,
    presented: bool,
) -> Option<Error> {
    if let Some(rustls::Error::AlertReceived(alert)) =
        error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        return Some(of_alert(*alert, host, terms));
    }
    // If the connection is reset before the client has read the alert, the alert is lost.
    let broke = matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    );
    (broke && asked && presented).then(|| {
        tls(
            format!(
                "the server \"{host}\" closed the connection right after the TLS handshake in which it asked for a \
                 client certificate"
            ),
            refused_remedy(terms),
        )
    })
}

fn of_certificate(why: &CertificateError, host: &str, terms: &Terms) -> Error {
    let certificate = format!("the certificate of the server \"{host}\"");
    match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => tls(
            format!("{certificate} was not issued by a CA in {}", roots(terms)),
            "Check that it is the right server, then set sslrootcert to the file with the CA that issued its certificate. \
             Put intermediate certificates into ssl_cert_file of the server.",
        ),
        CertificateError::Expired => tls(format!("{certificate} has expired"), EXPIRED),
        CertificateError::ExpiredContext { not_after, .. } => {
            tls(format!("{certificate} expired on {}", date(not_after.as_secs())), EXPIRED)
        }
        CertificateError::NotValidYet => tls(format!("{certificate} is not valid yet"), CLOCK),
        CertificateError::NotValidYetContext { not_before, .. } => {
            tls(format!("{certificate} is not valid before {}", date(not_before.as_secs())), CLOCK)
        }
        CertificateError::NotValidForName => tls(format!("{certificate} is not for this host"), OTHER_NAME),
        CertificateError::NotValidForNameContext { presented, .. } => {
            let names: Vec<String> = presented.iter().map(|name| plain(name)).collect();
            let names = if names.is_empty() { "no host".to_owned() } else { names.join(", ") };
            tls(format!("{certificate} is for {names}"), OTHER_NAME)
        }
        CertificateError::BadEncoding => tls(
            format!("{certificate} could not be parsed; it may be an X.509 version 1 certificate"),
            "Issue a new certificate of version 3 (openssl x509 -req -extfile ..., with subjectAltName).",
        ),
        other => tls(
            format!("{certificate} is not accepted: {other}"),
            "Issue a new certificate for server authentication, signed with SHA-256 or better.",
        ),
    }
}

/// Converts a time, in seconds since 1970, to a date in the form `2026-01-31`.
fn date(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    at.map_or_else(|| "an unknown date".to_owned(), |at| at.strftime("%Y-%m-%d").to_string())
}

const EXPIRED: &str =
    "Renew the certificate on the server, then run: select pg_reload_conf(); The daemon retries until then.";
const CLOCK: &str = "Compare the clock of this machine with the clock of the CA.";
const OTHER_NAME: &str = "Connect with a host name that the certificate contains (set hostaddr if DNS does not resolve it), or issue a \
                          certificate for this host. sslmode=verify-ca does not check the name.";

/// Returns the name inside `DnsName("db")` or `IpAddress(10.0.0.5)`. rustls returns names in this
/// form.
fn plain(name: &str) -> String {
    let inside = name.split_once('(').map_or(name, |(_, inside)| inside.trim_end_matches(')'));
    inside.trim_matches('"').to_owned()
}

fn roots(terms: &Terms) -> String {
    match &terms.roots {
        Roots::File(path) => format!("sslrootcert {}", path.display()),
        Roots::System | Roots::Anybody => "the CA store of the system".to_owned(),
    }
}

fn of_alert(alert: AlertDescription, host: &str, terms: &Terms) -> Error {
    use AlertDescription as Alert;
    let certificate = terms.client.as_ref().map(|(certificate, _)| certificate.display().to_string());
    let why = match alert {
        Alert::CertificateRequired => "the server requires one, but none was sent",
        Alert::UnknownCA => "its CA is not in the server's ssl_ca_file",
        Alert::CertificateExpired => "it has expired",
        Alert::CertificateRevoked => "it was revoked",
        Alert::BadCertificate | Alert::UnsupportedCertificate | Alert::CertificateUnknown | Alert::AccessDenied => {
            "the server gave no reason"
        }
        Alert::HandshakeFailure | Alert::DecryptError if certificate.is_some() => "the server gave no reason",
        Alert::ProtocolVersion => {
            return tls(
                format!("the server \"{host}\" supports none of the requested TLS versions"),
                "backfilld supports TLS 1.2 and 1.3. Check ssl_min_protocol_version and ssl_max_protocol_version, in the connection string \
                 and on the server.",
            );
        }
        other => {
            return tls(
                format!("the server \"{host}\" ended the TLS handshake ({other:?})"),
                "See the log of the server for the reason.",
            );
        }
    };
    let which = certificate
        .map_or_else(|| "the client certificate".to_owned(), |path| format!("the client certificate {path}"));
    tls(format!("the server \"{host}\" rejected {which}: {why}"), refused_remedy(terms))
}

fn refused_remedy(terms: &Terms) -> &'static str {
    match terms.client {
        Some(_) => {
            "Set sslcert to a certificate issued by a CA in the server's ssl_ca_file, and sslkey to the key of this certificate. See the log of the server for the reason."
        }
        None => {
            "Set sslcert to a certificate issued by a CA in the server's ssl_ca_file, and sslkey to the key of this certificate."
        }
    }
}

/// Returns the error for a server that does not confirm PostgreSQL's protocol (ALPN) in a direct
/// TLS handshake, which no request for TLS precedes. The server may use another protocol.
pub(super) fn without_protocol(host: &str) -> Error {
    tls(
        format!("the server \"{host}\" does not confirm the protocol of PostgreSQL in the TLS handshake (ALPN)"),
        "sslnegotiation=direct requires PostgreSQL 17 or later. Check host and port, or set sslnegotiation=postgres.",
    )
}

/// Returns the error for a server that does not offer TLS.
pub(in crate::pg) fn not_offered(place: &str, mode: SslMode) -> Error {
    tls(
        format!("the server {place} does not offer TLS, but sslmode={} is set", mode.name()),
        "On the server, set ssl = on, ssl_cert_file and ssl_key_file. You can use sslmode=prefer instead, but only on a network \
         that you trust.",
    )
}
