//! Builds statements for these tasks:
//!
//! - pass a row without changing it,
//! - read the key of the next row,
//! - retry or quarantine deferred rows.
//!
//! Parameters of all statements except [`next_key`]: $1 slice, $2 token, $3 ctid of the checkpoint.

use super::fragments::{ANSWER, Names, TOOK, change_of, changed, held, matches_if_pure, unchanged, unresolved};
use super::key_scan::next;
use super::table::Table;
use crate::job::plan::Plan;
use crate::pg::ident::literal;
use crate::pg::keyset;

/// Returns the statement that moves the checkpoint past only one row: the next row after the
/// position ($4). This row has the key $6. The row is deferred if $5 is null. Otherwise the row is
/// quarantined with its error ($5 SQLSTATE, $7 message). The statement returns no result row if the
/// row with this key no longer exists, or if another row precedes it.
pub fn skip_row(plan: &Plan, table: Table, from_start: bool) -> String {
    let key = Names::of(plan);
    format!(
        "with {next}
select {ANSWER}, {sent} as key, 1::pg_catalog.int8 as scanned, 0::pg_catalog.int8 as changed, false as done, {TOOK} as took,
       ($5::pg_catalog.text is null)::pg_catalog.int4::pg_catalog.int8 as deferred, ($5::pg_catalog.text is not null)::pg_catalog.int4::pg_catalog.int8 as quarantined
from (select array[{texts}] as key, {object} as object from _bf_next) s
cross join lateral backfill.advance_deferring($1::pg_catalog.int8, $2::pg_catalog.uuid, $3::pg_catalog.text::pg_catalog.tid, $4::pg_catalog.text[], s.key, 1, 0, 0, false,
  case when $5::pg_catalog.text is null then pg_catalog.jsonb_build_array(pg_catalog.to_jsonb(s.key)) end,
  case when $5::pg_catalog.text is not null then pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object('position', s.key, 'key', s.object, 'sqlstate', $5::pg_catalog.text, 'message', $7::pg_catalog.text)) end) a
where (select pg_catalog.count(*) from _bf_next) operator(pg_catalog.=) 1 and s.key operator(pg_catalog.=) $6::pg_catalog.text[] and {unchanged}",
        sent = keyset::sent("s.key"),
        next = next(plan, &key, (!from_start).then_some("$4"), "$6", 2),
        texts = key.texts,
        object = key.object,
        unchanged = unchanged(plan, table),
    )
}

/// Returns the statement that reads the key of the next row after the position ($1), unless this
/// row is beyond $2.
pub fn next_key(plan: &Plan, from_start: bool) -> String {
    let key = Names::of(plan);
    format!(
        "with {next}
select {sent} as key from _bf_next where ($1::pg_catalog.text[] is null) is {from_start}",
        next = next(plan, &key, (!from_start).then_some("$1"), "$2", 1),
        sent = keyset::sent(&format!("array[{}]", key.texts)),
    )
}

/// Returns the statement that retries deferred rows. Parameter $4: `[{"id", "key"}]`, where `key`
/// is a list with the value of each key column, as text.
pub fn retry_deferred_rows(plan: &Plan, table: Table) -> String {
    let key = Names::of(plan);
    let asked: Vec<String> = plan
        .key
        .iter()
        .enumerate()
        .map(|(n, column)| {
            format!(
                "((a.value operator(pg_catalog.->) 'key') operator(pg_catalog.->>) {n})::{} as _bf_k{n}",
                column.sql_type
            )
        })
        .collect();
    let equal = keyset::equal(&plan.key, "_bf_asked");
    let due = keyset::equal(&plan.key, "_bf_due");
    format!(
        "with _bf_asked as materialized (
  select (a.value operator(pg_catalog.->>) 'id')::pg_catalog.int8 as _bf_id, {asked} from pg_catalog.jsonb_array_elements($4::pg_catalog.jsonb) a),
_bf_seen as materialized (
  select _bf_asked._bf_id from only {target} cross join _bf_asked where {equal}{matches}),
{held},
{rows}
select {ANSWER}, s.changed, pg_catalog.cardinality(s.deferred)::pg_catalog.int8 as deferred, pg_catalog.jsonb_array_length(s.quarantined)::pg_catalog.int8 as quarantined, {TOOK} as took
from (select array(select (a.value operator(pg_catalog.->>) 'id')::pg_catalog.int8 from pg_catalog.jsonb_array_elements($4::pg_catalog.jsonb) a) as tried,
             (select pg_catalog.count(*) from _bf_rows) as changed, (select pg_catalog.count(unresolved) from _bf_rows) as unresolved,
             array(select _bf_id from _bf_seen except select _bf_id from _bf_held) as deferred,
             (select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('id', h._bf_id, 'position', array[{texts}], 'key', {object})), '[]')
                from _bf_due h where h._bf_id operator(pg_catalog.<>) all (select _bf_id from _bf_rows)) as quarantined) s
cross join lateral backfill.retry_deferred($1::pg_catalog.int8, $2::pg_catalog.uuid, $3::pg_catalog.text::pg_catalog.tid, s.tried, s.changed, s.unresolved, s.deferred, s.quarantined) a
where {unchanged}",
        asked = asked.join(", "),
        target = plan.source(),
        matches = matches_if_pure(plan),
        held = held(
            plan,
            table,
            "_bf_asked.*",
            &format!("{} cross join _bf_asked", plan.source()),
            &equal,
            " skip locked"
        ),
        rows = changed(
            plan,
            table,
            &key,
            &format!("{} where {due}", change_of(plan, Some("_bf_due"))),
            &format!("_bf_due._bf_id, {} as unresolved", unresolved(plan, table))
        ),
        texts = key.texts,
        object = key.object,
        unchanged = unchanged(plan, table),
    )
}

/// Returns the statement that quarantines one deferred row. Parameters: $4 ID of the deferred row,
/// $5 its key, $6 SQLSTATE, $7 message.
pub fn quarantine_deferred(plan: &Plan) -> String {
    let object: Vec<String> = plan
        .key
        .iter()
        .zip(keyset::values(&plan.key, "$5"))
        .map(|(column, value)| format!("{}, {value}", literal(&column.name)))
        .collect();
    format!(
        "select {ANSWER}, 0::pg_catalog.int8 as changed, 0::pg_catalog.int8 as deferred, 1::pg_catalog.int8 as quarantined, {TOOK} as took
from backfill.retry_deferred($1::pg_catalog.int8, $2::pg_catalog.uuid, $3::pg_catalog.text::pg_catalog.tid, array[$4::pg_catalog.int8], 0, 0, '{{}}',
  pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object('id', $4::pg_catalog.int8, 'position', $5::pg_catalog.text[], 'key', pg_catalog.jsonb_build_object({}), 'sqlstate', $6::pg_catalog.text, 'message', $7::pg_catalog.text))) a",
        object.join(", ")
    )
}
