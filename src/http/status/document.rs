//! What a person wants to know of the jobs, as one document: the page draws it, and `/status.json` is it.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::board::Board;
use super::history::Charts;
use super::seen::Seen;
use crate::http::health::Health;

/// All that the page shows; what `/status.json` gives. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Status {
    pub version: &'static str,
    /// By the daemon's clock.
    pub at: String,
    pub draining: bool,
    pub databases: Vec<Database>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Database {
    pub name: String,
    pub ready: bool,
    /// Why it is not ready, or could not be asked just now.
    #[serde(rename = "trouble")]
    pub failure: Option<String>,
    /// How long ago the rest was seen; null if it never was.
    pub age_seconds: Option<f64>,
    pub charts: Charts,
    #[serde(flatten)]
    pub seen: Seen,
}

impl Status {
    pub fn of(health: &Health, board: &Board) -> Self {
        let (draining, ready) = (health.is_draining(), health.databases());
        let databases = ready.into_iter().map(|(name, not_ready)| {
            let known = board.known(&name);
            let (age, seen) = known.seen.map_or((None, Arc::default()), |(age, seen)| (Some(age), seen));
            Database {
                ready: not_ready.is_none() && !draining,
                failure: not_ready.or(known.failure),
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
