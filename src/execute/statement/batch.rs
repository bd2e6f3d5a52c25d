//! Builds the statement of a batch, which takes one round trip. The statement finds the key at
//! which the batch ends, and processes the rows up to this key. It also checks that the table is
//! still the one for which the job was planned, and advances the checkpoint. Advancing the
//! checkpoint raises an error if the worker no longer holds the slice.
//!
//! Parameters of a batch: $1 slice, $2 token, $3 ctid of the checkpoint, $4 position (text[], null
//! at the start), $5 rows, $6 upper (text[]).

use super::fragments::{
    ANSWER, Names, TOOK, change_of, changed, held, matches, matches_if_pure, unchanged, unresolved,
};
use super::key_scan::{KeyScan, list_scan, range_scan};
use super::since::written_since;
use super::table::Table;
use crate::job::batch::BatchMode;
use crate::job::plan::Plan;
use crate::pg::keyset;

/// The work that a batch does on its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchKind {
    /// Change the rows. A row that still matches the filter afterwards counts as unresolved.
    Change,
    /// Count the rows that satisfy the condition. Of these rows, those that have not been written
    /// since the snapshot `since` (a `pg_snapshot`) count as unresolved. Without `since`, no row
    /// counts as unresolved.
    Count { condition: String, since: Option<String> },
}

/// Holds the parts of a batch's statement.
pub(super) struct Fragments {
    /// Queries of the `with` clause. The last query processes the rows.
    pub queries: String,
    /// Subquery that returns one row with the batch's last key and its counts.
    pub counts: String,
    /// The call that advances the checkpoint. It takes its values from `counts`, which has the
    /// alias `s`.
    advance: String,
    /// Result columns with the numbers of deferred and quarantined rows.
    skipped: &'static str,
}

// `offset 0` makes the server convert the key to text only once. Without it, the server would
// convert the key for the checkpoint and again for the result. Between the two conversions,
// `advance` takes locks, and after taking a lock the session sees the latest changes to the
// catalog. If an enum label in the key had just been renamed, the key in the result would differ
// from the key in the checkpoint. The daemon would continue from the key in the result, and would
// be fenced.
pub(super) fn fragments(plan: &Plan, kind: &BatchKind, table: Table, mode: BatchMode, from_start: bool) -> Fragments {
    let key = Names::of(plan);
    let scan = if keyset::is_listed(&plan.key) {
        list_scan(plan, &key, from_start)
    } else {
        range_scan(plan, &key, from_start)
    };
    let (rows, outcome) = match (kind, mode) {
        (BatchKind::Count { condition, since }, _) => {
            (count(plan, condition, since.as_deref(), &scan, table.lenient), fast_outcome(plan, None))
        }
        (BatchKind::Change, BatchMode::Fast) => {
            (change(plan, table, &key, &scan), fast_outcome(plan, table.suppressible.then_some(&scan)))
        }
        (BatchKind::Change, BatchMode::PerRow) => (per_row(plan, table, &key, &scan), per_row_outcome(&key)),
    };
    Fragments {
        queries: format!("{},\n{rows}", scan.end),
        counts: format!(
            "(select array[{texts}] as key, e.scanned, e.done, {found}
        from _bf_end e cross join {counts} offset 0)",
            texts = key.texts,
            found = outcome.found,
            counts = outcome.counts,
        ),
        advance: outcome.advance,
        skipped: outcome.skipped,
    }
}

/// Returns the statement of a batch, which processes at most $5 rows after the position and no row
/// beyond $6. `from_start` means that the position is before the first row and that the statement
/// has no lower bound.
pub fn batch(plan: &Plan, kind: &BatchKind, table: Table, mode: BatchMode, from_start: bool) -> String {
    let Fragments { queries, counts, advance, skipped } = fragments(plan, kind, table, mode, from_start);
    format!(
        "with {queries}
select {ANSWER}, {sent} as key, s.scanned, s.changed, s.done, {TOOK} as took, {skipped}
from {counts} s
cross join lateral {advance} a
where s.whole and {unchanged}",
        sent = keyset::sent("s.key"),
        unchanged = unchanged(plan, table),
    )
}

fn change(plan: &Plan, table: Table, key: &Names, scan: &KeyScan) -> String {
    if counts_held(plan, table) {
        // The statement counts the rows that match the filter, and must not evaluate the filter
        // again for this count.
        let held = held(plan, table, &key.columns, &scan.source(plan), &scan.range, "");
        let change = format!("{} where {}", change_of(plan, Some("_bf_due")), keyset::equal(&plan.key, "_bf_due"));
        return format!(
            "{held},\n{}",
            changed(plan, table, key, &change, &format!("{} as unresolved", unresolved(plan, table)))
        );
    }
    let change = format!("{} where {}{}", change_of(plan, scan.list), scan.range, matches(plan));
    changed(plan, table, key, &change, &format!("{} as unresolved", unresolved(plan, table)))
}

/// Returns whether a fast batch locks its rows first, because a trigger may leave some of them
/// unchanged and the filter must be evaluated only once.
fn counts_held(plan: &Plan, table: Table) -> bool {
    table.suppressible && plan.filter.is_some() && plan.volatile.filter
}

