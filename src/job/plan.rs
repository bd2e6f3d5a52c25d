//! What the planner found about a job, stored with it, and continued by whichever daemon claims a slice. Fields may
//! be added with a default; none is renamed or removed, for a plan of an earlier version is continued by a later one.

use serde::{Deserialize, Serialize};

use crate::key::Key;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Grows when a plan changes its meaning.
    pub version: u32,
    /// Plans of the first release don't say: it knew updates only.
    #[serde(default)]
    pub kind: Kind,
    pub strategy: Strategy,
    /// The table, quoted and with its schema.
    pub target: String,
    pub relation: u32,
    pub key: Vec<KeyColumn>,
    pub assignments: Vec<Assignment>,
    pub filter: Option<String>,
    pub isolation: Isolation,
    /// Attribute numbers of every column that the job names, for the fingerprint.
    pub columns: Vec<i16>,
    /// Numbers of the other tables that the expressions read, those behind views too; not what functions read.
    #[serde(default)]
    pub reads: Vec<u32>,
    pub fingerprint: String,
    /// The expressions give the same value each time and don't read what they assign: a result can be checked.
    pub comparable: bool,
    /// An expression reads a column that the job assigns (`n = n + 1`).
    pub self_reading: bool,
    /// The highest key at planning; none if the table was empty.
    pub upper: Option<Key>,
    /// The planning daemon's defaults for options that the job leaves open.
    #[serde(default)]
    pub defaults: serde_json::Value,
}

/// What becomes of the rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    #[default]
    Update,
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    Plain,
}

/// READ COMMITTED sees each row's latest version; REPEATABLE READ is for expressions that read other rows, which
/// would otherwise mix two moments and lose updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Isolation {
    #[serde(rename = "read committed")]
    ReadCommitted,
    #[serde(rename = "repeatable read")]
    RepeatableRead,
}

impl Isolation {
    pub fn sql(self) -> &'static str {
        match self {
            Self::ReadCommitted => "read committed",
            Self::RepeatableRead => "repeatable read",
        }
    }
}

/// One column of the walked index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyColumn {
    pub name: String,
    pub attnum: i16,
    /// As `format_type` gives it.
    #[serde(rename = "type")]
    pub sql_type: String,
    /// The index's collation, quoted and with its schema; none for types without one.
    pub collation: Option<String>,
    /// Schema of the operators of the index's operator class, quoted.
    pub operators: String,
}

/// `column = expression`, or `(a, b) = (expression)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub columns: Vec<String>,
    pub expression: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_of_the_first_release_is_an_update() {
        let stored = serde_json::json!({"version": 1, "strategy": "plain", "target": "public.t", "relation": 1, "key": [],
            "assignments": [], "filter": null, "isolation": "read committed", "columns": [], "fingerprint": "",
            "comparable": true, "self_reading": false, "upper": null});
        assert_eq!(serde_json::from_value::<Plan>(stored).unwrap().kind, Kind::Update);
    }
}
