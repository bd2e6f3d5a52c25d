//! Collects the status of all jobs into one document. The page renders the document, and
//! `/status.json` returns it.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::board::Board;
use super::database_state::DatabaseState;
use super::history::Charts;
use crate::http::health::Health;

/// The document that the page renders and that `/status.json` returns. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Status {
    pub version: &'static str,
    /// The time at which the document was made, by the daemon's clock.
    pub at: String,
    pub draining: bool,
    pub databases: Vec<Database>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Database {
    pub name: String,
    pub ready: bool,
    /// The reason why the database is not ready, or why the last read of the database failed.
    #[serde(rename = "trouble")]
    pub failure: Option<String>,
    /// The age of the snapshot in seconds. Null before the first snapshot.
    pub age_seconds: Option<f64>,
    pub charts: Charts,
    #[serde(flatten)]
    pub state: DatabaseState,
}

impl Status {
    pub fn of(health: &Health, board: &Board) -> Self {
        let (draining, ready) = (health.is_draining(), health.databases());
        let databases = ready.into_iter().map(|(name, not_ready)| {
            let known = board.known(&name);
            let (age, state) = known.state.map_or((None, Arc::default()), |(age, state)| (Some(age), state));
            Database {
                ready: not_ready.is_none() && !draining,
                failure: not_ready.or(known.failure),
                age_seconds: age.as_ref().map(Duration::as_secs_f64),
                charts: known.charts,
                state: DatabaseState::clone(&state),
                name,
            }
        });
        let at = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        Self { version: env!("CARGO_PKG_VERSION"), at, draining, databases: databases.collect() }
    }
}
