//! Conditions that tell whether a row was written since the job was planned.

use crate::job::plan::Plan;
use crate::pg::ident::literal;

/// Returns the condition for a row that was written since the snapshot `since` (a `pg_snapshot`).
pub(super) fn written_since(plan: &Plan, since: &str) -> String {
    // The column must be qualified with its table's name, because a join does not expose the system
    // columns of its tables.
    let table = plan.alias.as_ref().unwrap_or(&plan.target);
    format!("backfill._written_since({table}.xmin, {}::pg_catalog.pg_snapshot)", literal(since))
}

/// Returns the plan of a sweep whose filter may raise an error for rows that the job has changed.
/// The filter is not evaluated on rows that were written since the snapshot `since` (a
/// `pg_snapshot`), and such rows are not changed.
pub fn of_lenient_sweep(sweep: &Plan, since: &str) -> Plan {
    let written = written_since(sweep, since);
    let filter = sweep.filter.as_ref().map(|filter| format!("case when {written} then false else (\n{filter}\n) end"));
    Plan { filter, ..sweep.clone() }
}
