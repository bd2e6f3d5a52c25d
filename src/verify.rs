//! Builds the conditions for the final verification of a job.
//!
//! The database checks `coverage` itself (`backfill._coverage_gap`): the ranges of the slices leave
//! no gap, and each range was passed to its end. `filter` and `expression` walk the planned key
//! range again. `filter` counts the rows that still need work. `expression` counts the rows with
//! columns that differ from the results of the expressions.

use crate::job::plan::{Kind, Plan};
use crate::pg::assigned::differs;

/// How a verifying slice finds the rows that it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Filter,
    /// Compares each row with the expressions, because it is no longer known which rows matched the
    /// filter before the walk.
    Expression,
}

/// Returns the condition for the rows that a verification counts.
pub fn counted(plan: &Plan, by: By) -> String {
    match by {
        By::Expression => differs(&plan.assignments),
        By::Filter => still_needs_work(plan),
    }
}

/// Returns the condition for a row that still needs work. Such a row matches the filter. If the
/// expressions can be compared, its columns also differ from the results of the expressions.
/// Without this comparison, a row that matches the filter even with its new value would always
/// count as unfinished (P11).
pub fn still_needs_work(plan: &Plan) -> String {
    let filter = plan.filter.as_deref().map_or_else(|| "true".to_owned(), |filter| format!("(\n{filter}\n)"));
    if !plan.comparable || plan.kind == Kind::Delete {
        return filter;
    }
    format!("{filter} and {}", differs(&plan.assignments))
}

/// Returns the plan of a sweep, which changes only the rows that still need work. The walk has
/// already changed the other rows.
#[must_use]
pub fn of_sweep(plan: Plan) -> Plan {
    if !plan.comparable || plan.kind == Kind::Delete {
        return plan;
    }
    Plan { filter: Some(still_needs_work(&plan)), ..plan }
}
