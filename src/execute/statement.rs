//! The statement of a batch. One round trip: it finds the upper bound, works on the rows up to it, checks that the
//! table is still the one that was planned, and advances the checkpoint, which raises if the claim is not ours.
//!
//! Parameters: $1 slice, $2 token, $3 place of the checkpoint, $4 position (text[], null at the start), $5 rows,
//! $6 upper (text[]).

use crate::job::plan::{Assignment, Isolation, Kind, Plan};
use crate::pg::ident::{quote, quote_all};
use crate::pg::keyset;

/// Seconds on the server, so far. What the network and a busy daemon add is felt by nobody there.
const TOOK: &str = "extract(epoch from pg_catalog.clock_timestamp() operator(pg_catalog.-) pg_catalog.statement_timestamp())::pg_catalog.float8";

const NONE: &str = "null::pg_catalog.int4";

/// What is done with the rows of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passage {
    /// Change them; a row that still matches the filter afterwards counts as unresolved.
    Change,
    /// Count those for which this condition holds.
    Count(String),
}

/// `from_start`: the position is still before the first row, so there is no lower bound.
pub fn batch(plan: &Plan, passage: &Passage, from_start: bool) -> String {
    let target = &plan.target;
    let after = if from_start { "true".to_owned() } else { keyset::after(&plan.key, "$4") };
    let ordered = keyset::ordered(&plan.key);
    let names = |prefix: &str| (0..plan.key.len()).map(|n| format!("{prefix}k{n}")).collect::<Vec<_>>().join(", ");
    let columns: Vec<String> =
        plan.key.iter().enumerate().map(|(n, column)| format!("{} as k{n}", quote(&column.name))).collect();
    let upper: Vec<String> =
        keyset::values(&plan.key, "$6").into_iter().enumerate().map(|(n, value)| format!("{value} as k{n}")).collect();
    let texts: Vec<String> =
        plan.key.iter().enumerate().map(|(n, column)| keyset::as_text(column, &format!("k{n}"))).collect();
    let until = keyset::until(&plan.key, "$6");
    let until_end = keyset::until_row(&plan.key, &format!("select {} from _bf_end", names("")));
    let rows = rows(plan, passage, &after, &until_end);
    let attributes = |numbers: Vec<i16>| {
        format!("array[{}]::pg_catalog.int2[]", numbers.iter().map(i16::to_string).collect::<Vec<_>>().join(", "))
    };
    format!(
        "with _bf_bound as materialized (
  select {columns} from only {target} where {after} and {until} order by {ordered} offset $5::pg_catalog.int8 - 1 limit 1),
_bf_end as materialized (
  select {names}, $5::pg_catalog.int8 as scanned, false as done from _bf_bound
  union all
  select {upper}, (select pg_catalog.count(*) from only {target} where {after} and {until}), true where not exists (select from _bf_bound)),
_bf_rows as {rows}
select a.at_place, a.desired, a.revision, s.key, s.scanned, s.changed, s.done, {TOOK} as took
from (select array[{texts}] as key, e.scanned, e.done, r.changed, r.unresolved
        from _bf_end e cross join (select pg_catalog.count(*) as changed, pg_catalog.count(unresolved) as unresolved from _bf_rows) r) s
cross join lateral backfill.advance($1::pg_catalog.int8, $2::pg_catalog.uuid, $3::pg_catalog.text::pg_catalog.tid, $4::pg_catalog.text[], s.key, s.scanned, s.changed, s.unresolved, s.done) a
where (select backfill.unchanged({relation}::pg_catalog.oid, {name}, {attributes}, {key}, {fingerprint})){not_rewritten}",
        columns = columns.join(", "),
        names = names(""),
        upper = upper.join(", "),
        texts = texts.join(", "),
        relation = plan.relation,
        name = literal(target),
        attributes = attributes(plan.columns.clone()),
        key = attributes(plan.key.iter().map(|column| column.attnum).collect()),
        fingerprint = literal(&plan.fingerprint),
        not_rewritten = not_rewritten(plan),
    )
}

