//! Builds keyset conditions in SQL. They select the rows after a key, or up to a key, along the
//! walked index. They use the operators of the index's operator class and the collations of the
//! index, because only these follow the order of the index (P12). Keys are passed as arrays of
//! text.
//!
//! `(a, b) > x` sets the start of an index scan. `(a, b) <= y` ends the scan only after the last
//! row whose `a` equals the `a` of `y`. The index may have millions of such rows. So for a key of
//! several columns no single condition bounds a scan at both ends. The keys of a batch are
//! therefore first read with a row limit, from a range without an upper bound ([`ahead`]). The keys
//! up to the upper bound are then listed ([`list`]).
//!
//! If the index is descending in some columns and ascending in others, no row comparison follows
//! its order. The rows after a key are then one range of the index for each prefix of the key.
//! Batches use a single condition only to filter rows that were read from these ranges (P13).

use crate::job::plan::KeyColumn;
use crate::pg::ident::quote;

/// Returns whether no row comparison follows the order of the walk. This is the case if the walk
/// ascends in some columns and descends in others (only then does a column have `descending` set).
/// It is also the case if the operators of the columns are in several schemas, because a row
/// comparison has one operator for all columns.
pub fn is_mixed(key: &[KeyColumn]) -> bool {
    key.iter().any(|column| column.descending) || key.windows(2).any(|pair| pair[0].operators != pair[1].operators)
}

/// Returns whether the keys of a batch must be listed first, because no single condition bounds an
/// index scan at both ends.
pub fn is_listed(key: &[KeyColumn]) -> bool {
    key.len() > 1 || is_mixed(key)
}

/// Returns the key's columns in the order of the walk, for `order by`.
pub fn ordered(key: &[KeyColumn]) -> String {
    order(key, |_, column| ordered_column(column), false)
}

/// Returns the key's columns in the reverse order of the walk, for `order by`.
pub fn reversed(key: &[KeyColumn]) -> String {
    order(key, |_, column| ordered_column(column), true)
}

/// Like [`ordered`], but for a query whose columns are named `_bf_k0` and so on.
pub fn ordered_names(key: &[KeyColumn]) -> String {
    order(key, |n, _| format!("_bf_k{n}"), false)
}

fn order(key: &[KeyColumn], expression: impl Fn(usize, &KeyColumn) -> String, reversed: bool) -> String {
    let directed = |(n, column): (usize, &KeyColumn)| {
        expression(n, column) + if column.descending == reversed { "" } else { " desc" }
    };
    key.iter().enumerate().map(directed).collect::<Vec<_>>().join(", ")
}

