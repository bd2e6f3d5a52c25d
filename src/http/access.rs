//! Controls access to the status page. Without a token, the page is served only on a loopback
//! address, so that only clients on this machine have access.

use std::net::SocketAddr;

use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse, Response};
use tracing::warn;

use super::token::Token;
use crate::config::Http;
use crate::error::Result;

/// The access rules of the pages.
pub struct Access {
    token: Option<Token>,
    status_page: bool,
}

impl Access {
    /// Reads the access rules. If a token file is configured, it must contain a token.
    pub fn read(config: &Http) -> Result<Self> {
        let token = config.token_file.as_deref().map(Token::read).transpose()?;
        Ok(Self { token, status_page: config.status_page })
    }

    pub(super) fn guard(&self, address: SocketAddr) -> Guard {
        match self.token {
            _ if !self.status_page => Guard::Off,
            Some(_) => Guard::Token,
            None if address.ip().is_loopback() => Guard::Local,
            None => Guard::Closed,
        }
    }

    pub(super) fn warn_if_closed(&self, address: SocketAddr) {
        if self.guard(address) == Guard::Closed {
            warn!(http.listen = %address, "the status page is disabled: http.listen is not a loopback address and http.token_file is not set; set http.token_file to enable it");
        }
    }

    /// Returns the response that refuses the request, or none if the request is allowed.
    pub(super) fn refusal(&self, address: SocketAddr, request: &Request) -> Option<Response> {
        let given = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        match self.guard(address) {
            Guard::Off => Some(nothing_here()),
            Guard::Closed => {
                let text =
                    "disabled: http.listen is not a loopback address; set http.token_file, or listen on 127.0.0.1\n";
                Some((StatusCode::FORBIDDEN, text).into_response())
            }
            // Protects against DNS rebinding. Without this check, a web page in a browser on this
            // machine could make the host name of its own site resolve to this machine, and then
            // read the status.
            Guard::Local if !given(header::HOST).is_some_and(is_local) => {
                let text = "misdirected request: use the host 127.0.0.1 or localhost\n";
                Some((StatusCode::MISDIRECTED_REQUEST, text).into_response())
            }
            Guard::Token
                if !self.token.as_ref().is_some_and(|token| token.is_borne_by(given(header::AUTHORIZATION))) =>
            {
                let ask = ["Bearer realm=\"backfilld\"", "Basic realm=\"backfilld\", charset=\"UTF-8\""]
                    .map(|ask| (header::WWW_AUTHENTICATE, ask));
                let text = "token required: send Authorization: Bearer TOKEN, or, in a browser, enter any user name, and the token as the password\n";
                Some((StatusCode::UNAUTHORIZED, AppendHeaders(ask), text).into_response())
            }
            Guard::Local | Guard::Token => None,
        }
    }
}

/// The guard of every page except metrics and probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    /// The page does not exist.
    Off,
    /// Only clients on this machine can reach the address, so no token is required.
    Local,
    Token,
    /// The page is refused, because no token is configured and clients on other machines can reach
    /// the address.
    Closed,
}

/// Returns whether the Host header of a request names this machine: a loopback address or
/// `localhost`.
pub(super) fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

pub(super) fn nothing_here() -> Response {
    (StatusCode::NOT_FOUND, "not found; available pages: /, /status.json, /metrics, /livez, /readyz\n").into_response()
}