/// Returns the query that counts the rows of a verification. If the verification is `lenient`, only
/// rows that have not been written since planning are counted, and the condition is not evaluated
/// on the others.
fn count(plan: &Plan, condition: &str, since: Option<&str>, scan: &KeyScan, lenient: bool) -> String {
    let written = since.map(|since| written_since(plan, since));
    let old = written.as_ref().map_or_else(
        || "null::pg_catalog.int4".to_owned(),
        |written| format!("case when {written} then null else 1 end"),
    );
    let counted = match (lenient, written) {
        (false, _) => format!("case when {condition} then true else false end"),
        (true, Some(written)) => format!("case when {written} then false when {condition} then true else false end"),
        (true, None) => "false".to_owned(),
    };
    format!(
        "_bf_rows as materialized (\n  select {old} as unresolved from only {}\n  where {} and {counted})",
        scan.source(plan),
        scan.range
    )
}

/// Returns the queries of a batch that works row by row. The queries lock the rows without waiting,
/// and then change the rows that they could lock. If a row was found but not locked, another
/// session has locked it, or has changed it after the snapshot. If a row was locked but not
/// changed, a trigger left it unchanged.
fn per_row(plan: &Plan, table: Table, key: &Names, scan: &KeyScan) -> String {
    let returned = (0..plan.key.len()).map(|n| format!("_bf_due._bf_k{n}")).collect::<Vec<_>>().join(", ");
    let in_range = if scan.list.is_some() { String::new() } else { format!(" and {}", scan.range) };
    let change =
        format!("{} where {}{in_range}", change_of(plan, Some("_bf_due")), keyset::equal(&plan.key, "_bf_due"));
    let source = scan.source(plan);
    format!(
        "_bf_seen as materialized (
  select {columns} from only {source} where {range}{matches}),
{held},
{rows}",
        columns = key.columns,
        range = scan.range,
        matches = matches_if_pure(plan),
        held = held(plan, table, &key.columns, &source, &scan.range, " skip locked"),
        rows = changed(plan, table, key, &change, &format!("{returned}, {} as unresolved", unresolved(plan, table))),
    )
}

/// Holds the parts of a batch's statement that depend on how the batch processes its rows.
struct Found {
    /// Columns that the `counts` subquery of [`Fragments`] selects.
    found: String,
    /// Subquery that is joined with `_bf_end e`. The two provide the columns in `found`.
    counts: String,
    /// The call that advances the checkpoint.
    advance: String,
    /// Result columns with the numbers of deferred and quarantined rows.
    skipped: &'static str,
}

const MOVE: &str = "$1::pg_catalog.int8, $2::pg_catalog.uuid, $3::pg_catalog.text::pg_catalog.tid, $4::pg_catalog.text[], s.key, s.scanned, s.changed, s.unresolved, s.done";

/// Returns the parts of the statement for a batch that processes all of its rows in one step. If
/// the scan `counted` is given, the statement raises an error unless it changed every matching row
/// of this scan.
fn fast_outcome(plan: &Plan, counted: Option<&KeyScan>) -> Found {
    let matched = match (counted, &plan.filter) {
        (None, _) => ", true".to_owned(),
        (Some(_), None) => ", backfill.all_changed(e.scanned, r.changed)".to_owned(),
        (Some(_), Some(_)) if plan.volatile.filter => {
            ", backfill.all_changed((select pg_catalog.count(*) from _bf_due), r.changed)".to_owned()
        }
        (Some(scan), Some(_)) => format!(
            ", backfill.all_changed((select pg_catalog.count(*) from only {} where {}{}), r.changed)",
            scan.source(plan),
            scan.range,
            matches(plan)
        ),
    };
    Found {
        found: format!("r.changed, r.unresolved{matched} as whole"),
        counts: "(select pg_catalog.count(*) as changed, pg_catalog.count(unresolved) as unresolved from _bf_rows) r"
            .to_owned(),
        advance: format!("backfill.advance({MOVE})"),
        skipped: "0::pg_catalog.int8 as deferred, 0::pg_catalog.int8 as quarantined",
    }
}

fn per_row_outcome(key: &Names) -> Found {
    let (names, texts, object) = (&key.names, &key.texts, &key.object);
    Found {
        found: "r.changed, r.unresolved, r.deferred, r.quarantined, true as whole".to_owned(),
        counts: format!(
            "(select (select pg_catalog.count(*) from _bf_rows) as changed, (select pg_catalog.count(unresolved) from _bf_rows) as unresolved,
               (select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array({texts})), '[]') from (select {names} from _bf_seen except select {names} from _bf_held) l) as deferred,
               (select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('position', array[{texts}], 'key', {object})), '[]') from (select {names} from _bf_due except select {names} from _bf_rows) l) as quarantined) r"
        ),
        advance: format!("backfill.advance_deferring({MOVE}, s.deferred, s.quarantined)"),
        skipped: "pg_catalog.jsonb_array_length(s.deferred)::pg_catalog.int8 as deferred, pg_catalog.jsonb_array_length(s.quarantined)::pg_catalog.int8 as quarantined",
    }
}
