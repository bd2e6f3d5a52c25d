//! The closing proof. `coverage` is found by the database (`backfill._coverage_gap`): the slices' ranges follow one
//! another without a gap and each was passed to its end. `filter` and `expression` walk the frozen range again and count
//! the rows that still need work, or whose columns are not what their expressions say; these are the conditions by
//! which they know them.

use crate::job::plan::{Kind, Plan};
use crate::pg::assigned::differs;

/// By what a verifying slice knows its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Filter,
    /// Whether the filter held before can't be told any more; so every row is compared.
    Expression,
}

/// The rows that a verification counts.
pub fn counted(plan: &Plan, by: By) -> String {
    match by {
        By::Expression => differs(&plan.assignments),
        By::Filter => still_needs_work(plan),
    }
}

/// A row that still needs work: it matches the filter, and, where the expressions can be compared, its columns are not
/// what they say. Without that a row whose right value matches the filter again would never be done (P11).
pub fn still_needs_work(plan: &Plan) -> String {
    let filter = plan.filter.as_deref().map_or_else(|| "true".to_owned(), |filter| format!("(\n{filter}\n)"));
    if !plan.comparable || plan.kind == Kind::Delete {
        return filter;
    }
    format!("{filter} and {}", differs(&plan.assignments))
}

/// A sweep changes the rows that still need work and no others: those that are right were changed already.
#[must_use]
pub fn of_sweep(plan: Plan) -> Plan {
    if !plan.comparable || plan.kind == Kind::Delete {
        return plan;
    }
    Plan { filter: Some(still_needs_work(&plan)), ..plan }
}
