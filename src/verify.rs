//! The closing proof. `coverage` is found by the database (`backfill._coverage_gap`): the slices' ranges follow one
//! another without a gap and each was passed to its end. `filter` walks the frozen range again and counts the rows
//! that still need work; this is the condition by which it knows them.

use crate::job::plan::{Kind, Plan};
use crate::pg::ident::{quote, quote_all};

/// A row that still needs work: it matches the filter, and, where the expressions can be compared, its columns are not
/// what they say. Without that a row whose right value matches the filter again would never be done (P11).
pub fn still_needs_work(plan: &Plan) -> String {
    let filter = plan.filter.as_deref().map_or_else(|| "true".to_owned(), |filter| format!("(\n{filter}\n)"));
    if !plan.comparable || plan.kind == Kind::Delete {
        return filter;
    }
    let differs: Vec<String> = plan
        .assignments
        .iter()
        .map(|assignment| {
            let left = match assignment.columns.as_slice() {
                [column] => quote(column),
                columns => format!("row({})", quote_all(columns.iter().map(String::as_str))),
            };
            format!("{left} is distinct from (\n{}\n)", assignment.expression)
        })
        .collect();
    format!("{filter} and ({})", differs.join(" or "))
}
