//! A claim: one slice that one worker holds for the duration of a lease. The fencing token protects
//! the writes of the worker.

use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::job::checkpoint::Checkpoint;
use crate::job::plan::{Kind, Plan};
use crate::key::Key;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SliceKind {
    /// Finds the key, the upper bound and the slices.
    Plan,
    /// Changes the rows.
    Walk,
    /// Counts the rows that do not pass the verification.
    Verify,
}

/// The result of `backfill._claim`.
#[derive(Debug, Clone, Deserialize)]
pub struct Claim {
    #[serde(rename = "slice")]
    pub slice_id: i64,
    #[serde(rename = "job")]
    pub job_id: i64,
    pub kind: SliceKind,
    pub ordinal: i32,
    /// The number of the pass over the table: 1 for the walk and its verification, above 1 for a
    /// sweep and its verification. A sweep changes the rows that the previous verification found.
    #[serde(default)]
    pub generation: i32,
    pub token: Uuid,
    pub takeover: bool,
    /// The number of claims of this slice so far, including this one.
    #[serde(default)]
    pub attempts: i32,
    pub upper: Option<Key>,
    /// The number of deferred rows of the slice. The worker retries these rows.
    #[serde(default)]
    pub deferred: u64,
    #[serde(flatten)]
    pub checkpoint: Checkpoint,
    pub name: String,
    pub relation: u32,
    /// The table that contains the slice's rows: a leaf of the target, or the target itself. None
    /// if the claim is for the planning of a job.
    #[serde(default)]
    pub leaf: Option<u32>,
    pub target: String,
    pub set: Option<String>,
    pub filter: Option<String>,
    pub key: Option<Vec<String>>,
    pub run_as: String,
    pub options: Value,
    pub settings: Settings,
    pub revision: i32,
    pub plan: Option<Plan>,
}

impl Claim {
    /// Returns whether the job updates or deletes rows. A job without assignments deletes rows.
    pub fn work(&self) -> Kind {
        if self.set.is_some() { Kind::Update } else { Kind::Delete }
    }
}

/// The settings of the session that enqueued the job.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Settings {
    #[serde(default)]
    pub search_path: Option<String>,
    #[serde(rename = "TimeZone", default)]
    pub time_zone: Option<String>,
    #[serde(rename = "DateStyle", default)]
    pub date_style: Option<String>,
    #[serde(rename = "IntervalStyle", default)]
    pub interval_style: Option<String>,
}

/// The desired state of a job, as `backfill.advance`, the heartbeat and other calls return it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Desired {
    Running,
    Paused,
    Cancelled,
    PausedAll,
}

impl Desired {
    /// Reads the desired state. An unknown value pauses the job, because a later version may
    /// request a state that this version does not support.
    pub fn read(text: &str) -> Self {
        match text {
            "running" => Self::Running,
            "paused_all" => Self::PausedAll,
            "cancelled" => Self::Cancelled,
            _ => Self::Paused,
        }
    }
}

/// The check that a verifying slice must make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Whether each row must contain the results of the job's expressions. If false, no row may
    /// match the filter any more.
    pub by_expression: bool,
    /// The snapshot that was taken at planning. Rows that were written after this snapshot are
    /// counted separately.
    pub planned: Option<String>,
}

/// A row that the walk passed without changing it. The worker retries this row later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeferredRow {
    pub id: i64,
    pub key: Key,
}
