//! Quotes names and string constants. Each name in an SQL statement is quoted by this module or by
//! the server.

/// Returns a name in double quotes. A double quote within the name is doubled. Source: PostgreSQL
/// documentation, "Identifiers and Key Words".
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns names in double quotes, separated by commas.
pub fn quote_all<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quote).collect::<Vec<_>>().join(", ")
}

/// Returns a string constant that has the same meaning whatever `standard_conforming_strings` is.
pub fn literal(text: &str) -> String {
    let escaped = text.replace('\'', "''");
    if escaped.contains('\\') { format!(" E'{}'", escaped.replace('\\', "\\\\")) } else { format!("'{escaped}'") }
}

/// Returns a string constant that consists of ASCII characters. A session whose `client_encoding`
/// was changed reads it in the same way as any other session. In an encoding such as SJIS, a
/// character that is not ASCII could swallow the quote after it.
pub fn ascii_literal(text: &str) -> String {
    if text.is_ascii() {
        return literal(text);
    }
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\'' => escaped.push_str("''"),
            '\\' => escaped.push_str("\\\\"),
            c if c.is_ascii() => escaped.push(c),
            c => escaped.push_str(&format!("\\U{:08X}", u32::from(c))),
        }
    }
    format!(" E'{escaped}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_stay_one_name() {
        assert_eq!(quote("a\"; drop table x; --"), "\"a\"\"; drop table x; --\"");
        assert_eq!(quote_all(["a", "B c"]), "\"a\", \"B c\"");
    }

    #[test]
    fn literals_keep_quotes_and_backslashes() {
        assert_eq!(literal("a'b"), "'a''b'");
        assert_eq!(literal("a\\b'"), " E'a\\\\b'''");
        assert_eq!(ascii_literal("a\\b'"), literal("a\\b'"));
        assert_eq!(ascii_literal("\u{c1}\\'\u{1f600}"), " E'\\U000000C1\\\\''\\U0001F600'");
    }
}
