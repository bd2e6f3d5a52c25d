//! The statement of a batch. One round trip: it finds the upper bound, works on the rows up to it, checks that the
//! table is still the one that was planned, and advances the checkpoint, which raises if the claim is not ours.
//!
//! Parameters of a batch: $1 slice, $2 token, $3 place of the checkpoint, $4 position (text[], null at the start), $5 rows,
//! $6 upper (text[]).

mod aside;
mod parts;
#[cfg(test)]
mod tests;
mod way;

pub use aside::{next_key, refuse_again, return_to, set_aside};
use parts::{Names, change_of, changed, literal, lock, matches, unchanged, unresolved};
use way::{Way, listed, ranged};

use crate::job::plan::Plan;
use crate::key::BatchMode;
use crate::pg::keyset;

/// Seconds on the server, so far. What the network and a busy daemon add is felt by nobody there.
const TOOK: &str = "extract(epoch from pg_catalog.clock_timestamp() operator(pg_catalog.-) pg_catalog.statement_timestamp())::pg_catalog.float8";

/// What is done with the rows of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passage {
    /// Change them; a row that still matches the filter afterwards counts as unresolved.
    Change,
    /// Count those for which the condition holds, and among them, as unresolved, those that have not been written since
    /// the snapshot (a `pg_snapshot`) was taken.
    Count { condition: String, since: Option<String> },
}

/// How the executor found the table, asked when its statements are prepared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Table {
    /// A row trigger may leave a row as it is.
    pub suppressible: bool,
    /// One that has such a trigger whose text says `return old`.
    pub returns_old: bool,
    /// A column is assigned that foreign keys may refer to: such an update locks its rows more strongly.
    pub keys_change: bool,
}

/// The columns of the answer, whatever the statement.
const ANSWER: &str = "a.new_ctid, a.desired, a.revision";

// `offset 0` has the key's text made once. Else it would be made for the checkpoint and again for the answer, and between the two
// `advance` takes locks, with which the server hears that a label of an enum has another name: the daemon would go on from
// another position than the checkpoint's, and be fenced.
/// A batch: the rows after the position, at most $5 of them, none beyond $6. `from_start`: the position is still before
/// the first row, so there is no lower bound.
pub fn batch(plan: &Plan, passage: &Passage, table: Table, mode: BatchMode, from_start: bool) -> String {
    let key = Names::of(plan);
    let way =
        if keyset::is_listed(&plan.key) { listed(plan, &key, from_start) } else { ranged(plan, &key, from_start) };
    let (rows, outcome) = match (passage, mode) {
        (Passage::Count { condition, since }, _) => (count(plan, condition, since.as_deref(), &way), plain(plan, None)),
        (Passage::Change, BatchMode::Fast) => {
            (change(plan, table, &key, &way), plain(plan, table.suppressible.then_some(&way)))
        }
        (Passage::Change, BatchMode::PerRow) => (careful(plan, table, &key, &way), told_apart(&key)),
    };
    format!(
        "with {found_end},
{rows}
select {ANSWER}, s.key, s.scanned, s.changed, s.done, {TOOK} as took, {left_behind}
from (select array[{texts}] as key, e.scanned, e.done, {found}
        from _bf_end e cross join {counts} offset 0) s
cross join lateral {advance} a
where s.whole and {unchanged}",
        found_end = way.end,
        texts = key.texts,
        left_behind = outcome.left_behind,
        found = outcome.found,
        counts = outcome.counts,
        advance = outcome.advance,
        unchanged = unchanged(plan, table),
    )
}

fn change(plan: &Plan, table: Table, key: &Names, way: &Way) -> String {
    let change = format!("{} where {}{}", change_of(plan, way.list), way.range, matches(plan));
    changed(plan, table, key, &change, &format!("{} as unresolved", unresolved(plan)))
}