/// Returns the select list of the key: `"id" as _bf_k0, ...`.
pub fn named(key: &[KeyColumn]) -> String {
    key.iter()
        .enumerate()
        .map(|(n, column)| format!("{} as _bf_k{n}", ordered_column(column)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Returns the queries of a `with` clause. The last query, `_bf_ahead`, returns the keys of the
/// first `limit` rows after the key `from`, or of the first `limit` rows of the table if `from` is
/// `None`. For a mixed key the queries read one range of the index for each prefix of the key, the
/// longest prefix first. The limit of each query is `limit` minus the number of rows that the
/// earlier queries returned.
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

/// Returns the condition on a column of a prefix. The first column is compared with a list of one
/// value, so that the planner does not know that the column has a single value. Otherwise an index
/// that begins with the next column would also provide the order, and the planner would
/// underestimate the cost of a scan of that index. The other columns are compared directly, because
/// before PostgreSQL 17 a list on such a column makes the scan lose the order of the index. A
/// column of an array type is also compared directly, because SQL has no list of arrays.
fn at(column: &KeyColumn, n: usize, value: &str) -> String {
    let left = ordered_column(column);
    if n == 0 && !column.sql_type.ends_with(']') {
        one(column, &left, "=", &format!("any (array[{value}])"))
    } else {
        one(column, &left, "=", value)
    }
}

/// Returns the condition for rows of `_bf_ahead` that are not beyond a key.
pub fn until_of_names(key: &[KeyColumn], parameter: &str) -> String {
    lexicographic(key, |n, _| format!("_bf_k{n}"), &values(key, parameter), true)
}

/// Returns the query `_bf_list`: the rows of `_bf_ahead` that satisfy the condition `until`. The
/// rows pass through an array, because the planner expects few rows from an array. So the planner
/// chooses to look up each key in the index, even if it expects many rows from `_bf_ahead`.
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

/// Returns a column with the collation by which the index orders it.
pub fn ordered_column(column: &KeyColumn) -> String {
    let name = quote(&column.name);
    let name = if column.is_domain { format!("{name}::{}", column.sql_type) } else { name };
    match &column.collation {
        Some(collation) => format!("{name} collate {collation}"),
        None => name,
    }
}

/// Returns the elements of a text array parameter, for example `$4`, each cast to the type of its
/// key column.
pub fn values(key: &[KeyColumn], parameter: &str) -> Vec<String> {
    key.iter()
        .enumerate()
        .map(|(n, column)| format!("({parameter}::pg_catalog.text[])[{}]::{}", n + 1, column.sql_type))
        .collect()
}

/// Returns the condition `key > parameter`.
pub fn after(key: &[KeyColumn], parameter: &str) -> String {
    if is_mixed(key) {
        return lexicographic(key, |_, column| ordered_column(column), &values(key, parameter), false);
    }
    compare(key, ">", &format!("({})", values(key, parameter).join(", ")))
}

/// Returns the condition `key <= parameter`.
pub fn until(key: &[KeyColumn], parameter: &str) -> String {
    if is_mixed(key) {
        return lexicographic(key, |_, column| ordered_column(column), &values(key, parameter), true);
    }
    compare(key, "<=", &format!("({})", values(key, parameter).join(", ")))
}

/// Returns the condition `key <= (select ...)`, for a key of one column and a subquery of the same
/// type.
pub fn until_row(key: &[KeyColumn], select: &str) -> String {
    compare(key, "<=", &format!("({select})"))
}

/// Returns the condition that each key column equals the corresponding column (`_bf_k0` and so on)
/// of `list`.
pub fn equal(key: &[KeyColumn], list: &str) -> String {
    key.iter()
        .enumerate()
        .map(|(n, column)| format!("{} operator({}.=) {list}._bf_k{n}", ordered_column(column), column.operators))
        .collect::<Vec<_>>()
        .join(" and ")
}

/// Compares the key as a row. The key must not be mixed ([`is_mixed`]).
fn compare(key: &[KeyColumn], operator: &str, right: &str) -> String {
    match key {
        [only] => one(only, &ordered_column(only), operator, right),
        _ => {
            let schema = key.first().map_or("pg_catalog", |column| column.operators.as_str());
            let columns = key.iter().map(ordered_column).collect::<Vec<_>>().join(", ");
            format!("({columns}) operator({schema}.{operator}) {right}")
        }
    }
}

fn one(column: &KeyColumn, left: &str, operator: &str, right: &str) -> String {
    format!("{left} operator({}.{operator}) {right}", column.operators)
}

/// Returns the operator for values that come later in the direction of the walk.
fn onward(column: &KeyColumn) -> &'static str {
    if column.descending { "<" } else { ">" }
}

/// Returns a condition that compares the key's columns one by one, each in its own direction. With
/// `until` the condition selects the rows up to and including `right`, otherwise the rows after
/// `right`.
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

/// Returns SQL that converts a text array to the form in which a key is sent to the daemon: a JSON
/// array in UTF-8, as `bytea`. The code of a job can change `client_encoding` within a statement,
/// and the server would then convert text to another encoding. It never converts `bytea`.
/// [`row::key`](crate::pg::row::key) reads this form.
pub fn sent(array: &str) -> String {
    format!("pg_catalog.convert_to(pg_catalog.to_json({array})::pg_catalog.text, 'UTF8')")
}

/// Returns SQL that converts an expression of a key column's type to text without loss, under any
/// DateStyle, IntervalStyle and TimeZone. Dates and timestamps become ISO 8601. A timestamp with
/// time zone has a numeric offset. Source: PostgreSQL documentation, "JSON Functions and
/// Operators".
pub fn as_text(column: &KeyColumn, expression: &str) -> String {
    let base = column.sql_type.strip_prefix("pg_catalog.").unwrap_or(&column.sql_type);
    let plain = ["smallint", "integer", "bigint", "numeric", "text", "character", "uuid", "bytea", "boolean", "inet"];
    let is_array = base.ends_with(']');
    if base == "date" || base.starts_with("timestamp") && !is_array {
        format!("(pg_catalog.to_json({expression}) operator(pg_catalog.#>>) '{{}}')")
    } else if plain.iter().any(|name| base.starts_with(name)) && !is_array {
        format!("{expression}::pg_catalog.text")
    } else {
        // Ranges, arrays and other types that may contain times.
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
            is_domain: false,
        }
    }

    #[test]
    fn a_domain_is_compared_as_its_base_type() {
        let key = [KeyColumn { is_domain: true, ..column("k", "public.citext", None) }];
        assert!(after(&key, "$1").starts_with("\"k\"::public.citext operator("), "{}", after(&key, "$1"));
        assert_eq!(ordered(&key), "\"k\"::public.citext");
        assert!(equal(&key, "l").starts_with("\"k\"::public.citext operator("));
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
