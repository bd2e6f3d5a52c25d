//! Binds the address and serves the pages.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::access::nothing_here;
use super::edge;
use super::pages::Pages;
use super::status::handlers;
use crate::error::{Error, Kind, Result};

/// After the start of the shutdown, the server sends responses to slow clients for at most this
/// time.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// Binds the address and serves until `shutdown`. The caller must cancel `shutdown` only after the
/// drain, so that probes and metrics are available while batches finish. Returns the bound address,
/// because port 0 stands for any free port.
///
/// # Errors
/// [`Kind::Permission`] or [`Kind::Config`] if the address cannot be bound.
pub async fn serve(
    listen: SocketAddr,
    pages: Pages,
    shutdown: CancellationToken,
) -> Result<(SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::bind(listen).await.map_err(|error| cannot_listen(listen, &error))?;
    let address = listener.local_addr().map_err(|error| cannot_listen(listen, &error))?;
    info!(http.listen = %address, "serving metrics and probes");
    pages.warn_if_closed(address);
    let task = tokio::spawn(edge::serve(listener, router(pages, address), shutdown, LINGER));
    Ok((address, task))
}

fn cannot_listen(listen: SocketAddr, error: &io::Error) -> Error {
    let kind = if error.kind() == io::ErrorKind::PermissionDenied { Kind::Permission } else { Kind::Config };
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "Another process, perhaps another backfilld, is already using this address.",
        io::ErrorKind::PermissionDenied => {
            "Only root, or a process with CAP_NET_BIND_SERVICE, can listen on a port below 1024."
        }
        io::ErrorKind::AddrNotAvailable => "This machine does not have this address.",
        _ => "The address cannot be used.",
    };
    Error::new(kind, format!("could not listen on {listen}: {error}"))
        .hint(format!("{remedy} Choose another address with --listen ADDR or http.listen. With port 0, the system chooses a free port."))
}

/// Builds the router. `get` also accepts HEAD, and refuses every other method with status 405.
fn router(pages: Pages, address: SocketAddr) -> Router {
    let open = Router::new().route("/metrics", get(metrics_page)).route("/livez", get(livez));
    let ready = Router::new().route("/readyz", get(readyz)).with_state((pages.clone(), address));
    let guarded = Router::new()
        .route("/", get(handlers::html))
        .route("/status.json", get(handlers::json))
        .route_layer(middleware::from_fn_with_state((pages.clone(), address), admit));
    let all = open.merge(guarded).fallback(not_found).with_state(pages).merge(ready);
    all.layer(middleware::map_response(harden))
}

async fn admit(State((pages, address)): State<(Pages, SocketAddr)>, request: Request, next: Next) -> Response {
    match pages.refusal(address, &request) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    }
}

const NO_SNIFF: HeaderName = header::X_CONTENT_TYPE_OPTIONS;

#[allow(clippy::unused_async)] // the layer requires a future
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
    // The status page sets its own, less strict policy.
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(NOTHING));
    response
}

#[allow(clippy::unused_async)]
async fn metrics_page(State(pages): State<Pages>) -> Response {
    pages.metrics.databases(pages.health.databases().into_iter().map(|(name, not_ready)| (name, not_ready.is_none())));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], pages.metrics.render()).into_response()
}

#[allow(clippy::unused_async)]
async fn livez(State(pages): State<Pages>) -> Response {
    verdict(pages.health.live())
}

#[allow(clippy::unused_async)]
async fn readyz(State((pages, address)): State<(Pages, SocketAddr)>, request: Request) -> Response {
    verdict(pages.health.ready(pages.refusal(address, &request).is_none()))
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
