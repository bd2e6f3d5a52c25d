//! Keyset conditions in SQL: which rows come after a key, and up to one, along the walked index. Operators are those
//! of the index's operator class and collations those of the index, for only they follow its order (P12). Keys
//! travel as arrays of text.
//!
//! A key of several columns has no condition of one piece that bounds a scan at both ends: by `(a, b) > x` an index scan
//! knows where to begin, but by `(a, b) <= y` it ends no earlier than with the last row of that `a`, of which there may
//! be millions. So the rows of a batch are listed first ([`ahead`], [`list`]), from an open range with a limit.
//!
//! Where the index descends in some columns and ascends in others no row comparison follows it at all: the rows after a
//! key are then one range for each prefix of the key, and the conditions of one piece are for rows that are already found
//! (P13).

use crate::job::plan::KeyColumn;
use crate::pg::ident::quote;

/// Whether the walk goes up in some columns and down in others.
pub fn is_mixed(key: &[KeyColumn]) -> bool {
    key.iter().any(|column| column.descending)
}

/// Whether no condition of one piece bounds a scan of the index at both ends.
pub fn is_listed(key: &[KeyColumn]) -> bool {
    key.len() > 1 || is_mixed(key)
}

/// The key's columns in the order of the walk, for `order by`.
pub fn ordered(key: &[KeyColumn]) -> String {
    order(key, |_, column| ordered_column(column), false)
}

/// The same from the end.
pub fn reversed(key: &[KeyColumn]) -> String {
    order(key, |_, column| ordered_column(column), true)
}

/// The same for columns that are named `_bf_k0` and so on.
pub fn ordered_names(key: &[KeyColumn]) -> String {
    order(key, |n, _| format!("_bf_k{n}"), false)
}

fn order(key: &[KeyColumn], expression: impl Fn(usize, &KeyColumn) -> String, reversed: bool) -> String {
    let directed = |(n, column): (usize, &KeyColumn)| {
        expression(n, column) + if column.descending == reversed { "" } else { " desc" }
    };
    key.iter().enumerate().map(directed).collect::<Vec<_>>().join(", ")
}

/// `"id" as _bf_k0`
pub fn named(key: &[KeyColumn]) -> String {
    key.iter()
        .enumerate()
        .map(|(n, column)| format!("{} as _bf_k{n}", ordered_column(column)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Queries of a `with`, the last of which is `_bf_ahead`, the first `limit` rows after the key `from`, or of all. For a
/// mixed key one range of the index for each prefix of the key, the longest first, each with what the ones before have
/// left of the limit.
pub fn ahead(key: &[KeyColumn], target: &str, from: Option<&str>, limit: &str) -> String {
    let (columns, ordered) = (named(key), ordered(key));
    let Some(parameter) = from else {
        return format!(
            "_bf_ahead as materialized (select {columns} from only {target} order by {ordered} limit {limit})"
        );
    };
    if !is_mixed(key) {
        let after = after(key, parameter);
        return format!(
            "_bf_ahead as materialized (select {columns} from only {target} where {after} order by {ordered} limit {limit})"
        );
    }
    let values = values(key, parameter);
    let mut queries = Vec::new();
    let mut left = limit.to_owned();
    for (n, column) in key.iter().enumerate().rev() {
        let mut range: Vec<String> = (0..n).map(|n| at(&key[n], n, &values[n])).collect();
        range.push(one(column, &ordered_column(column), onward(column), &values[n]));
        queries.push(format!(
            "_bf_ahead_{n} as materialized (select {columns} from only {target} where {} order by {ordered} limit greatest({left}, 0))",
            range.join(" and ")
        ));
        left = format!("{left} operator(pg_catalog.-) (select pg_catalog.count(*) from _bf_ahead_{n})");
    }
    let all: Vec<String> = (0..key.len()).rev().map(|n| format!("select * from _bf_ahead_{n}")).collect();
    format!("{},\n_bf_ahead as materialized ({})", queries.join(",\n"), all.join(" union all "))
}

/// A column of a prefix. The first is one of a list of one: where the planner knows that a column has one value, an
/// index on the column after it gives the order as well, and looks cheaper than it is. Only the first, for before 17
/// no other list leaves an index its order; and no list of arrays.
fn at(column: &KeyColumn, n: usize, value: &str) -> String {
    let left = ordered_column(column);
    if n == 0 && !column.sql_type.ends_with(']') {
        one(column, &left, "=", &format!("any (array[{value}])"))
    } else {
        one(column, &left, "=", value)
    }
}

/// Whether a row of `_bf_ahead` is not beyond a key.
pub fn until_of_names(key: &[KeyColumn], parameter: &str) -> String {
    lexicographic(key, |n, _| format!("_bf_k{n}"), &values(key, parameter), true)
}

/// `_bf_list`, those of `_bf_ahead` that are not beyond a key. Through an array, because the planner
/// takes the rows of one for few, and so looks each key up in the index, whatever it thinks of the limit before.
pub fn list(key: &[KeyColumn], until: &str) -> String {
    let typed: Vec<String> = key
        .iter()
        .enumerate()
        .map(|(n, column)| {
            let collation =
                column.collation.as_ref().map_or_else(String::new, |collation| format!(" collate {collation}"));
            format!("_bf_k{n} {}{collation}", column.sql_type)
        })
        .collect();
    let names: Vec<String> = (0..key.len()).map(|n| format!("_bf_k{n}")).collect();
    format!(
        "_bf_list as materialized (
  select * from pg_catalog.unnest(array(select row({}) from _bf_ahead where {until})) as _bf_row({}))",
        names.join(", "),
        typed.join(", ")
    )
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
    if is_mixed(key) {
        return lexicographic(key, |_, column| ordered_column(column), &values(key, parameter), false);
    }
    compare(key, ">", &format!("({})", values(key, parameter).join(", ")))
}

/// `key <= parameter`
pub fn until(key: &[KeyColumn], parameter: &str) -> String {
    if is_mixed(key) {
        return lexicographic(key, |_, column| ordered_column(column), &values(key, parameter), true);
    }
    compare(key, "<=", &format!("({})", values(key, parameter).join(", ")))
}

/// `key <= (select ...)`, whose column is typed as the key's. For keys of one column.
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
        _ => format!("({}) {schema} {right}", key.iter().map(ordered_column).collect::<Vec<_>>().join(", ")),
    }
}

