//! The status page and its JSON: what a person wants to know of the jobs when they were woken for it. Read-only; the
//! page shows the SQL to change something and does not do it.

mod board;
mod chart;
mod history;
mod page;
mod seen;
mod sql;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use self::history::Charts;
use self::seen::Seen;
use super::{Health, Pages};

pub use board::Board;
pub use history::{Lag, Observation};

/// All that the page shows; what `/status.json` gives. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Status {
    version: &'static str,
    /// By the daemon's clock.
    at: String,
    draining: bool,
    databases: Vec<Database>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Database {
    name: String,
    ready: bool,
    /// Why it is not ready, or could not be asked just now.
    trouble: Option<String>,
    /// How long ago the rest was seen; null if it never was.
    age_seconds: Option<f64>,
    charts: Charts,
    #[serde(flatten)]
    seen: Seen,
}

impl Status {
    fn of(health: &Health, board: &Board) -> Self {
        let (draining, ready) = (health.is_draining(), health.databases());
        let databases = ready.into_iter().map(|(name, not_ready)| {
            let known = board.known(&name);
            let (age, seen) = known.seen.map_or((None, Arc::default()), |(age, seen)| (Some(age), seen));
            Database {
                ready: not_ready.is_none() && !draining,
                trouble: not_ready.or(known.trouble),
                age_seconds: age.as_ref().map(Duration::as_secs_f64),
                charts: known.charts,
                seen: Seen::clone(&seen),
                name,
            }
        });
        let at = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        Self { version: env!("CARGO_PKG_VERSION"), at, draining, databases: databases.collect() }
    }
}

pub(super) async fn json(State(pages): State<Pages>) -> Response {
    pages.board.look().await;
    match serde_json::to_vec(&Status::of(&pages.health, &pages.board)) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("the status can't be written: {error}\n")).into_response()
        }
    }
}

pub(super) async fn html(State(pages): State<Pages>, RawQuery(query): RawQuery) -> Response {
    pages.board.look().await;
    let refreshes = query.as_deref() != Some("refresh=off");
    let page = page::render(&Status::of(&pages.health, &pages.board), refreshes);
    ([(header::CONTENT_SECURITY_POLICY, POLICY.as_str())], Html(page.into_string())).into_response()
}

/// Only the page's own style and script, and only this daemon to ask; so that a name that got past the escaping would
/// still do nothing.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| BASE64.encode(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()));
    let (style, script) = (hash(page::STYLE), hash(page::SCRIPT));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

#[cfg(test)]
mod tests;
