//! Probes, metrics and the index page: read-only, for ever. Changes are made by SQL or the command line, where rights
//! are the database's.

mod health;
mod token;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Http;
use crate::error::{Error, Kind, Result};
use crate::metrics;

pub use health::{Health, Pulse};
use token::Token;

/// How long a slow reader may keep its answer coming after shutdown.
const LINGER: Duration = Duration::from_secs(1);

/// What the pages are made of. Cheap to clone.
#[derive(Clone)]
pub struct Pages {
    health: Arc<Health>,
    metrics: metrics::Handle,
    token: Option<Arc<Token>>,
    status_page: bool,
}

impl Pages {
    /// Reads the token file, which must hold a token if it is named.
    pub fn new(config: &Http, health: Arc<Health>, metrics: metrics::Handle) -> Result<Self> {
        let token = config.token_file.as_deref().map(Token::read).transpose()?.map(Arc::new);
        Ok(Self { health, metrics, token, status_page: config.status_page })
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
    let task = tokio::spawn(async move {
        let stop = shutdown.clone();
        let server = axum::serve(listener, router(pages)).with_graceful_shutdown(async move { stop.cancelled().await });
        tokio::select! {
            ended = server.into_future() => {
                if let Err(error) = ended {
                    warn!(%error, "the http server ended");
                }
            }
            () = async { shutdown.cancelled().await; tokio::time::sleep(LINGER).await } => {}
        }
    });
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

/// `get` answers HEAD as well, and everything else with 405.
fn router(pages: Pages) -> Router {
    let open =
        Router::new().route("/metrics", get(metrics_page)).route("/livez", get(livez)).route("/readyz", get(readyz));
    let mut guarded = Router::new();
    if pages.status_page {
        guarded =
            guarded.route("/", get(index)).route_layer(middleware::from_fn_with_state(pages.clone(), demand_token));
    }
    open.merge(guarded).fallback(not_found).layer(middleware::map_response(harden)).with_state(pages)
}

async fn demand_token(State(pages): State<Pages>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if pages.token.as_deref().is_none_or(|token| token.is_borne_by(given)) {
        return next.run(request).await;
    }
    let ask = [(header::WWW_AUTHENTICATE, "Bearer realm=\"backfilld\"")];
    (StatusCode::UNAUTHORIZED, ask, "a bearer token is needed: Authorization: Bearer TOKEN\n").into_response()
}

const NO_SNIFF: HeaderName = header::X_CONTENT_TYPE_OPTIONS;

#[allow(clippy::unused_async)] // the layer wants a future
async fn harden(response: Response) -> impl IntoResponse {
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (NO_SNIFF, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, response)
}

#[allow(clippy::unused_async)]
async fn metrics_page(State(pages): State<Pages>) -> Response {
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
async fn index() -> Html<&'static str> {
    Html(concat!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>backfilld</title>\n",
        "<h1>backfilld ",
        env!("CARGO_PKG_VERSION"),
        "</h1>\n<ul>\n",
        "<li><a href=\"/metrics\">/metrics</a>: for Prometheus\n",
        "<li><a href=\"/livez\">/livez</a>: the daemon's loops turn\n",
        "<li><a href=\"/readyz\">/readyz</a>: its databases can be reached and have the right schema\n",
        "</ul>\n<p>Read-only. Jobs: <code>select * from backfill.jobs</code>, or <code>backfilld status</code>.\n"
    ))
}

#[allow(clippy::unused_async)]
async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "not found; there are /, /metrics, /livez and /readyz\n").into_response()
}

#[cfg(test)]
mod tests;