fn count(plan: &Plan, condition: &str, since: Option<&str>, way: &Way) -> String {
    let old = since.map_or_else(
        || "null::pg_catalog.int4".to_owned(),
        |since| {
            // Qualified, for a join does not show the system columns of its sides.
            let table = plan.alias.as_ref().unwrap_or(&plan.target);
            format!(
                "case when backfill._written_since({table}.xmin, {}::pg_catalog.pg_snapshot) then null else 1 end",
                literal(since)
            )
        },
    );
    format!(
        "_bf_rows as materialized (\n  select {old} as unresolved from only {}\n  where {} and case when {condition} then true else false end)",
        way.source(plan),
        way.range
    )
}

/// First the locks, without waiting for any; then what was got is changed. What was seen and not got is locked by
/// somebody; what was got and not changed is a trigger's doing.
fn careful(plan: &Plan, table: Table, key: &Names, way: &Way) -> String {
    let returned = (0..plan.key.len()).map(|n| format!("_bf_held._bf_k{n}")).collect::<Vec<_>>().join(", ");
    let in_range = if way.list.is_some() { String::new() } else { format!(" and {}", way.range) };
    let change =
        format!("{} where {}{in_range}", change_of(plan, Some("_bf_held")), keyset::equal(&plan.key, "_bf_held"));
    format!(
        "_bf_seen as materialized (
  select {columns} from only {target} where {range}{matches}),
_bf_held as materialized (
  select {columns} from only {target} where {range}{matches} for {lock} skip locked),
{rows}",
        columns = key.columns,
        target = way.source(plan),
        range = way.range,
        matches = matches(plan),
        lock = lock(plan, table),
        rows = changed(plan, table, key, &change, &format!("{returned}, {} as unresolved", unresolved(plan))),
    )
}

/// What the last part of a batch takes from the rows.
struct Found {
    /// Columns of the subquery over the rows.
    found: String,
    /// Where it takes them from, besides `_bf_end e`.
    counts: String,
    /// The call that moves the checkpoint.
    advance: String,
    /// Columns of the answer: how many rows were locked, and how many refused.
    left_behind: &'static str,
}

const MOVE: &str = "$1::pg_catalog.int8, $2::pg_catalog.uuid, $3::pg_catalog.text::pg_catalog.tid, $4::pg_catalog.text[], s.key, s.scanned, s.changed, s.unresolved, s.done";

/// `counted`: the way on which each row that matches must have been changed.
fn plain(plan: &Plan, counted: Option<&Way>) -> Found {
    let matched = match (counted, &plan.filter) {
        (None, _) => ", true".to_owned(),
        (Some(_), None) => ", backfill.all_changed(e.scanned, r.changed)".to_owned(),
        (Some(way), Some(_)) => format!(
            ", backfill.all_changed((select pg_catalog.count(*) from only {} where {}{}), r.changed)",
            way.source(plan),
            way.range,
            matches(plan)
        ),
    };
    Found {
        found: format!("r.changed, r.unresolved{matched} as whole"),
        counts: "(select pg_catalog.count(*) as changed, pg_catalog.count(unresolved) as unresolved from _bf_rows) r"
            .to_owned(),
        advance: format!("backfill.advance({MOVE})"),
        left_behind: "0::pg_catalog.int8 as locked, 0::pg_catalog.int8 as refused",
    }
}

fn told_apart(key: &Names) -> Found {
    let (names, texts, object) = (&key.names, &key.texts, &key.object);
    Found {
        found: "r.changed, r.unresolved, r.locked, r.refused, true as whole".to_owned(),
        counts: format!(
            "(select (select pg_catalog.count(*) from _bf_rows) as changed, (select pg_catalog.count(unresolved) from _bf_rows) as unresolved,
               (select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array({texts})), '[]') from (select {names} from _bf_seen except select {names} from _bf_held) l) as locked,
               (select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('position', array[{texts}], 'key', {object})), '[]') from (select {names} from _bf_held except select {names} from _bf_rows) l) as refused) r"
        ),
        advance: format!("backfill.advance_deferring({MOVE}, s.locked, s.refused)"),
        left_behind: "pg_catalog.jsonb_array_length(s.locked)::pg_catalog.int8 as locked, pg_catalog.jsonb_array_length(s.refused)::pg_catalog.int8 as refused",
    }
}
