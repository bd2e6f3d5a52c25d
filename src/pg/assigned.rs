//! Builds the SQL condition that compares columns with the expressions that a job assigns to them.

use crate::job::plan::Assignment;
use crate::pg::ident::quote;

/// Returns the condition that selects the rows in which at least one column differs from the
/// expression that is assigned to it. Two nulls do not differ.
///
/// Each column is compared as a row of one column. `is distinct from` would use the operator `=`
/// that the job's `search_path` finds, and another role may have created that operator. The
/// comparison of rows uses the default operators of the types instead.
pub fn differs(assignments: &[Assignment]) -> String {
    let differs: Vec<String> = assignments
        .iter()
        .map(|assignment| {
            let columns = assignment.columns.iter().map(|column| quote(column)).collect::<Vec<_>>().join(", ");
            format!(
                "row({columns})::pg_catalog.record operator(pg_catalog.<>) ({})::pg_catalog.record",
                values(assignment)
            )
        })
        .collect();
    format!("({})", differs.join(" or "))
}

/// Returns the assigned values as a row. Each value is cast to the type of its column, as in the
/// assignment. For example, a number that is assigned to a text column is compared as text.
fn values(assignment: &Assignment) -> String {
    let expression = &assignment.expression;
    match assignment.types.as_slice() {
        [sql_type] => format!("row((\n{expression}\n)::{sql_type})"),
        types => {
            let number = types.len();
            let names = (0..number).map(|n| format!("_bf_c{n}")).collect::<Vec<_>>().join(", ");
            let cast = types.iter().enumerate().map(|(n, sql_type)| format!("_bf_c{n}::{sql_type}"));
            let from = match assignment.row_constructor() {
                Some(list) => format!("values {list}"),
                None => expression.clone(),
            };
            format!("select row({}) from (\n{from}\n) as _bf_value({names})", cast.collect::<Vec<_>>().join(", "))
        }
    }
}
