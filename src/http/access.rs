//! Who may read the status page: whoever has the token, or on this machine everybody.

use std::net::SocketAddr;

use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse, Response};
use tracing::warn;

use super::token::Token;
use crate::config::Http;
use crate::error::Result;

/// Who may read what.
pub struct Access {
    token: Option<Token>,
    status_page: bool,
}

impl Access {
    /// Reads the token file, which must hold a token if it is named.
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
            warn!(http.listen = %address, "the status page is off: this address can be reached from elsewhere, and http.token_file is not set");
        }
    }

    /// What a request gets that may not see the page.
    pub(super) fn refusal(&self, address: SocketAddr, request: &Request) -> Option<Response> {
        let given = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        match self.guard(address) {
            Guard::Off => Some(nothing_here()),
            Guard::Closed => {
                let text =
                    "off: this address can be reached from elsewhere; set http.token_file, or listen on 127.0.0.1\n";
                Some((StatusCode::FORBIDDEN, text).into_response())
            }
            // A page of somebody else's, open in a browser here, can have its own name resolve to this machine.
            Guard::Local if !given(header::HOST).is_some_and(is_local) => {
                let text = "misdirected: ask for 127.0.0.1 or localhost\n";
                Some((StatusCode::MISDIRECTED_REQUEST, text).into_response())
            }
            Guard::Token
                if !self.token.as_ref().is_some_and(|token| token.is_borne_by(given(header::AUTHORIZATION))) =>
            {
                let ask = ["Bearer realm=\"backfilld\"", "Basic realm=\"backfilld\", charset=\"UTF-8\""]
                    .map(|ask| (header::WWW_AUTHENTICATE, ask));
                let text = "a token is needed: Authorization: Bearer TOKEN, or in a browser the token as the password of any user\n";
                Some((StatusCode::UNAUTHORIZED, AppendHeaders(ask), text).into_response())
            }
            Guard::Local | Guard::Token => None,
        }
    }
}

/// What stands before everything but metrics and probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    /// There is no such page.
    Off,
    /// On this machine only, and no token is asked for.
    Local,
    Token,
    /// Whoever reaches the address would read it.
    Closed,
}

/// Whether the Host of a request is this machine, by address or as `localhost`.
pub(super) fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

pub(super) fn nothing_here() -> Response {
    (StatusCode::NOT_FOUND, "not found; there are /, /status.json, /metrics, /livez and /readyz\n").into_response()
}
