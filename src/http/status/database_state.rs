//! Reads the snapshot of one database for the status page. Every user of this machine may be able
//! to read the page. The snapshot therefore contains no row data: no keys, and no server messages
//! about single rows. It also does not contain the assignments (`set`) or the filter of a job.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::pg::control::Control;
use crate::pg::row::Columns;

const SHOWN: &str = "select backfill._status_jobs()";
const SEEN: &str = "select backfill._status($1::int8[])";

/// The snapshot of one database. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DatabaseState {
    pub read_at: String,
    pub paused_all: Option<PausedAll>,
    /// The number of jobs in each state. A state without jobs is left out.
    pub queue: BTreeMap<String, i64>,
    /// At most 70 jobs: up to 50 unfinished jobs, the last 10 failed jobs, and the last 10 other
    /// finished jobs.
    pub jobs: Vec<Job>,
    /// At most 20 rollouts: the unfinished ones, and those that ended within the last day.
    #[serde(default)]
    pub rollouts: Vec<Rollout>,
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

/// A row of `backfill.jobs`. Figures that depend on the current time use the clock of the database
/// server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub id: i64,
    pub name: String,
    pub kind: String,
    pub state: String,
    pub desired_state: String,
    pub waiting_reason: Option<String>,
    pub waiting_text: Option<String>,
    pub throttled_by: Option<String>,
    pub throttled_text: Option<String>,
    pub time_share: Option<f64>,
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
    /// The time from the start of the job to its end, or to now if the job is unfinished.
    pub took_seconds: Option<f64>,
    pub max_rows_per_second: Option<f64>,
    /// At most 16 slices. Empty for a finished job.
    pub slices: Vec<Slice>,
    pub slices_total: i64,
    /// The number of quarantined rows for each of the five most frequent SQLSTATEs.
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
    /// The host of the daemon that holds the slice.
    pub host: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RowErrors {
    pub sqlstate: String,
    pub rows: i64,
}

/// A row of `backfill.rollouts`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    pub name: String,
    pub table_name: String,
    pub stage: String,
    pub state: String,
    pub desired_state: String,
    pub until: String,
    pub waiting_reason: Option<String>,
    pub waiting_text: Option<String>,
    pub error: Option<String>,
    pub hint: Option<String>,
    /// When the stage was reached.
    pub since: String,
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

/// A running daemon.
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
    /// The name of the job. None if the event concerns no job.
    pub name: Option<String>,
    pub kind: String,
    pub actor: String,
    pub message: String,
}

/// Reads the snapshot with two short queries of the control login.
pub(super) async fn read(control: &Control) -> Result<DatabaseState> {
    let ids: Vec<i64> = control.query_one(SHOWN, &[]).await?.read(0)?;
    let row = control.query_one(SEEN, &[&ids]).await?;
    serde_json::from_str(row.read(0)?)
        .map_err(|error| Error::new(Kind::Internal, format!("could not read the jobs: {error}")))
}
