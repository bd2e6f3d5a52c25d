//! How a batch knows its rows: as a range of the key, or as a list of keys.

use super::fragments::Names;
use crate::job::plan::Plan;
use crate::pg::keyset;

/// How a batch knows its rows.
pub(super) struct KeyScan {
    /// Queries of a `with`, the last of which is `_bf_end`: the key up to which the batch goes.
    pub(super) end: String,
    /// What the table is joined with, if anything.
    pub(super) list: Option<&'static str>,
    /// The condition for a row of the batch.
    pub(super) range: String,
}

impl KeyScan {
    /// The walked table, with what it is joined with.
    pub(super) fn source(&self, plan: &Plan) -> String {
        let joined = self.list.map_or_else(String::new, |list| format!(" cross join {list}"));
        format!("{}{joined}", plan.source())
    }
}

/// The upper bound of a batch of key, for who has none before it.
pub(super) fn planned_end(plan: &Plan) -> String {
    let values = keyset::values(&plan.key, "$6").into_iter().enumerate();
    values.map(|(n, value)| format!("{value} as _bf_k{n}")).collect::<Vec<_>>().join(", ")
}

/// The rows of a range of a key of one column.
pub(super) fn range_scan(plan: &Plan, key: &Names, from_start: bool) -> KeyScan {
    let after = if from_start { "true".to_owned() } else { keyset::after(&plan.key, "$4") };
    let end = format!(
        "_bf_bound as materialized (
  select {columns} from only {target} where {after} and {until} order by {ordered} offset $5::pg_catalog.int8 - 1 limit 1),
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

/// The rows of a list of keys, for keys of several columns: no condition of one piece makes a range of their index. The
/// list may read as many rows beyond the upper bound as a batch has.
pub(super) fn list_scan(plan: &Plan, key: &Names, from_start: bool) -> KeyScan {
    let end = format!(
        "{ahead},
{list},
_bf_end as materialized (
  (select {names}, $5::pg_catalog.int8 as scanned, false as done from _bf_list order by {ordered} offset $5::pg_catalog.int8 - 1 limit 1)
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

/// `_bf_next`: the first `limit` rows after the position, none beyond the key `until`.
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
