//! Quotes names. Each name in an SQL statement is quoted by this module or by the server.

/// Returns a name in double quotes. A double quote within the name is doubled. Source: PostgreSQL
/// documentation, "Identifiers and Key Words".
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns names in double quotes, separated by commas.
pub fn quote_all<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quote).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_stay_one_name() {
        assert_eq!(quote("a\"; drop table x; --"), "\"a\"\"; drop table x; --\"");
        assert_eq!(quote_all(["a", "B c"]), "\"a\", \"B c\"");
    }
}
