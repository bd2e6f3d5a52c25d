//! The result of planning a job. It is stored with the job and used by each daemon that claims a
//! slice of it. Fields may be added with a default, but none is renamed or removed, because a later
//! version continues the plans of earlier ones.

use serde::{Deserialize, Serialize};

use crate::key::{Key, KeyRange};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The version increases when the meaning of a plan changes.
    pub version: u32,
    #[serde(default)]
    pub kind: Kind,
    /// The table, quoted and with its schema.
    pub target: String,
    pub relation: u32,
    pub key: Vec<KeyColumn>,
    pub assignments: Vec<Assignment>,
    pub filter: Option<String>,
    pub isolation: Isolation,
    /// Attribute numbers of all columns that the job names, for the fingerprint.
    pub columns: Vec<i16>,
    /// Numbers (OIDs) of the other tables that the expressions read, including tables behind views
    /// but not tables that functions read.
    #[serde(default)]
    pub reads: Vec<u32>,
    pub fingerprint: String,
    /// Whether the expressions give the same value each time and don't read what they assign, so
    /// that the result can be checked.
    pub comparable: bool,
    /// Whether an expression reads a column that the job assigns (`n = n + 1`).
    pub self_reading: bool,
    /// Whether the filter depends on the clock or on other rows, so that a row may begin to match
    /// without being written.
    #[serde(default)]
    pub filter_varies: bool,
    /// Whether an expression reads a row as text (`md5(t::text)`).
    #[serde(default)]
    pub rows_as_text: bool,
    /// The highest key at planning. None if the table was empty, or if each leaf has its own.
    pub upper: Option<Key>,
    /// Whether the rows are stored in several tables (partitions or children). Each slice then
    /// names its own leaf.
    #[serde(default)]
    pub spread: bool,
    /// The name of the target, quoted and without its schema, by which expressions may refer to the
    /// leaf that is walked.
    #[serde(default)]
    pub alias: Option<String>,
    /// The target, if this is the plan of one of its leaves. Never stored.
    #[serde(skip)]
    pub root: Option<Root>,
    /// The size of the tables at planning.
    #[serde(default)]
    pub sizes: Option<Sizes>,
    /// The planning daemon's defaults, for options that the job does not set.
    #[serde(default)]
    pub defaults: serde_json::Value,
}

/// The total size in bytes of all tables that are walked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// The tables including TOAST.
    pub table_bytes: i64,
    pub index_bytes: i64,
}

/// The properties of one leaf that its walk needs in addition to the job's plan. They are stored
/// with each of the leaf's slices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    pub relation: u32,
    /// The table, quoted and with its schema.
    pub target: String,
    pub key: Vec<KeyColumn>,
    /// The same as [`Plan::columns`], with the leaf's own attribute numbers, which may differ from
    /// those of its parent.
    pub columns: Vec<i16>,
    pub fingerprint: String,
    pub upper: Option<Key>,
}

/// The table that a job names, for use in the plan of one of its leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    pub relation: u32,
    pub target: String,
}

/// A slice as planning creates it: a range of the target, or of one of its leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedSlice {
    pub leaf: Option<Leaf>,
    /// None for a leaf that was empty.
    pub range: Option<KeyRange>,
    pub rows_estimated: i64,
}

/// The result of planning, which is stored in the queue.
#[derive(Debug, Clone)]
pub struct PlanResult {
    pub plan: Plan,
    pub slices: Vec<PlannedSlice>,
    pub rows_estimated: i64,
    /// `pg_current_snapshot()` at the time when the upper bound was read. The job's guarantee
    /// covers the rows that were committed before it.
    pub snapshot: String,
}

impl Plan {
    /// Returns the plan for one of the tables that hold the rows. Executors only know such plans.
    #[must_use]
    pub fn at(&self, leaf: Leaf) -> Self {
        Self {
            root: Some(Root { relation: self.relation, target: self.target.clone() }),
            target: leaf.target,
            relation: leaf.relation,
            key: leaf.key,
            columns: leaf.columns,
            fingerprint: leaf.fingerprint,
            upper: leaf.upper,
            ..self.clone()
        }
    }

