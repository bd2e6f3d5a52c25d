//! The statement of a batch. One round trip: it finds the upper bound, works on the rows up to it, checks that the
//! table is still the one that was planned, and advances the checkpoint, which raises if the claim is not ours.
//!
//! Parameters of a batch: $1 slice, $2 token, $3 place of the checkpoint, $4 position (text[], null at the start), $5 rows,
//! $6 upper (text[]).

use crate::job::plan::{Assignment, Isolation, Kind, Plan};
use crate::key::Care;
use crate::pg::ident::{quote, quote_all};
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// A row trigger may leave a row as it is.
    pub suppressible: bool,
    /// A column is assigned that foreign keys may refer to: such an update locks its rows more strongly.
    pub keys_change: bool,
}

/// The columns of the answer, whatever the statement.
const ANSWER: &str = "a.at_place, a.desired, a.revision";

/// A batch: the rows after the position, at most $5 of them, none beyond $6. `from_start`: the position is still before
/// the first row, so there is no lower bound.
pub fn batch(plan: &Plan, passage: &Passage, table: Table, care: Care, from_start: bool) -> String {
    let key = Names::of(plan);
    let way = if keyset::is_mixed(&plan.key) { listed(plan, &key, from_start) } else { ranged(plan, &key, from_start) };
    let (rows, outcome) = match (passage, care) {
        (Passage::Count { condition, since }, _) => (count(plan, condition, since.as_deref(), &way), plain(plan, None)),
        (Passage::Change, Care::Plain) => (change(plan, &way), plain(plan, table.suppressible.then_some(&way))),
        (Passage::Change, Care::Careful) => (careful(plan, table, &key, &way), told_apart(&key)),
    };
    format!(
        "with {found_end},
{rows}
select {ANSWER}, s.key, s.scanned, s.changed, s.done, {TOOK} as took, {left_behind}
from (select array[{texts}] as key, e.scanned, e.done, {found}
        from _bf_end e cross join {counts}) s
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

/// How a batch knows its rows.
struct Way {
    /// Queries of a `with`, the last of which is `_bf_end`: the key up to which the batch goes.
    end: String,
    /// What the table is joined with, if anything.
    list: Option<&'static str>,
    /// The condition for a row of the batch.
    range: String,
}

impl Way {
    /// The walked table, with what it is joined with.
    fn source(&self, plan: &Plan) -> String {
        let joined = self.list.map_or_else(String::new, |list| format!(" cross join {list}"));
        format!("{}{joined}", plan.source())
    }
}

/// The upper bound of a batch of key, for who has none before it.
fn planned_end(plan: &Plan) -> String {
    let values = keyset::values(&plan.key, "$6").into_iter().enumerate();
    values.map(|(n, value)| format!("{value} as _bf_k{n}")).collect::<Vec<_>>().join(", ")
}

/// The rows of a range of the key.
fn ranged(plan: &Plan, key: &Names, from_start: bool) -> Way {
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
    Way { end, list: None, range: format!("{after} and {until_end}") }
}

/// The rows of a list of keys: for keys of which no condition of one piece makes a range of the index. The list may
/// read as many rows beyond the upper bound as a batch has.
fn listed(plan: &Plan, key: &Names, from_start: bool) -> Way {
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
    Way { end, list: Some("_bf_list"), range: keyset::equal(&plan.key, "_bf_list") }
}

/// `_bf_next`: the first `limit` rows after the position, none beyond the key `until`.
fn next(plan: &Plan, key: &Names, from: Option<&str>, until: &str, limit: u32) -> String {
    if keyset::is_mixed(&plan.key) {
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

/// The next row alone is left behind, as locked ($5 null) or with its error ($5 SQLSTATE, $7 message); $6 is its key.
/// No answer: another row came before it.
pub fn set_aside(plan: &Plan, table: Table, from_start: bool) -> String {
    let key = Names::of(plan);
    format!(
        "with {next}
select {ANSWER}, s.key, 1::pg_catalog.int8 as scanned, 0::pg_catalog.int8 as changed, false as done, {TOOK} as took,
       ($5::pg_catalog.text is null)::pg_catalog.int4::pg_catalog.int8 as locked, ($5::pg_catalog.text is not null)::pg_catalog.int4::pg_catalog.int8 as refused
from (select array[{texts}] as key, {object} as object from _bf_next) s
cross join lateral backfill.advance_aside($1::pg_catalog.int8, $2::pg_catalog.uuid, $3::pg_catalog.text::pg_catalog.tid, $4::pg_catalog.text[], s.key, 1, 0, 0, false,
  case when $5::pg_catalog.text is null then pg_catalog.jsonb_build_array(pg_catalog.to_jsonb(s.key)) end,
  case when $5::pg_catalog.text is not null then pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object('position', s.key, 'key', s.object, 'sqlstate', $5::pg_catalog.text, 'message', $7::pg_catalog.text)) end) a
where (select pg_catalog.count(*) from _bf_next) operator(pg_catalog.=) 1 and s.key operator(pg_catalog.=) $6::pg_catalog.text[] and {unchanged}",
        next = next(plan, &key, (!from_start).then_some("$4"), "$6", 2),
        texts = key.texts,
        object = key.object,
        unchanged = unchanged(plan, table),
    )
}

/// The key of the next row: after the position ($1), not beyond $2.
pub fn next_key(plan: &Plan, from_start: bool) -> String {
    let key = Names::of(plan);
    format!(
        "with {next}
select array[{texts}] as key from _bf_next where {from_start} = ($1::pg_catalog.text[] is null)",
        next = next(plan, &key, (!from_start).then_some("$1"), "$2", 1),
        texts = key.texts,
    )
}

/// Rows that were set aside are tried again. $4: `[{"id", "key": [text of each key column]}]`.
pub fn return_to(plan: &Plan, table: Table) -> String {
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
    let held = keyset::equal(&plan.key, "_bf_held");
    format!(
        "with _bf_asked as materialized (
  select (a.value operator(pg_catalog.->>) 'id')::pg_catalog.int8 as _bf_id, {asked} from pg_catalog.jsonb_array_elements($4::pg_catalog.jsonb) a),
_bf_seen as materialized (
  select _bf_asked._bf_id from only {target} cross join _bf_asked where {equal}{matches}),
_bf_held as materialized (
  select _bf_asked.* from only {target} cross join _bf_asked where {equal}{matches} for {lock} skip locked),
_bf_rows as ({change} where {held} returning _bf_held._bf_id, {unresolved} as unresolved)
select {ANSWER}, s.changed, pg_catalog.cardinality(s.locked)::pg_catalog.int8 as locked, pg_catalog.jsonb_array_length(s.refused)::pg_catalog.int8 as refused, {TOOK} as took
from (select array(select (a.value operator(pg_catalog.->>) 'id')::pg_catalog.int8 from pg_catalog.jsonb_array_elements($4::pg_catalog.jsonb) a) as tried,
             (select pg_catalog.count(*) from _bf_rows) as changed, (select pg_catalog.count(unresolved) from _bf_rows) as unresolved,
             array(select _bf_id from _bf_seen except select _bf_id from _bf_held) as locked,
             (select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('id', h._bf_id, 'position', array[{texts}], 'key', {object})), '[]')
                from _bf_held h where h._bf_id <> all (select _bf_id from _bf_rows)) as refused) s
cross join lateral backfill.return_aside($1::pg_catalog.int8, $2::pg_catalog.uuid, $3::pg_catalog.text::pg_catalog.tid, s.tried, s.changed, s.unresolved, s.locked, s.refused) a
where {unchanged}",
        asked = asked.join(", "),
        target = plan.source(),
        matches = matches(plan),
        lock = lock(plan, table),
        change = change_of(plan, Some("_bf_held")),
        unresolved = unresolved(plan),
        texts = key.texts,
        object = key.object,
        unchanged = unchanged(plan, table),
    )
}