fn one(column: &KeyColumn, left: &str, operator: &str, right: &str) -> String {
    format!("{left} operator({}.{operator}) {right}", column.operators)
}

/// The operator of what comes after, on the way of the walk.
fn onward(column: &KeyColumn) -> &'static str {
    if column.descending { "<" } else { ">" }
}

/// Column by column, each in its own direction: `until` the right side, that included, or after it.
fn lexicographic(
    key: &[KeyColumn],
    left: impl Fn(usize, &KeyColumn) -> String,
    right: &[String],
    until: bool,
) -> String {
    let mut condition = None;
    for (n, column) in key.iter().enumerate().rev() {
        let (left, right) = (left(n, column), &right[n]);
        let strict = if column.descending == until { ">" } else { "<" };
        condition = Some(match condition {
            None if until => one(column, &left, &format!("{strict}="), right),
            None => one(column, &left, strict, right),
            Some(rest) => {
                format!("({} or {} and {rest})", one(column, &left, strict, right), one(column, &left, "=", right))
            }
        });
    }
    condition.unwrap_or_else(|| "true".to_owned())
}

/// An expression of a key column's type as lossless text under any DateStyle and TimeZone. Source: the manual,
/// "JSON Functions": dates and times become ISO 8601, with a numeric zone.
pub fn as_text(column: &KeyColumn, expression: &str) -> String {
    let base = column.sql_type.as_str();
    let plain = ["smallint", "integer", "bigint", "numeric", "text", "character", "uuid", "bytea", "boolean", "inet"];
    let is_array = base.ends_with(']');
    if base == "date" || base.starts_with("timestamp") && !is_array {
        format!("(pg_catalog.to_json({expression}) operator(pg_catalog.#>>) '{{}}')")
    } else if plain.iter().any(|name| base.starts_with(name)) && !is_array {
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
            descending: false,
        }
    }

    fn down(name: &str) -> KeyColumn {
        KeyColumn { descending: true, ..column(name, "integer", None) }
    }

    #[test]
    fn rows_after_a_mixed_key_are_a_range_for_each_prefix() {
        let key = [column("a", "integer", None), down("b")];
        let ranges = ahead(&key, "t", Some("$4"), "$5");
        assert!(ranges.contains(
            r#"where "a" operator(pg_catalog.=) any (array[($4::pg_catalog.text[])[1]::integer]) and "b" operator(pg_catalog.<) "#
        ), "{ranges}");
        assert!(
            ranges.contains(
                r#"where "a" operator(pg_catalog.>) ($4::pg_catalog.text[])[1]::integer order by "a", "b" desc limit"#
            ),
            "{ranges}"
        );
        assert_eq!(reversed(&key), r#""a" desc, "b""#);
    }

    #[test]
    fn each_column_of_a_mixed_key_is_compared_in_its_own_direction() {
        let key = [down("a"), column("b", "integer", None), down("c")];
        let until = lexicographic(&key, |n, _| format!("k{n}"), &["x".into(), "y".into(), "z".into()], true);
        assert_eq!(
            until.replace("operator(pg_catalog.", "").replace(")", ""),
            "(k0 > x or k0 = x and (k1 < y or k1 = y and k2 >= z"
        );
        let after = lexicographic(&key, |n, _| format!("k{n}"), &["x".into(), "y".into(), "z".into()], false);
        assert_eq!(
            after.replace("operator(pg_catalog.", "").replace(")", ""),
            "(k0 < x or k0 = x and (k1 > y or k1 = y and k2 < z"
        );
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
        assert_eq!(as_text(&column("at", "timestamp with time zone[]", None), "k1"), "backfill.key_text(k1)");
        assert!(as_text(&column("at", "timestamp with time zone", None), "k1").contains("to_json"));
        assert_eq!(as_text(&column("id", "uuid", None), "k1"), "k1::pg_catalog.text");
    }
}
