//! The result of planning a job. The plan is stored with the job, and each daemon that claims a
//! slice of the job uses it. A later version must be able to continue the plan of an earlier
//! version. So a new field needs a default, and no field may be renamed or removed.

use serde::{Deserialize, Serialize};

use crate::key::{Key, KeyRange};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The version of the plan format. It increases when the meaning of a plan changes.
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
    /// Attribute numbers of the key and of all columns that the job names, for the fingerprint.
    pub columns: Vec<i16>,
    /// OIDs of the other tables that the expressions read, including tables behind views. Tables
    /// that functions read are not included.
    #[serde(default)]
    pub reads: Vec<u32>,
    pub fingerprint: String,
    /// Whether the verification can compare the rows with the expressions. This requires that:
    ///
    /// - the expressions return the same value each time,
    /// - the expressions do not read the columns that the job assigns,
    /// - the job does not set any column to its default,
    /// - the server can compare the results of the expressions with the assigned columns.
    ///
    /// For a delete, this field tells whether the filter always has the same value for the same
    /// row.
    pub comparable: bool,
    /// Whether an expression reads a column that the job assigns (`n = n + 1`). Also true for a
    /// delete whose filter can give different results for the same row. Also true if the planner
    /// cannot rule out that an expression reads an assigned column.
    pub self_reading: bool,
    /// Whether the filter depends on the clock or on other rows. If it does, a row can begin to
    /// match without being written. Also true if the planner cannot rule out such a dependency.
    #[serde(default)]
    pub filter_varies: bool,
    #[serde(default)]
    pub volatile: Volatile,
    /// Whether an expression reads a row as text (`md5(t::text)`).
    #[serde(default)]
    pub rows_as_text: bool,
    /// The last key that the walked table had at planning. The job walks up to this key. None if
    /// the table was empty, or if each leaf has its own last key.
    pub upper: Option<Key>,
    /// Whether several tables (partitions or inheritance children) store the rows. If so, each
    /// slice names its own leaf.
    #[serde(default)]
    pub spread: bool,
    /// The name of the target, quoted and without its schema. Expressions may use this name, so it
    /// becomes the alias of the leaf that is walked. None if the target itself stores all rows.
    #[serde(default)]
    pub alias: Option<String>,
    /// The target, if this is the plan of one of its leaves. Never stored.
    #[serde(skip)]
    pub root: Option<Root>,
    /// The size of the walked tables at planning.
    #[serde(default)]
    pub sizes: Option<Sizes>,
    /// Reason why the planner could not find out what the expressions read, and assumed the worst.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unseen: Option<String>,
    /// The defaults of the daemon that planned the job, for options that the job does not set.
    #[serde(default)]
    pub defaults: serde_json::Value,
}

/// Whether the assigned expressions, or the filter, call a volatile function. Such a function can
/// have side effects, so each batch evaluates the expressions only as often as one plain statement
/// would. Also true if the planner cannot rule out such a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volatile {
    pub values: bool,
    pub filter: bool,
}

/// The total size in bytes of all tables that are walked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// The size of the tables including TOAST, without indexes.
    pub table_bytes: i64,
    pub index_bytes: i64,
}

/// The properties of one leaf. The walk of the leaf needs them in addition to the job's plan. Each
/// slice of the leaf stores these properties.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    pub relation: u32,
    /// The table, quoted and with its schema.
    pub target: String,
    pub key: Vec<KeyColumn>,
    /// The same columns as [`Plan::columns`], with the leaf's attribute numbers. These may differ
    /// from the attribute numbers of the leaf's parent.
    pub columns: Vec<i16>,
    pub fingerprint: String,
    pub upper: Option<Key>,
}

/// The target of a job, as recorded in the plan of one of the target's leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    pub relation: u32,
    pub target: String,
}

/// A slice that planning creates: a range of the target, or of one of its leaves.
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
    /// covers the rows that were committed before this snapshot.
    pub snapshot: String,
}

impl Plan {
    /// Returns the plan for one of the leaves, which store the rows of the target. If a job has
    /// leaves, its executors receive only such plans.
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

    /// Returns the walked table as a FROM item of a statement. A leaf has the name of the target as
    /// its alias, because expressions use this name.
    pub fn source(&self) -> String {
        match &self.alias {
            Some(alias) => format!("{} as {alias}", self.target),
            None => self.target.clone(),
        }
    }
}

/// Kind of change that a job makes to the rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    #[default]
    Update,
    Delete,
}

/// The isolation level of batches. At READ COMMITTED, a batch changes the latest version of each
/// row. REPEATABLE READ is for expressions that read other rows. At READ COMMITTED, such
/// expressions could mix two points in time and lose updates.
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
    /// The type, as `backfill._type_name` returns it.
    #[serde(rename = "type")]
    pub sql_type: String,
    /// The collation of the index column, quoted and with its schema. None for types without
    /// collation.
    pub collation: Option<String>,
    /// The quoted schema that contains the operators of the index's operator class.
    pub operators: String,
    /// Whether the walk descends in this column and ascends in another. False for all columns of an
    /// index that descends in every column, because the walk scans such an index backwards.
    #[serde(default)]
    pub descending: bool,
    /// Whether the type of the column is a domain over `sql_type`. A comparison then casts the
    /// column to `sql_type`. Otherwise the server could prefer an operator that another role
    /// created for the domain.
    #[serde(default)]
    pub is_domain: bool,
}

/// An assignment `column = expression`, or `(a, b) = (expression)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub columns: Vec<String>,
    pub expression: String,
    /// The types of the columns, as `backfill._type_name` returns them.
    #[serde(default)]
    pub types: Vec<String>,
}

impl Assignment {
    /// Returns whether the assignment is `column = default`. The word `default` is not an
    /// expression.
    pub fn is_default(&self) -> bool {
        self.expression.trim().eq_ignore_ascii_case("default")
    }

    /// Returns whether the columns get their values from a query, and not from an expression or a
    /// row constructor.
    pub fn is_select(&self) -> bool {
        let inner = self.expression.trim_start_matches(['(', '\n', ' ', '\t', '\r']);
        inner.get(..6).is_some_and(|word| word.eq_ignore_ascii_case("select"))
            || inner.get(..4).is_some_and(|word| word.eq_ignore_ascii_case("with"))
    }

    /// Returns the list of a row constructor, `(x, y)` or `row(x, y)`, with its parentheses.
    /// Returns none for a query.
    pub fn row_constructor(&self) -> Option<&str> {
        let trimmed = self.expression.trim();
        let list = match trimmed.get(..3) {
            Some(word) if word.eq_ignore_ascii_case("row") => trimmed[3..].trim_start(),
            _ => trimmed,
        };
        (!self.is_select()).then_some(list)
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

    /// A role that may write to the queue can store any JSON value as a plan. The daemon must read
    /// or refuse the value, and must not panic.
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
                // If the type of the field accepts the value, the plan must contain the value
                // unchanged.
                if let Ok(plan) = serde_json::from_value::<Plan>(tampered) {
                    assert_eq!(&serde_json::to_value(&plan).unwrap()[name], other, "{name}");
                }
            }
            let mut lacking = stored.clone();
            lacking.as_object_mut().unwrap().remove(name);
            // Of the stored fields, only these two are optional. A missing optional field is read
            // as `None`.
            let optional = ["filter", "upper"].contains(&name.as_str());
            assert_eq!(serde_json::from_value::<Plan>(lacking).is_ok(), optional, "{name}");
        }
    }
}