/// One row that was set aside still can't be changed: $4 its number, $5 its key, $6 SQLSTATE, $7 message.
pub fn refuse_again(plan: &Plan) -> String {
    let object: Vec<String> = plan
        .key
        .iter()
        .zip(keyset::values(&plan.key, "$5"))
        .map(|(column, value)| format!("{}, {value}", literal(&column.name)))
        .collect();
    format!(
        "select {ANSWER}, 0::pg_catalog.int8 as changed, 0::pg_catalog.int8 as locked, 1::pg_catalog.int8 as refused, {TOOK} as took
from backfill.return_aside($1::pg_catalog.int8, $2::pg_catalog.uuid, $3::pg_catalog.text::pg_catalog.tid, array[$4::pg_catalog.int8], 0, 0, '{{}}',
  pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object('id', $4::pg_catalog.int8, 'position', $5::pg_catalog.text[], 'key', pg_catalog.jsonb_build_object({}), 'sqlstate', $6::pg_catalog.text, 'message', $7::pg_catalog.text))) a",
        object.join(", ")
    )
}

/// The key's columns in the shapes in which a statement needs them. The names of ours must not meet the user's, who
/// may leave a column unqualified.
struct Names {
    /// `"id" as _bf_k0`
    columns: String,
    /// `_bf_k0`
    names: String,
    /// Each as text.
    texts: String,
    /// `{"column": value}` in JSON.
    object: String,
}

