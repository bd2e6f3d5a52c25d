//! Handles the requests for the status page and for `/status.json`.

use std::sync::LazyLock;

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::document::Status;
use super::page;
use crate::http::pages::Pages;

pub(in crate::http) async fn json(State(pages): State<Pages>) -> Response {
    pages.board.look().await;
    match serde_json::to_vec(&Status::of(&pages.health, &pages.board)) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("could not render the status: {error}\n")).into_response()
        }
    }
}

pub(in crate::http) async fn html(State(pages): State<Pages>, RawQuery(query): RawQuery) -> Response {
    pages.board.look().await;
    let refreshes = query.as_deref() != Some("refresh=off");
    let page = page::render(&Status::of(&pages.health, &pages.board), refreshes);
    ([(header::CONTENT_SECURITY_POLICY, POLICY.as_str())], Html(page.into_string())).into_response()
}

/// The content security policy of the page. The browser uses only the page's own style and script,
/// and sends requests only to this daemon. Even if the template failed to escape a script in a
/// job's name, the script would not run.
pub(super) static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| BASE64.encode(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()));
    let (style, script) = (hash(page::STYLE), hash(page::SCRIPT));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});
