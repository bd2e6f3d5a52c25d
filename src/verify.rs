//! Builds the conditions for the final verification of a job. There are three kinds of
//! verification:
//!
//! - `coverage` passes if the ranges of the slices follow one another without a gap up to the
//!   planned upper bound, and each slice was walked to its end. The database itself carries out
//!   this verification (`backfill._coverage_gap`).
//! - `filter` walks the planned key range again and counts the rows that still need work.
//! - `expression` walks the planned key range again and counts the rows in which an assigned column
//!   differs from the result of its expression.

use crate::job::plan::{Kind, Plan};
use crate::pg::assigned::differs;

/// How a verifying slice decides which rows to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Filter,
    /// Compares each row, because the daemon no longer knows which rows matched the filter before
    /// the walk.
    Expression,
}

/// Returns the condition for the rows that a verification counts.
pub fn counted(plan: &Plan, by: By) -> String {
    match by {
        By::Expression => differs(&plan.assignments),
        By::Filter => still_needs_work(plan),
    }
}

/// Returns the condition for a row that still needs work. Such a row matches the filter. For an
/// update whose expressions can be compared, an assigned column of the row must also differ from
/// the result of its expression. Without this comparison, a row that has correct values but still
/// matches the filter would never count as done (P11).
pub fn still_needs_work(plan: &Plan) -> String {
    let filter = plan.filter.as_deref().map_or_else(|| "true".to_owned(), |filter| format!("(\n{filter}\n)"));
    if !plan.comparable || plan.kind == Kind::Delete {
        return filter;
    }
    format!("{filter} and {}", differs(&plan.assignments))
}

/// Returns the plan of a sweep. If the expressions can be compared with the current values, the
/// sweep changes only the rows that still need work, and leaves rows with correct values unchanged.
#[must_use]
pub fn of_sweep(plan: Plan) -> Plan {
    if !plan.comparable || plan.kind == Kind::Delete {
        return plan;
    }
    Plan { filter: Some(still_needs_work(&plan)), ..plan }
}
