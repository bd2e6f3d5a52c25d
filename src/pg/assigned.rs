//! Builds the SQL condition that compares columns with the expressions that a job assigns to them.

use crate::job::plan::Assignment;
use crate::pg::ident::{quote, quote_all};

/// Returns the condition that selects the rows in which at least one column differs from the
/// expression that is assigned to it.
pub fn differs(assignments: &[Assignment]) -> String {
    let differs: Vec<String> = assignments
        .iter()
        .map(|assignment| {
            let expression = format!("(\n{}\n)", assignment.expression);
            match (assignment.columns.as_slice(), assignment.types.as_slice()) {
                // The value is cast to the type of the column, as in the assignment. For example, a
                // number that is assigned to a text column is compared as text.
                ([column], [sql_type]) => format!("{} is distinct from {expression}::{sql_type}", quote(column)),
                ([column], _) => format!("{} is distinct from {expression}", quote(column)),
                (columns, _) => {
                    let columns = quote_all(columns.iter().map(String::as_str));
                    format!("row({columns}) is distinct from {expression}")
                }
            }
        })
        .collect();
    format!("({})", differs.join(" or "))
}