    /// Returns the walked table as a statement names it. A leaf gets the name of its parent as an
    /// alias, which is the name that expressions use.
    pub fn source(&self) -> String {
        match &self.alias {
            Some(alias) => format!("{} as {alias}", self.target),
            None => self.target.clone(),
        }
    }
}

/// The work on the rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    #[default]
    Update,
    Delete,
}

/// The isolation level of batches. READ COMMITTED sees the latest version of each row. REPEATABLE
/// READ is for expressions that read other rows; otherwise they would mix two points in time and
/// lose updates.
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
    /// The type, as `format_type` returns it.
    #[serde(rename = "type")]
    pub sql_type: String,
    /// The collation of the index, quoted and with its schema. None for types without one.
    pub collation: Option<String>,
    /// The schema of the operators of the index's operator class, quoted.
    pub operators: String,
    /// Whether the walk descends in this column, as its index does, while it ascends in others. It
    /// is false in all columns if the index descends in each: such an index is walked backwards.
    #[serde(default)]
    pub descending: bool,
}

/// An assignment `column = expression`, or `(a, b) = (expression)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub columns: Vec<String>,
    pub expression: String,
    /// The types of the columns, as `format_type` returns them.
    #[serde(default)]
    pub types: Vec<String>,
}

impl Assignment {
    /// Returns whether this is `column = default`, which is not an expression.
    pub fn is_default(&self) -> bool {
        self.expression.trim().eq_ignore_ascii_case("default")
    }

    /// Returns whether several columns get their values from a query, and not from a row of
    /// expressions.
    pub fn is_select(&self) -> bool {
        let inner = self.expression.trim_start_matches(['(', '\n', ' ', '\t', '\r']);
        inner.get(..6).is_some_and(|word| word.eq_ignore_ascii_case("select"))
            || inner.get(..4).is_some_and(|word| word.eq_ignore_ascii_case("with"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_without_a_kind_is_an_update() {
        let stored = serde_json::json!({"version": 1, "target": "public.t", "relation": 1, "key": [],
            "assignments": [], "filter": null, "isolation": "read committed", "columns": [], "fingerprint": "",
            "comparable": true, "self_reading": false, "upper": null});
        assert_eq!(serde_json::from_value::<Plan>(stored).unwrap().kind, Kind::Update);
    }

    /// A role that may write to the queue can store anything there. Such a plan is read or refused.
    #[test]
    fn a_stored_plan_that_was_tampered_with_is_refused_or_read() {
        let column = serde_json::json!({"name": "id", "attnum": 1, "type": "bigint", "collation": null, "operators": "pg_catalog"});
        let stored = serde_json::json!({"version": 1, "target": "public.t", "relation": 1, "key": [column],
            "assignments": [{"columns": ["a"], "expression": "1"}], "filter": "a is null", "isolation": "read committed",
            "columns": [1, 2], "fingerprint": "f", "comparable": true, "self_reading": false, "upper": ["9"]});
        let whole = serde_json::from_value::<Plan>(stored.clone()).unwrap();
        assert_eq!(whole.upper, Some(Key(vec!["9".to_owned()])));
        let others = [
            serde_json::json!(null),
            serde_json::json!(-1),
            serde_json::json!(1e99),
            serde_json::json!("x"),
            serde_json::json!([[]]),
            serde_json::json!([null]),
            serde_json::json!({"a": {}}),
        ];
        for name in stored.as_object().unwrap().keys() {
            for other in &others {
                let mut tampered = stored.clone();
                tampered[name] = other.clone();
                // The value may happen to fit, and is then read as it was written.
                if let Ok(plan) = serde_json::from_value::<Plan>(tampered) {
                    assert_eq!(&serde_json::to_value(&plan).unwrap()[name], other, "{name}");
                }
            }
            let mut lacking = stored.clone();
            lacking.as_object_mut().unwrap().remove(name);
            // A missing `Option` is none; only these two are optional.
            let optional = ["filter", "upper"].contains(&name.as_str());
            assert_eq!(serde_json::from_value::<Plan>(lacking).is_ok(), optional, "{name}");
        }
    }
}
