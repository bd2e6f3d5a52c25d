//! Probes, metrics and the status page: read-only, for ever. Changes are made by SQL or the command line, where rights
//! are the database's.

mod edge;
mod health;
mod status;
mod token;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{AppendHeaders, IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Http;
use crate::error::{Error, Kind, Result};
use crate::metrics::handle::Handle;

pub use health::{Health, Pulse};
pub use status::{Board, Lag, Observation};
use token::Token;

/// How long a slow reader may keep its answer coming after shutdown.
const LINGER: Duration = Duration::from_secs(1);

/// What the pages are made of. Cheap to clone.
#[derive(Clone)]
pub struct Pages {
    health: Arc<Health>,
    metrics: Handle,
    board: Board,
    access: Arc<RwLock<Access>>,
}

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

    fn guard(&self, address: SocketAddr) -> Guard {
        match self.token {
            _ if !self.status_page => Guard::Off,
            Some(_) => Guard::Token,
            None if address.ip().is_loopback() => Guard::Local,
            None => Guard::Closed,
        }
    }

    fn warn_if_closed(&self, address: SocketAddr) {
        if self.guard(address) == Guard::Closed {
            warn!(http.listen = %address, "the status page is off: this address can be reached from elsewhere, and http.token_file is not set");
        }
    }
}

impl Pages {
    pub fn new(access: Access, health: Arc<Health>, metrics: Handle, board: Board) -> Self {
        Self { health, metrics, board, access: Arc::new(RwLock::new(access)) }
    }

    /// From the next request on, at the `address` where they are served.
    pub fn set_access(&self, access: Access, address: SocketAddr) {
        access.warn_if_closed(address);
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = access;
    }
}

/// Bind and answer until `shutdown`. Give it a token of its own, cancelled after the drain, so that probes and metrics
/// answer while batches finish. Returns the address in use (port 0 takes a free one).
pub async fn serve(
    listen: SocketAddr,
    pages: Pages,
    shutdown: CancellationToken,
) -> Result<(SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::bind(listen).await.map_err(|error| cannot_listen(listen, &error))?;
    let address = listener.local_addr().map_err(|error| cannot_listen(listen, &error))?;
    info!(http.listen = %address, "serving metrics and probes");
    pages.access.read().unwrap_or_else(PoisonError::into_inner).warn_if_closed(address);
    let task = tokio::spawn(edge::serve(listener, router(pages, address), shutdown, LINGER));
    Ok((address, task))
}

fn cannot_listen(listen: SocketAddr, error: &io::Error) -> Error {
    let kind = if error.kind() == io::ErrorKind::PermissionDenied { Kind::Permission } else { Kind::Config };
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "another process has it, perhaps another backfilld",
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address",
        _ => "it can't be used",
    };
    Error::new(kind, format!("cannot listen on {listen}: {error}"))
        .hint(format!("{remedy}; choose another with --listen ADDR or http.listen (port 0 takes a free one)"))
}

/// What stands before everything but metrics and probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard {
    /// There is no such page.
    Off,
    /// On this machine only, and no token is asked for.
    Local,
    Token,
    /// Whoever reaches the address would read it.
    Closed,
}

/// `get` answers HEAD as well, and everything else with 405.
fn router(pages: Pages, address: SocketAddr) -> Router {
    let open =
        Router::new().route("/metrics", get(metrics_page)).route("/livez", get(livez)).route("/readyz", get(readyz));
    let guarded = Router::new()
        .route("/", get(status::html))
        .route("/status.json", get(status::json))
        .route_layer(middleware::from_fn_with_state((pages.clone(), address), admit));
    open.merge(guarded).fallback(not_found).layer(middleware::map_response(harden)).with_state(pages)
}

async fn admit(State((pages, address)): State<(Pages, SocketAddr)>, request: Request, next: Next) -> Response {
    match pages.refusal(address, &request) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    }
}

impl Pages {
    fn refusal(&self, address: SocketAddr, request: &Request) -> Option<Response> {
        let given = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        let access = self.access.read().unwrap_or_else(PoisonError::into_inner);
        match access.guard(address) {
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
                if !access.token.as_ref().is_some_and(|token| token.is_borne_by(given(header::AUTHORIZATION))) =>
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

/// Whether the Host of a request is this machine, by address or as `localhost`.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

const NO_SNIFF: HeaderName = header::X_CONTENT_TYPE_OPTIONS;

#[allow(clippy::unused_async)] // the layer wants a future
async fn harden(mut response: Response) -> Response {
    const NOTHING: &str = "default-src 'none'; frame-ancestors 'none'";
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (NO_SNIFF, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // A page that needs more says exactly what.
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(NOTHING));
    response
}

#[allow(clippy::unused_async)]
async fn metrics_page(State(pages): State<Pages>) -> Response {
    pages.metrics.databases(pages.health.databases().into_iter().map(|(name, trouble)| (name, trouble.is_none())));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], pages.metrics.render()).into_response()
}

#[allow(clippy::unused_async)]
async fn livez(State(pages): State<Pages>) -> Response {
    verdict(pages.health.live())
}

#[allow(clippy::unused_async)]
async fn readyz(State(pages): State<Pages>) -> Response {
    verdict(pages.health.ready())
}

fn verdict(result: std::result::Result<(), String>) -> Response {
    match result {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

#[allow(clippy::unused_async)]
async fn not_found() -> Response {
    nothing_here()
}

fn nothing_here() -> Response {
    (StatusCode::NOT_FOUND, "not found; there are /, /status.json, /metrics, /livez and /readyz\n").into_response()
}

#[cfg(test)]
mod tests;
