//! A claim: one slice, held by one worker for the time of a lease, with the token that fences it.

use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::job::checkpoint::Checkpoint;
use crate::job::plan::{Kind, Plan};
use crate::key::Key;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SliceKind {
    /// Finds the key, the bound and the slices.
    Plan,
    /// Changes the rows.
    Walk,
    /// Counts the rows that still need work.
    Verify,
}

/// What `backfill._claim` answers.
#[derive(Debug, Clone, Deserialize)]
pub struct Claim {
    #[serde(rename = "slice")]
    pub slice_id: i64,
    #[serde(rename = "job")]
    pub job_id: i64,
    pub kind: SliceKind,
    pub ordinal: i32,
    /// Above 1: a sweep, for rows that the verification before it found.
    #[serde(default)]
    pub generation: i32,
    pub token: Uuid,
    pub takeover: bool,
    /// Claims of this slice so far, this one included.
    #[serde(default)]
    pub attempts: i32,
    pub upper: Option<Key>,
    /// Deferred rows of the slice, to be retried.
    #[serde(default)]
    pub deferred: u64,
    #[serde(flatten)]
    pub checkpoint: Checkpoint,
    pub name: String,
    pub relation: u32,
    /// The table that holds the slice's rows, where it is known: a leaf of the target, or the target itself.
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
    /// What the job does with its rows: one without assignments deletes them.
    pub fn work(&self) -> Kind {
        if self.set.is_some() { Kind::Update } else { Kind::Delete }
    }
}

/// The session settings of the one who enqueued.
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

/// What the database wants of a job, as the checkpoint call and the heartbeat answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Desired {
    Running,
    Paused,
    Cancelled,
    PausedAll,
}

impl Desired {
    /// Reads the answer; what is unknown stops the work, for a later version may want something that we can't do.
    pub fn read(text: &str) -> Self {
        match text {
            "running" => Self::Running,
            "paused_all" => Self::PausedAll,
            "cancelled" => Self::Cancelled,
            _ => Self::Paused,
        }
    }
}

/// What a verifying slice is to prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Every row has what its expressions say; else none matches the filter any more.
    pub by_expression: bool,
    /// The snapshot of the planning: what was written later is told apart.
    pub planned: Option<String>,
}

/// A row that was passed without being changed, to be retried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeferredRow {
    pub id: i64,
    pub key: Key,
}
