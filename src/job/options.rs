//! The options of a job. `backfill.enqueue` has checked them, and absent options have their
//! defaults.

use serde::Deserialize;
use serde_json::Value;

/// A job's options. An absent or null value means the default.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Maximum rows per second of the whole job. None if the job has no limit of its own.
    pub max_rows_per_second: Option<f64>,
    /// Target duration of one batch in milliseconds. None if the throttle sets the target according
    /// to the load from other sessions.
    pub target_batch_ms: Option<u32>,
    /// Maximum number of rows that one batch scans.
    pub max_batch_rows: u32,
    /// Maximum number of slices that are walked in parallel.
    pub slices: u32,
    /// Maximum time in milliseconds that another session may wait for a batch.
    pub max_victim_wait_ms: u32,
    /// Maximum duration, in milliseconds, of a batch that consists of one row.
    pub max_row_ms: u32,
    pub throttle: Switch,
    pub verify: Proof,
    pub vacuum: Vacuum,
    /// The window as the user wrote it; see [`crate::window`].
    pub window: Option<Value>,
}

/// The verification that the user requested. From this option, `backfill._verify_kind` determines
/// which verification runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proof {
    Auto,
    Filter,
    Expression,
    Coverage,
    None,
}

/// How the daemon handles the dead rows that a job creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vacuum {
    /// While autovacuum runs on the table, batches wait for it, at most 60 s for each vacuum.
    Wait,
    /// The daemon vacuums the table itself while the walk proceeds.
    Run,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    On,
    Off,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_rows_per_second: None,
            target_batch_ms: None,
            max_batch_rows: 5000,
            slices: 1,
            max_victim_wait_ms: 50,
            max_row_ms: 2000,
            throttle: Switch::On,
            verify: Proof::Auto,
            vacuum: Vacuum::Wait,
            window: None,
        }
    }
}

impl Options {
    /// Merges the job's own options into the daemon's defaults. Options that were written directly
    /// into the table have not been checked by `backfill.enqueue`. A value of the wrong type is
    /// therefore ignored, and some numbers are limited to the range that `backfill.enqueue`
    /// accepts.
    pub fn read(defaults: &Value, own: &Value) -> Self {
        let mut merged = serde_json::Map::new();
        for layer in [defaults, own] {
            for (name, value) in layer.as_object().into_iter().flatten() {
                let alone = Value::Object([(name.clone(), value.clone())].into_iter().collect());
                if !value.is_null() && serde_json::from_value::<Self>(alone).is_ok() {
                    merged.insert(name.clone(), value.clone());
                }
            }
        }
        let mut options: Self = serde_json::from_value(Value::Object(merged)).unwrap_or_default();
        options.max_batch_rows = options.max_batch_rows.clamp(1, 100_000);
        options.slices = options.slices.clamp(1, 64);
        options.max_row_ms = options.max_row_ms.clamp(100, 3_600_000);
        options.target_batch_ms = options.target_batch_ms.map(|millis| millis.clamp(1, 500));
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_jobs_own_options_take_precedence_over_the_daemons_defaults() {
        let options = Options::read(&json!({"slices": 2, "target_batch_ms": 20}), &json!({"slices": 4}));
        assert_eq!((options.slices, options.target_batch_ms, options.max_batch_rows), (4, Some(20), 5000));
    }

    #[test]
    fn a_value_of_the_wrong_type_leaves_the_default_in_force() {
        let options = Options::read(&json!({}), &json!({"slices": "many", "throttle": "off", "verify": "none"}));
        assert_eq!((options.slices, options.throttle), (1, Switch::Off));
    }
}
