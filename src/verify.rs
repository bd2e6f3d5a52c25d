//! The final verification of a job. The database itself checks `coverage`
//! (`backfill._coverage_gap`): the slices' ranges follow one another without a gap, and each was
//! passed to its end. `filter` and `expression` walk the planned key range again. They count the
//! rows that still need work (`filter`), or whose columns differ from the result of their
//! expressions (`expression`). This module builds the conditions for these rows.

use crate::job::plan::{Kind, Plan};
use crate::pg::assigned::differs;

/// The condition by which a verifying slice finds its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Filter,
    /// It is no longer known which rows matched the filter before the walk, so each row is
    /// compared.
    Expression,
}

/// Returns the condition for the rows that a verification counts.
pub fn counted(plan: &Plan, by: By) -> String {
    match by {
        By::Expression => differs(&plan.assignments),
        By::Filter => still_needs_work(plan),
    }
}

/// Returns the condition for a row that still needs work. Such a row matches the filter, and if its
/// expressions can be compared, its columns differ from their results. Without the comparison, a
/// row whose correct value matches the filter again would never be done (P11).
pub fn still_needs_work(plan: &Plan) -> String {
    let filter = plan.filter.as_deref().map_or_else(|| "true".to_owned(), |filter| format!("(\n{filter}\n)"));
    if !plan.comparable || plan.kind == Kind::Delete {
        return filter;
    }
    format!("{filter} and {}", differs(&plan.assignments))
}

/// Returns the plan of a sweep, which changes only the rows that still need work. Rows that are
/// correct have been changed already.
#[must_use]
pub fn of_sweep(plan: Plan) -> Plan {
    if !plan.comparable || plan.kind == Kind::Delete {
        return plan;
    }
    Plan { filter: Some(still_needs_work(&plan)), ..plan }
}
