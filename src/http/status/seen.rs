//! What is read of one database for the status page. No rows' data: neither keys nor what the server said of a row, for
//! the page may be open to whoever is on the machine. Nor `set` and `filter`, which may hold such data too.

use std::collections::BTreeMap;

use deadpool_postgres::Pool;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::pg::connect::within;
use crate::pg::pools::{CONTROL_LIMIT, control};

const SHOWN: &str = "select backfill._status_jobs()";
const SEEN: &str = "select backfill._status($1::int8[])";

/// Times are RFC 3339 in UTC.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    pub read_at: String,
    pub paused_all: Option<PausedAll>,
    /// How many jobs are in each state; states without one are left out.
    pub queue: BTreeMap<String, i64>,
    /// 70 at most: 50 that live, the last 10 that failed, the last 10 that ended otherwise.
    pub jobs: Vec<Job>,
    pub signals: Vec<Signal>,
    pub workers: Vec<Worker>,
    pub events: Vec<Event>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PausedAll {
    pub reason: Option<String>,
    pub by: Option<String>,
    pub at: Option<String>,
}

/// A row of `backfill.jobs`, with some figures reckoned by the server's clock.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub id: i64,
    pub name: String,
    pub kind: String,
    pub state: String,
    pub desired_state: String,
    pub waiting_reason: Option<String>,
    pub waiting_text: Option<String>,
    pub target: String,
    pub run_as: String,
    pub enqueued_by: String,
    pub rows_scanned: i64,
    pub rows_changed: i64,
    pub rows_unresolved: i64,
    pub rows_quarantined: i64,
    pub rows_estimated: Option<i64>,
    pub percent_done: f64,
    pub rows_per_second: Option<f64>,
    pub eta: Option<String>,
    pub eta_seconds: Option<f64>,
    pub deadline: Option<String>,
    pub error: Option<String>,
    pub hint: Option<String>,
    pub reason: Option<String>,
    pub run_at: Option<String>,
    pub enqueued_at: Option<String>,
    pub started_at: Option<String>,
    pub finished_at: Option<String>,
    pub verified_at: Option<String>,
    /// From start to end, or to now.
    pub took_seconds: Option<f64>,
    pub max_rows_per_second: Option<f64>,
    /// 16 at most, of a job that has not ended.
    pub slices: Vec<Slice>,
    pub slices_total: i64,
    /// How many rows are quarantined with which SQLSTATE, the most frequent five.
    pub row_errors: Vec<RowErrors>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    pub slice: i64,
    pub relation: String,
    pub state: String,
    pub rows_scanned: i64,
    pub rows_changed: i64,
    pub percent_done: Option<f64>,
    /// Of the daemon that holds it.
    pub host: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RowErrors {
    pub sqlstate: String,
    pub rows: i64,
}

/// A row of `backfill.signals`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    pub signal: String,
    pub source: String,
    pub kind: String,
    pub value: Option<f64>,
    pub limit: Option<f64>,
    pub utilization: Option<f64>,
    pub age_seconds: Option<f64>,
    pub holding: bool,
    pub reason: Option<String>,
}

/// A daemon that is alive.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    pub id: String,
    pub host: String,
    pub pid: i64,
    pub version: String,
    pub slices: i64,
    pub started_at: Option<String>,
    pub heartbeat_age_seconds: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub at: String,
    /// The job's; none of what concerns no job.
    pub name: Option<String>,
    pub kind: String,
    pub actor: String,
    pub message: String,
}

/// Two short questions of the control login.
pub(super) async fn read(pool: &Pool) -> Result<Seen> {
    let client = control(pool).await?;
    let shown = within(CONTROL_LIMIT, client.prepare_cached(SHOWN)).await?;
    let ids: Vec<i64> = within(CONTROL_LIMIT, client.query_one(&shown, &[])).await?.get(0);
    let statement = within(CONTROL_LIMIT, client.prepare_cached(SEEN)).await?;
    let row = within(CONTROL_LIMIT, client.query_one(&statement, &[&ids])).await?;
    serde_json::from_str(row.get(0))
        .map_err(|error| Error::new(Kind::Internal, format!("the jobs can't be read: {error}")))
}
