//! Sends one GET request over HTTP or HTTPS. Redirects are not followed, because a token must not
//! be sent to another server. Error messages show only the server part of the URL.

use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::rt::{Read, Write};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::signal::{HttpUrl, SignalRule};
use crate::error::{Error, Kind, Result};
use crate::pg::tls::https;

/// Maximum size of a response, in bytes. The response to an HTTP check or to a query for one number
/// is much smaller.
const MOST: usize = 1 << 20;

/// Holds the target and the credentials of a request. The token file and the CA file are read at
/// each request, so that a new token or CA is used as soon as the file that contains it changes.
#[derive(Debug)]
pub struct Endpoint {
    url: HttpUrl,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
}

impl Endpoint {
    pub fn new(rule: &SignalRule, url: &HttpUrl) -> Self {
        Self { url: url.clone(), token_file: rule.token_file.clone(), ca_file: rule.ca_file.clone() }
    }

    /// Returns the part of the URL that may be shown.
    pub fn place(&self) -> String {
        self.url.to_string()
    }

    /// Requests `path` (with its query), or the path of the URL if `path` is none.
    pub async fn get(&self, path: Option<&str>) -> Result<(StatusCode, Bytes)> {
        let place = &self.url;
        let lost = |what: &str| format!("{place}: {what}");
        let stream = TcpStream::connect((self.url.host(), self.url.port()))
            .await
            .map_err(|error| Error::new(Kind::ConnectionLost, lost(&format!("could not connect: {error}"))))?;
        if !self.url.is_https() {
            return self.exchange(TokioIo::new(stream), path).await;
        }
        let name = ServerName::try_from(self.url.host().to_owned())
            .map_err(|_| Error::new(Kind::Config, lost("the host name is not valid in a certificate")))?;
        let connector = TlsConnector::from(https::client_config(self.ca_file.as_deref())?);
        let stream = connector.connect(name, stream).await.map_err(|error| {
            Error::new(Kind::Tls, lost(&format!("TLS: {error}"))).hint(
                "If the system does not trust the CA of the server, set ca_file to the file with the CA certificate.",
            )
        })?;
        self.exchange(TokioIo::new(stream), path).await
    }

    async fn exchange(&self, io: impl Read + Write + Unpin, path: Option<&str>) -> Result<(StatusCode, Bytes)> {
        let place = &self.url;
        let lost = |error: hyper::Error| Error::new(Kind::ConnectionLost, format!("{place}: {error}"));
        let request = self.request(path)?;
        let (mut sender, connection) = http1::handshake(io).await.map_err(lost)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(lost)?;
            let (status, body) = (response.status(), response.into_body());
            let body = Limited::new(body, MOST)
                .collect()
                .await
                .map_err(|error| Error::new(Kind::Data, format!("{place}: invalid response: {error}")))?;
            Ok((status, body.to_bytes()))
        };
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            // The server has closed the connection, but the data that it has already sent can still
            // be read.
            _ended = connection => exchange.await,
        }
    }

    fn request(&self, path: Option<&str>) -> Result<Request<Empty<Bytes>>> {
        let uri = self.url.expose();
        let own = || uri.path_and_query().map_or("/", |path| path.as_str());
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::get(path.unwrap_or_else(own))
            .header(HOST, host)
            .header(ACCEPT, "application/json, */*")
            .header(CONNECTION, "close")
            .header(USER_AGENT, concat!("backfilld/", env!("CARGO_PKG_VERSION")));
        if let Some(file) = &self.token_file {
            request = request.header(AUTHORIZATION, bearer(file)?);
        }
        request
            .body(Empty::new())
            .map_err(|_| Error::new(Kind::Config, format!("{}: the url is not valid for a request", self.url)))
    }
}

fn bearer(file: &Path) -> Result<HeaderValue> {
    let wrong = |what: String| Error::new(Kind::Config, format!("token_file {}: {what}", file.display()));
    let token = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let token = token.trim();
    if token.is_empty() {
        return Err(wrong("the file is empty".to_owned()));
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| wrong("the token contains characters that are not allowed in an HTTP header".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Encodes the text as a value in the query of a URL. Only the unreserved characters of RFC 3986,
/// section 2.3, stay as they are.
pub fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_encoded_as_a_whole() {
        assert_eq!(percent_encoded("max(a{b=\"c d\"}) + é"), "max%28a%7Bb%3D%22c%20d%22%7D%29%20%2B%20%C3%A9");
    }
}