impl Names {
    fn of(plan: &Plan) -> Self {
        let numbered = || plan.key.iter().enumerate();
        let join = |parts: Vec<String>| parts.join(", ");
        Self {
            columns: keyset::named(&plan.key),
            names: join(numbered().map(|(n, _)| format!("_bf_k{n}")).collect()),
            texts: join(numbered().map(|(n, column)| keyset::as_text(column, &format!("_bf_k{n}"))).collect()),
            object: format!(
                "pg_catalog.jsonb_build_object({})",
                join(numbered().map(|(n, column)| format!("{}, _bf_k{n}", literal(&column.name))).collect())
            ),
        }
    }
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
        advance: format!("backfill.advance_aside({MOVE}, s.locked, s.refused)"),
        left_behind: "pg_catalog.jsonb_array_length(s.locked)::pg_catalog.int8 as locked, pg_catalog.jsonb_array_length(s.refused)::pg_catalog.int8 as refused",
    }
}

/// The table and its triggers are those that were planned, and for a batch that is REPEATABLE READ, the tables that it
/// reads were not rewritten since its snapshot. The target itself is locked before the snapshot is taken; these can't
/// all be.
fn unchanged(plan: &Plan, table: Table) -> String {
    let attributes = |numbers: Vec<i16>| {
        format!("array[{}]::pg_catalog.int2[]", numbers.iter().map(i16::to_string).collect::<Vec<_>>().join(", "))
    };
    let relation = plan.relation;
    // A leaf must still be part of the target.
    let root = plan
        .root
        .as_ref()
        .map_or_else(String::new, |root| format!(", {}::pg_catalog.oid, {}", root.relation, literal(&root.target)));
    let not_rewritten = if plan.isolation == Isolation::ReadCommitted || plan.reads.is_empty() {
        String::new()
    } else {
        let oids = plan.reads.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        format!("\n  and (select backfill.not_rewritten(array[{oids}]::pg_catalog.oid[]))")
    };
    format!(
        "(select backfill.unchanged({relation}::pg_catalog.oid, {name}, {attributes}, {key}, {fingerprint}{root}))
  and (select backfill.same_triggers({relation}::pg_catalog.oid, {suppressible})){not_rewritten}",
        name = literal(&plan.target),
        attributes = attributes(plan.columns.clone()),
        key = attributes(plan.key.iter().map(|column| column.attnum).collect()),
        fingerprint = literal(&plan.fingerprint),
        suppressible = table.suppressible,
    )
}

