//! Builds the condition that selects the rows of a batch by a key range or by a list of keys.

use super::fragments::Names;
use crate::job::plan::Plan;
use crate::pg::keyset;

/// Holds the condition that selects the rows of a batch, and the queries that the condition uses.
pub(super) struct KeyScan {
    /// Queries of a `with` clause. The last query, `_bf_end`, returns the key at which the batch
    /// ends.
    pub(super) end: String,
    /// Name of the query that returns the list of keys. The table is joined with this list. None if
    /// the rows are selected by a range.
    pub(super) list: Option<&'static str>,
    /// Condition that each row of the batch satisfies.
    pub(super) range: String,
}

impl KeyScan {
    /// Returns the walked table, joined with the list of keys if there is one.
    pub(super) fn source(&self, plan: &Plan) -> String {
        let joined = self.list.map_or_else(String::new, |list| format!(" cross join {list}"));
        format!("{}{joined}", plan.source())
    }
}

/// Returns the upper bound of the slice ($6) as key columns, for a batch that reaches this bound.
pub(super) fn planned_end(plan: &Plan) -> String {
    let values = keyset::values(&plan.key, "$6").into_iter().enumerate();
    values.map(|(n, value)| format!("{value} as _bf_k{n}")).collect::<Vec<_>>().join(", ")
}

/// Selects the rows of a batch by a range of the key, for keys of one column.
pub(super) fn range_scan(plan: &Plan, key: &Names, from_start: bool) -> KeyScan {
    let after = if from_start { "true".to_owned() } else { keyset::after(&plan.key, "$4") };
    let end = format!(
        "_bf_bound as materialized (
  select {columns} from only {target} where {after} and {until} order by {ordered} offset $5::pg_catalog.int8 operator(pg_catalog.-) 1 limit 1),
_bf_end as materialized (
  select {names}, $5::pg_catalog.int8 as scanned, false as done from _bf_bound
  union all
  select {upper}, (select pg_catalog.count(*) from only {target} where {after} and {until}), true where not exists (select from _bf_bound))",
        columns = key.columns,
        target = plan.source(),
        until = keyset::until(&plan.key, "$6"),
        ordered = keyset::ordered(&plan.key),
        names = key.names,
        upper = planned_end(plan),
    );
    let until_end = keyset::until_row(&plan.key, &format!("select {} from _bf_end", key.names));
    KeyScan { end, list: None, range: format!("{after} and {until_end}") }
}

/// Selects the rows of a batch by a list of keys. This is for tables whose key has several columns.
/// No single condition gives a bounded range scan on the index of such a key. The query that reads
/// the keys may read up to one batch of rows beyond the upper bound.
pub(super) fn list_scan(plan: &Plan, key: &Names, from_start: bool) -> KeyScan {
    let end = format!(
        "{ahead},
{list},
_bf_end as materialized (
  (select {names}, $5::pg_catalog.int8 as scanned, false as done from _bf_list order by {ordered} offset $5::pg_catalog.int8 operator(pg_catalog.-) 1 limit 1)
  union all
  select {upper}, (select pg_catalog.count(*) from _bf_list), true where (select pg_catalog.count(*) from _bf_list) operator(pg_catalog.<) $5::pg_catalog.int8)",
        ahead = keyset::ahead(&plan.key, &plan.source(), (!from_start).then_some("$4"), "$5::pg_catalog.int8"),
        list = keyset::list(&plan.key, &keyset::until_of_names(&plan.key, "$6")),
        names = key.names,
        ordered = keyset::ordered_names(&plan.key),
        upper = planned_end(plan),
    );
    KeyScan { end, list: Some("_bf_list"), range: keyset::equal(&plan.key, "_bf_list") }
}

/// Returns the query `_bf_next`, which reads the first `limit` rows after the key `from`, up to the
/// key `until`. Without `from`, the query begins with the first row.
pub(super) fn next(plan: &Plan, key: &Names, from: Option<&str>, until: &str, limit: u32) -> String {
    if keyset::is_listed(&plan.key) {
        return format!(
            "{},\n_bf_next as materialized (select * from _bf_ahead where {})",
            keyset::ahead(&plan.key, &plan.source(), from, &format!("{limit}::pg_catalog.int8")),
            keyset::until_of_names(&plan.key, until)
        );
    }
    format!(
        "_bf_next as materialized (select {columns} from only {target} where {after} and {until} order by {ordered} limit {limit})",
        columns = key.columns,
        target = plan.source(),
        after = from.map_or_else(|| "true".to_owned(), |from| keyset::after(&plan.key, from)),
        until = keyset::until(&plan.key, until),
        ordered = keyset::ordered(&plan.key),
    )
}
