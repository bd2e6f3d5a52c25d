//! What the planner found about a job, stored with it, and continued by whichever daemon claims a slice. Fields may
//! be added with a default; none is renamed or removed, for a plan of an earlier version is continued by a later one.

use serde::{Deserialize, Serialize};

use crate::key::{Key, KeyRange};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Grows when a plan changes its meaning.
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
    /// The filter looks at the clock or at other rows: a row may begin to match without being written.
    #[serde(default)]
    pub filter_varies: bool,
    /// An expression reads a row as its text (`md5(t::text)`).
    #[serde(default)]
    pub rows_as_text: bool,
    /// The highest key at planning; none if the table was empty, or if each leaf has its own.
    pub upper: Option<Key>,
    /// The rows lie in several tables, partitions or children: each slice names its own leaf.
    #[serde(default)]
    pub spread: bool,
    /// The name of the target, quoted and without its schema, by which expressions may call the leaf that is walked.
    #[serde(default)]
    pub alias: Option<String>,
    /// The target, where this plan is that of one of its leaves. Never stored.
    #[serde(skip)]
    pub root: Option<Root>,
    /// How large the tables were.
    #[serde(default)]
    pub sizes: Option<Sizes>,
    /// The planning daemon's defaults for options that the job leaves open.
    #[serde(default)]
    pub defaults: serde_json::Value,
}

/// All tables that are walked, together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// With TOAST.
    pub table_bytes: i64,
    pub index_bytes: i64,
}

/// What the walk of one of the tables that hold the rows needs beyond the job's plan; stored with each of its slices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    pub relation: u32,
    /// Quoted, with its schema.
    pub target: String,
    pub key: Vec<KeyColumn>,
    /// As [`Plan::columns`], by the leaf's own numbers, which need not be those of its parent.
    pub columns: Vec<i16>,
    pub fingerprint: String,
    pub upper: Option<Key>,
}

/// The table that a job names, as seen from one of its leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    pub relation: u32,
    pub target: String,
}

/// A slice as planning cuts it: a range of the target, or of one of its leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedSlice {
    pub leaf: Option<Leaf>,
    /// None for a leaf that was empty.
    pub range: Option<KeyRange>,
    pub rows_estimated: i64,
}

/// What planning found, to be stored.
#[derive(Debug, Clone)]
pub struct PlanResult {
    pub plan: Plan,
    pub slices: Vec<PlannedSlice>,
    pub rows_estimated: i64,
    /// `pg_current_snapshot()` of when the bound was read: the promise covers rows committed before it.
    pub snapshot: String,
}

impl Plan {
    /// The plan for one of the tables that hold the rows: executors know no other kind.
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

    /// The walked table as a statement names it. A leaf goes by the name of its parent, which is what expressions know.
    pub fn source(&self) -> String {
        match &self.alias {
            Some(alias) => format!("{} as {alias}", self.target),
            None => self.target.clone(),
        }
    }
}

/// What becomes of the rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    #[default]
    Update,
    Delete,
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
    /// The walk goes down in this column and up in others, as its index does. False in all columns of a key whose index
    /// descends in each: that is walked from its end.
    #[serde(default)]
    pub descending: bool,
}

/// `column = expression`, or `(a, b) = (expression)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub columns: Vec<String>,
    pub expression: String,
    /// Of the columns, as `format_type` gives them.
    #[serde(default)]
    pub types: Vec<String>,
}

impl Assignment {
    /// `column = default`, which is no expression.
    pub fn is_default(&self) -> bool {
        self.expression.trim().eq_ignore_ascii_case("default")
    }

    /// Of several columns from a query, and not from a row of expressions.
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

    /// Somebody who may write the queue could write anything there: it is read or refused.
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
                // It may fit by chance; then it is what was written.
                if let Ok(plan) = serde_json::from_value::<Plan>(tampered) {
                    assert_eq!(&serde_json::to_value(&plan).unwrap()[name], other, "{name}");
                }
            }
            let mut lacking = stored.clone();
            lacking.as_object_mut().unwrap().remove(name);
            // An Option that is missing is none: these two are the only ones.
            let optional = ["filter", "upper"].contains(&name.as_str());
            assert_eq!(serde_json::from_value::<Plan>(lacking).is_ok(), optional, "{name}");
        }
    }
}
