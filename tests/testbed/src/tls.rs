//! A CA, certificates, and a server that uses them for TLS.

use crate::SetupError;
use crate::cluster::{Cluster, Options};
use crate::place::{Place, RunAs};
use base64::Engine as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A certificate authority and the directory of its files. The directory is removed on drop.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
    place: Place,
}

/// A certificate and its key, as PEM.
#[derive(Debug, Clone)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// The contents of a certificate that an authority issues.
#[derive(Debug, Clone)]
pub struct Order {
    common_name: String,
    names: Vec<String>,
    expired: bool,
}

impl Order {
    /// Returns the contents of a certificate for a server with these DNS names or IP addresses.
    /// Without names, the certificate has only the common name `localhost`.
    pub fn server(names: &[&str]) -> Self {
        let common_name = "localhost".to_owned();
        Self { common_name, names: names.iter().map(|name| (*name).to_owned()).collect(), expired: false }
    }

    /// Returns the contents of a certificate for a client that logs in as `role`.
    pub fn client(role: &str) -> Self {
        Self { common_name: role.to_owned(), names: Vec::new(), expired: false }
    }

    /// Makes the certificate expire on 2021-01-01.
    #[must_use]
    pub fn expired(mut self) -> Self {
        self.expired = true;
        self
    }

    fn params(&self) -> CertificateParams {
        let mut params = named(&self.common_name);
        let names = CertificateParams::new(self.names.clone()).expect("names that a certificate can have");
        params.subject_alt_names = names.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if self.expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        params
    }
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).expect("a root certificate").der().to_vec();
        let place = Place::new("authority", RunAs::Ourselves).unwrap_or_else(|error| panic!("{error}"));
        let made = Self { issuer: Issuer::new(params, key), certificate, place };
        made.write("root.crt", &made.root(), 0o644);
        made
    }

    /// Returns the root certificate as PEM.
    pub fn root(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// Returns the path of the root certificate.
    pub fn root_file(&self) -> PathBuf {
        self.place.dir().join("root.crt")
    }

    pub fn issue(&self, order: &Order) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let certificate = order.params().signed_by(&key, &self.issuer).expect("a certificate");
        Issued { certificate: pem("CERTIFICATE", certificate.der()), key: pem("PRIVATE KEY", key.serialized_der()) }
    }

    /// Writes a file to the authority's directory.
    pub fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.place.dir().join(name);
        write(&path, text, mode).expect("a file in the authority's directory");
        path
    }

    /// Writes `NAME.crt` and `NAME.key`. Only the owner can read the key.
    pub fn client_files(&self, name: &str, issued: &Issued) -> (PathBuf, PathBuf) {
        (
            self.write(&format!("{name}.crt"), &issued.certificate, 0o644),
            self.write(&format!("{name}.key"), &issued.key, 0o600),
        )
    }
}

/// Replaces the file in one step, like the rotation of a secret, so that no reader sees an
/// incomplete file.
fn write(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(new, path)
}

/// Issues a self-signed certificate, as `openssl req -x509` does.
pub fn self_signed(names: &[&str]) -> Issued {
    let key = KeyPair::generate().expect("a key");
    let mut params = Order::server(names).params();
    params.extended_key_usages.clear();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).expect("a certificate");
    Issued { certificate: pem("CERTIFICATE", certificate.der()), key: pem("PRIVATE KEY", key.serialized_der()) }
}

/// Returns the settings of a server with TLS. Before the server starts, [`install`] must write the
/// files.
#[must_use]
pub fn settings(options: Options) -> Options {
    options
        .set("ssl", "on")
        .set("ssl_cert_file", "server.crt")
        .set("ssl_key_file", "server.key")
        .set("ssl_ca_file", "clients.crt")
}

/// Starts a server with role `owner` and database `app`. The server uses the certificate `issued`
/// for TLS, and accepts client certificates from the authority `clients`.
pub async fn cluster(options: Options, issued: &Issued, clients: &Authority) -> Cluster {
    let cluster = Cluster::try_start_with(settings(options), |cluster| install(cluster, issued, clients)).await;
    let cluster = cluster.unwrap_or_else(|error| panic!("{error}"));
    cluster.make_owner().await;
    cluster
}

/// Writes the server's files, which take effect at the next start or reload.
pub fn install(server: &crate::server::Server, issued: &Issued, clients: &Authority) -> Result<(), SetupError> {
    server.write_file("server.crt", &issued.certificate)?;
    server.write_file("clients.crt", &clients.root())?;
    server.write_file("server.key", &issued.key)?;
    std::fs::set_permissions(server.data_dir().join("server.key"), std::fs::Permissions::from_mode(0o600))
        .map_err(|error| SetupError(error.to_string()))
}
