//! Keyset conditions in SQL: which rows come after a key, and up to one, along the walked index. Operators are those
//! of the index's operator class and collations those of the index, for only they follow its order (P12). Keys
//! travel as arrays of text.

use crate::job::plan::KeyColumn;
use crate::pg::ident::quote;

/// The key's columns as the index orders them: for `order by`, and as the left side of a comparison.
pub fn ordered(key: &[KeyColumn]) -> String {
    key.iter().map(ordered_column).collect::<Vec<_>>().join(", ")
}

/// A column as the index orders it.
pub fn ordered_column(column: &KeyColumn) -> String {
    match &column.collation {
        Some(collation) => format!("{} collate {collation}", quote(&column.name)),
        None => quote(&column.name),
    }
}

/// The elements of a text array parameter, each as its column's type. `parameter` is such as `$4`.
pub fn values(key: &[KeyColumn], parameter: &str) -> Vec<String> {
    key.iter()
        .enumerate()
        .map(|(n, column)| format!("({parameter}::pg_catalog.text[])[{}]::{}", n + 1, column.sql_type))
        .collect()
}

/// `key > parameter`
pub fn after(key: &[KeyColumn], parameter: &str) -> String {
    compare(key, ">", &format!("({})", values(key, parameter).join(", ")))
}

/// `key <= parameter`
pub fn until(key: &[KeyColumn], parameter: &str) -> String {
    compare(key, "<=", &format!("({})", values(key, parameter).join(", ")))
}

/// `key <= (select ...)`, whose columns are typed as the key's.
pub fn until_row(key: &[KeyColumn], select: &str) -> String {
    compare(key, "<=", &format!("({select})"))
}

/// Each column equal to that of a list of keys, whose columns are `_bf_k0` and so on.
pub fn equal(key: &[KeyColumn], list: &str) -> String {
    key.iter()
        .enumerate()
        .map(|(n, column)| format!("{} operator({}.=) {list}._bf_k{n}", ordered_column(column), column.operators))
        .collect::<Vec<_>>()
        .join(" and ")
}

fn compare(key: &[KeyColumn], operator: &str, right: &str) -> String {
    let schema = match key {
        [first, rest @ ..] if rest.iter().all(|column| column.operators == first.operators) => {
            format!("operator({}.{operator})", first.operators)
        }
        // A row comparison names one operator: with types of several schemas the job's search_path must know them.
        _ => operator.to_owned(),
    };
    match key {
        [only] => format!("{} {schema} {right}", ordered_column(only)),
        _ => format!("({}) {schema} {right}", ordered(key)),
    }
}

/// An expression of a key column's type as lossless text under any DateStyle and TimeZone. Source: the manual,
/// "JSON Functions": dates and times become ISO 8601, with a numeric zone.
pub fn as_text(column: &KeyColumn, expression: &str) -> String {
    let base = column.sql_type.as_str();
    let plain = ["smallint", "integer", "bigint", "numeric", "text", "character", "uuid", "bytea", "boolean", "inet"];
    if base == "date" || base.starts_with("timestamp") {
        format!("(pg_catalog.to_json({expression}) operator(pg_catalog.#>>) '{{}}')")
    } else if plain.iter().any(|name| base.starts_with(name)) && !base.ends_with(']') {
        format!("{expression}::pg_catalog.text")
    } else {
        // Ranges, arrays and whatever else may hold times within.
        format!("backfill.key_text({expression})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, sql_type: &str, collation: Option<&str>) -> KeyColumn {
        KeyColumn {
            name: name.into(),
            attnum: 1,
            sql_type: sql_type.into(),
            collation: collation.map(Into::into),
            operators: "pg_catalog".into(),
        }
    }

    #[test]
    fn one_column_is_compared_plainly() {
        let key = [column("id", "bigint", None)];
        assert_eq!(after(&key, "$4"), r#""id" operator(pg_catalog.>) (($4::pg_catalog.text[])[1]::bigint)"#);
    }

    #[test]
    fn several_columns_are_compared_as_a_row_with_the_indexs_collation() {
        let key = [column("a", "integer", None), column("b", "text", Some(r#"pg_catalog."C""#))];
        assert_eq!(
            until(&key, "$6"),
            r#"("a", "b" collate pg_catalog."C") operator(pg_catalog.<=) (($6::pg_catalog.text[])[1]::integer, ($6::pg_catalog.text[])[2]::text)"#
        );
    }

    #[test]
    fn times_travel_as_iso_8601() {
        assert_eq!(as_text(&column("at", "tstzrange", None), "k1"), "backfill.key_text(k1)");
        assert_eq!(as_text(&column("at", "text[]", None), "k1"), "backfill.key_text(k1)");
        assert!(as_text(&column("at", "timestamp with time zone", None), "k1").contains("to_json"));
        assert_eq!(as_text(&column("id", "uuid", None), "k1"), "k1::pg_catalog.text");
    }
}