/// In a case, so that no index of the filter's columns looks better to the planner than the key's.
fn matches(plan: &Plan) -> String {
    plan.filter
        .as_ref()
        .map_or_else(String::new, |filter| format!(" and case when (\n{filter}\n) then true else false end"))
}

/// Not null for a row that still matches the filter after its change. One that is gone matches nothing any more.
fn unresolved(plan: &Plan) -> String {
    match &plan.filter {
        Some(filter) if plan.kind == Kind::Update => format!("case when (\n{filter}\n) then 1 end"),
        _ => "null::pg_catalog.int4".to_owned(),
    }
}

/// What is done to the rows, up to their `where`; those that are named by `held`, if it is.
fn change_of(plan: &Plan, held: Option<&str>) -> String {
    match plan.kind {
        Kind::Update => {
            let set: Vec<String> = plan.assignments.iter().map(assignment).collect();
            let from = held.map_or_else(String::new, |held| format!(" from {held}"));
            format!("\n  update only {} set {}\n {from}", plan.source(), set.join(", "))
        }
        Kind::Delete => {
            let using = held.map_or_else(String::new, |held| format!(" using {held}"));
            format!("\n  delete from only {}{using}\n ", plan.source())
        }
    }
}

fn change(plan: &Plan, way: &Way) -> String {
    format!(
        "_bf_rows as ({} where {}{} returning {} as unresolved)",
        change_of(plan, way.list),
        way.range,
        matches(plan),
        unresolved(plan)
    )
}

