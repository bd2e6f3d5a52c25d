//! One statement of a rollout that a daemon has claimed.

use serde::Deserialize;
use uuid::Uuid;

use crate::job::claim::Settings;

/// The strongest lock on a table that a statement needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Lock {
    #[serde(rename = "none")]
    None,
    /// Blocks neither reads nor writes.
    #[serde(rename = "SHARE UPDATE EXCLUSIVE")]
    ShareUpdateExclusive,
    /// Blocks writes.
    #[serde(rename = "SHARE")]
    Share,
    /// Blocks writes.
    #[serde(rename = "SHARE ROW EXCLUSIVE")]
    ShareRowExclusive,
    /// Blocks reads and writes.
    #[serde(rename = "ACCESS EXCLUSIVE")]
    AccessExclusive,
}

impl Lock {
    /// Returns the name of the lock, if it blocks the application.
    pub fn blocking(self) -> Option<&'static str> {
        match self {
            Self::None | Self::ShareUpdateExclusive => None,
            Self::Share => Some("share"),
            Self::ShareRowExclusive => Some("share row exclusive"),
            Self::AccessExclusive => Some("access exclusive"),
        }
    }
}

/// The result of `backfill._claim_rollout`.
#[derive(Debug, Clone, Deserialize)]
pub struct Step {
    #[serde(rename = "rollout")]
    pub rollout_id: i64,
    pub name: String,
    pub token: Uuid,
    #[serde(rename = "statement")]
    pub statement_id: i64,
    pub run_as: String,
    pub target: String,
    pub relation: u32,
    /// Another table that the statement locks.
    pub also: Option<String>,
    pub sql: String,
    pub lock: Lock,
    /// Whether the statement cannot run in a transaction block.
    pub alone: bool,
    pub stage: String,
    /// Whether the statement undoes an earlier one.
    #[serde(default)]
    pub undo: bool,
    pub attempts: i32,
    pub settings: Settings,
    /// The data file of the table before the statement runs. The statement must not rewrite the
    /// table, so the file must stay the same.
    pub files: Option<String>,
}