/// The target itself is locked before a snapshot is taken; the tables that the job reads can't all be.
fn not_rewritten(plan: &Plan) -> String {
    if plan.isolation == Isolation::ReadCommitted || plan.reads.is_empty() {
        return String::new();
    }
    let oids = plan.reads.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    format!("\n  and (select backfill.not_rewritten(array[{oids}]::pg_catalog.oid[]))")
}

fn rows(plan: &Plan, passage: &Passage, after: &str, until_end: &str) -> String {
    let target = &plan.target;
    match passage {
        Passage::Change => {
            // In a case, so that no index of the filter's columns looks better to the planner than the key's.
            let (matches, unresolved) = match &plan.filter {
                // A row that is gone matches nothing any more.
                Some(filter) if plan.kind == Kind::Delete => {
                    (format!(" and case when (\n{filter}\n) then true else false end"), NONE.to_owned())
                }
                Some(filter) => (
                    format!(" and case when (\n{filter}\n) then true else false end"),
                    format!("case when (\n{filter}\n) then 1 end"),
                ),
                None => (String::new(), NONE.to_owned()),
            };
            format!(
                "(\n  {}\n  where {after} and {until_end}{matches}\n  returning {unresolved} as unresolved)",
                work(plan)
            )
        }
        Passage::Count(condition) => format!(
            "materialized (\n  select null::pg_catalog.int4 as unresolved from only {target}\n  where {after} and {until_end} and case when {condition} then true else false end)"
        ),
    }
}

/// What is done to the rows, up to their `where`.
fn work(plan: &Plan) -> String {
    let target = &plan.target;
    match plan.kind {
        Kind::Update => {
            let set: Vec<String> = plan.assignments.iter().map(assignment).collect();
            format!("update only {target} set {}", set.join(", "))
        }
        Kind::Delete => format!("delete from only {target}"),
    }
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
    use crate::job::plan::{KeyColumn, Strategy};
    use crate::key::Key;

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
            }],
            assignments: vec![Assignment { columns: vec!["c".into()], expression: "total * 100 -- cents".into() }],
            filter: Some("c is null".into()),
            isolation: Isolation::ReadCommitted,
            columns: vec![1, 2],
            reads: vec![],
            fingerprint: "1 id 20".into(),
            comparable: true,
            self_reading: false,
            upper: Some(Key(vec!["9".into()])),
            defaults: serde_json::Value::Null,
        }
    }

    #[test]
    fn a_comment_in_an_expression_ends_with_its_line() {
        assert!(batch(&plan(), &Passage::Change, false).contains("\"c\" = (\ntotal * 100 -- cents\n)"));
    }

    #[test]
    fn the_first_batch_has_no_lower_bound() {
        let first = batch(&plan(), &Passage::Change, true);
        assert!(!first.contains("operator(pg_catalog.>)"));
        assert!(batch(&plan(), &Passage::Change, false).contains("operator(pg_catalog.>)"));
    }

    #[test]
    fn a_repeatable_read_batch_checks_the_tables_that_it_reads() {
        let reads = Plan { isolation: Isolation::RepeatableRead, reads: vec![7, 9], ..plan() };
        assert!(batch(&reads, &Passage::Change, false).contains("backfill.not_rewritten(array[7, 9]"));
        assert!(!batch(&plan(), &Passage::Change, false).contains("not_rewritten"));
    }

    #[test]
    fn a_delete_takes_the_rows_that_match_and_assigns_nothing() {
        let plan = Plan { kind: Kind::Delete, assignments: vec![], ..plan() };
        let sql = batch(&plan, &Passage::Change, false);
        assert!(sql.contains("delete from only public.orders\n  where ") && sql.contains("case when (\nc is null\n)"));
        assert!(!sql.contains("update") && !sql.contains(" set "));
    }

    #[test]
    fn a_verification_changes_nothing() {
        let sql = batch(&plan(), &Passage::Count("c is null".into()), false);
        assert!(!sql.contains("update"));
        assert!(sql.contains("case when c is null then"));
    }

    #[test]
    fn constants_of_ours_survive_quotes_and_backslashes() {
        assert_eq!(literal("a'b"), "'a''b'");
        assert_eq!(literal("a\\b'"), " E'a\\\\b'''");
    }
}