fn count(plan: &Plan, condition: &str, since: Option<&str>, way: &Way) -> String {
    let old = since.map_or_else(
        || "null::pg_catalog.int4".to_owned(),
        |since| {
            // Qualified, for a join does not show the system columns of its sides.
            let table = plan.alias.as_ref().unwrap_or(&plan.target);
            format!(
                "case when backfill._since({table}.xmin, {}::pg_catalog.pg_snapshot) then null else 1 end",
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
    format!(
        "_bf_seen as materialized (
  select {columns} from only {target} where {range}{matches}),
_bf_held as materialized (
  select {columns} from only {target} where {range}{matches} for {lock} skip locked),
_bf_rows as ({change} where {equal}{in_range} returning {returned}, {unresolved} as unresolved)",
        columns = key.columns,
        target = way.source(plan),
        range = way.range,
        matches = matches(plan),
        lock = lock(plan, table),
        change = change_of(plan, Some("_bf_held")),
        in_range = if way.list.is_some() { String::new() } else { format!(" and {}", way.range) },
        equal = keyset::equal(&plan.key, "_bf_held"),
        returned = (0..plan.key.len()).map(|n| format!("_bf_held._bf_k{n}")).collect::<Vec<_>>().join(", "),
        unresolved = unresolved(plan),
    )
}

/// As strong as what the change itself takes, and no stronger: the strongest keeps the application from inserting rows
/// that refer to these.
fn lock(plan: &Plan, table: Table) -> &'static str {
    if table.keys_change || plan.kind == Kind::Delete { "update" } else { "no key update" }
}

fn assignment(assignment: &Assignment) -> String {
    match assignment.columns.as_slice() {
        [column] => format!("{} = (\n{}\n)", quote(column), assignment.expression),
        columns => format!("({}) = (\n{}\n)", quote_all(columns.iter().map(String::as_str)), assignment.expression),
    }
}

/// A string constant of our own making (a quoted name, a fingerprint), for places where a parameter would cost the
/// planner its knowledge.
fn literal(text: &str) -> String {
    let escaped = text.replace('\'', "''");
    if escaped.contains('\\') { format!(" E'{}'", escaped.replace('\\', "\\\\")) } else { format!("'{escaped}'") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::plan::{KeyColumn, Leaf, Strategy};
    use crate::key::Key;

    const TABLE: Table = Table { suppressible: false, keys_change: false };

    fn plan() -> Plan {
        Plan {
            version: 1,
            kind: Kind::Update,
            strategy: Strategy::Plain,
            target: "public.orders".into(),
            relation: 16384,
            key: vec![KeyColumn {
                name: "id".into(),
                attnum: 1,
                sql_type: "bigint".into(),
                collation: None,
                operators: "pg_catalog".into(),
                descending: false,
            }],
            assignments: vec![Assignment { columns: vec!["c".into()], expression: "total * 100 -- cents".into() }],
            filter: Some("c is null".into()),
            isolation: Isolation::ReadCommitted,
            columns: vec![1, 2],
            reads: vec![],
            fingerprint: "1 id 20".into(),
            comparable: true,
            self_reading: false,
            filter_varies: false,
            upper: Some(Key(vec!["9".into()])),
            defaults: serde_json::Value::Null,
            spread: false,
            alias: None,
            root: None,
        }
    }

    #[test]
    fn a_leaf_is_changed_by_itself_under_the_name_of_its_parent() {
        let leaf = Leaf {
            relation: 16390,
            target: "public.orders_2026".into(),
            key: plan().key,
            columns: vec![3, 4],
            fingerprint: "3 id 20".into(),
            upper: None,
        };
        let sql = batch(
            &Plan { alias: Some("orders".into()), ..plan() }.at(leaf),
            &Passage::Change,
            TABLE,
            Care::Plain,
            true,
        );
        assert!(sql.contains("update only public.orders_2026 as orders set"));
        assert!(sql.contains("from only public.orders_2026 as orders where"));
        assert!(sql.contains("unchanged(16390::pg_catalog.oid, 'public.orders_2026', array[3, 4]::pg_catalog.int2[]"));
        assert!(sql.contains(", 16384::pg_catalog.oid, 'public.orders')"));
    }

    #[test]
    fn a_comment_in_an_expression_ends_with_its_line() {
        assert!(
            batch(&plan(), &Passage::Change, TABLE, Care::Plain, false).contains("\"c\" = (\ntotal * 100 -- cents\n)")
        );
    }

    #[test]
    fn the_first_batch_has_no_lower_bound() {
        let first = batch(&plan(), &Passage::Change, TABLE, Care::Plain, true);
        assert!(!first.contains("operator(pg_catalog.>)"));
        assert!(batch(&plan(), &Passage::Change, TABLE, Care::Plain, false).contains("operator(pg_catalog.>)"));
    }

    #[test]
    fn a_repeatable_read_batch_checks_the_tables_that_it_reads() {
        let reads = Plan { isolation: Isolation::RepeatableRead, reads: vec![7, 9], ..plan() };
        assert!(
            batch(&reads, &Passage::Change, TABLE, Care::Plain, false).contains("backfill.not_rewritten(array[7, 9]")
        );
        assert!(!batch(&plan(), &Passage::Change, TABLE, Care::Plain, false).contains("not_rewritten"));
    }

    #[test]
    fn a_delete_takes_the_rows_that_match_and_assigns_nothing() {
        let plan = Plan { kind: Kind::Delete, assignments: vec![], ..plan() };
        let sql = batch(&plan, &Passage::Change, TABLE, Care::Plain, false);
        assert!(sql.contains("delete from only public.orders\n  where ") && sql.contains("case when (\nc is null\n)"));
        assert!(!sql.contains("update") && !sql.contains(" set "));
    }

    #[test]
    fn a_verification_changes_nothing() {
        let passage = Passage::Count { condition: "c is null".into(), since: Some("3:3:".into()) };
        let sql = batch(&plan(), &passage, TABLE, Care::Plain, false);
        assert!(
            sql.contains("case when backfill._since(public.orders.xmin, '3:3:'::pg_catalog.pg_snapshot) then null")
        );
        assert!(!sql.contains("update"));
        assert!(sql.contains("case when c is null then"));
    }

    #[test]
    fn constants_of_ours_survive_quotes_and_backslashes() {
        assert_eq!(literal("a'b"), "'a''b'");
        assert_eq!(literal("a\\b'"), " E'a\\\\b'''");
    }
}
