//! What columns are, against what expressions say that they should be.

use crate::job::plan::Assignment;
use crate::pg::ident::{quote, quote_all};

/// Rows whose columns are not what the expressions say.
pub fn differs(assignments: &[Assignment]) -> String {
    let differs: Vec<String> = assignments
        .iter()
        .map(|assignment| {
            let expression = format!("(\n{}\n)", assignment.expression);
            match (assignment.columns.as_slice(), assignment.types.as_slice()) {
                // As the assignment casts it: a number that was put into a text is no number any more.
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
