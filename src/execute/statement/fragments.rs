//! Builds the SQL fragments of the statements.

use super::table::Table;
use crate::job::plan::{Assignment, Isolation, Kind, Plan};
use crate::pg::ident::{literal, quote, quote_all};
use crate::pg::keyset;

/// Result columns of each statement that advances the checkpoint or retries deferred rows. They
/// contain the new ctid of the checkpoint's row, and the desired state and the revision of the job.
/// `a` is the alias of the function call that returns these values.
pub(super) const ANSWER: &str = "a.new_ctid, a.desired, a.revision";

/// Time in seconds that the statement has spent on the server so far. Delays that the network or a
/// busy daemon causes are not included, because these delays do not make another session wait.
pub(super) const TOOK: &str = "extract(epoch from pg_catalog.clock_timestamp() operator(pg_catalog.-) pg_catalog.statement_timestamp())::pg_catalog.float8";

/// Holds the key's columns in the forms that a statement needs. The daemon's own names have the
/// prefix `_bf_`, so that they do not collide with column names that the user's expressions use
/// without a table name.
pub(super) struct Names {
    /// `"id" as _bf_k0`
    pub(super) columns: String,
    /// `_bf_k0`
    pub(super) names: String,
    /// Each column as text.
    pub(super) texts: String,
    /// The key as a JSON object, `{"column": value}`.
    pub(super) object: String,
}

impl Names {
    pub(super) fn of(plan: &Plan) -> Self {
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

/// Returns the `update` or `delete` up to its `where`. If `held` is given, the table is joined with
/// the query that `held` names.
pub(super) fn change_of(plan: &Plan, held: Option<&str>) -> String {
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

/// Returns the query `_bf_rows`, which runs `change`. For each changed row, it returns the columns
/// listed in `returned`. A row does not count as changed if [`left_as_it_was`] is true for the row.
pub(super) fn changed(plan: &Plan, table: Table, key: &Names, change: &str, returned: &str) -> String {
    match left_as_it_was(plan, table, key) {
        Some(left) => format!(
            "_bf_tried as ({change} returning {returned}, {left} as _bf_left),
_bf_rows as (select * from _bf_tried where _bf_left is not true)"
        ),
        None => format!("_bf_rows as ({change} returning {returned})"),
    }
}

/// Returns an expression that is true if a trigger kept the old values of a row that the server
/// reports as changed. For example, a trigger that returns `old` does so. The expression is true if
/// the assigned columns still have their values from the statement's snapshot, although the
/// assigned expressions give other values for that snapshot. The values are compared byte by byte,
/// because some types have no equality operator.
///
/// A trigger that corrects each value (`new.slug := lower(new.slug)`) may produce the value that
/// the row had before. Such a row is done. So the expression is true only if the row also still
/// matches the filter. The filter is not checked if the source of a trigger contains `return old`.
///
/// Returns none in these cases:
///
/// - No trigger of the table can keep old values.
/// - The assigned values cannot be evaluated separately.
/// - The assigned expressions call a volatile function, so they must not be evaluated again.
/// - The job is a delete.
/// - The job has no filter, or its filter calls a volatile function, and no trigger's source
///   contains `return old`.
fn left_as_it_was(plan: &Plan, table: Table, key: &Names) -> Option<String> {
    if !table.suppressible || plan.kind == Kind::Delete || plan.volatile.values {
        return None;
    }
    let mut values = Vec::new();
    let mut columns = Vec::new();
    for assignment in &plan.assignments {
        columns.extend(assignment.columns.iter().map(|column| quote(column)));
        match assignment.types.as_slice() {
            [_] if assignment.is_default() => return None,
            [sql_type] => values.push(format!("(\n{}\n)::{sql_type}", assignment.expression)),
            types if assignment.is_select() => values.extend(types.iter().enumerate().map(|(n, sql_type)| {
                let names = (0..types.len()).map(|n| format!("_bf_c{n}")).collect::<Vec<_>>().join(", ");
                format!("(select _bf_c{n}::{sql_type} from (\n{}\n) as _bf_value({names}))", assignment.expression)
            })),
            _ => return None,
        }
    }
    let new = (0..columns.len()).map(|n| format!("_bf_new._bf_n{n}")).collect::<Vec<_>>().join(", ");
    let names = (0..columns.len()).map(|n| format!("_bf_n{n}")).collect::<Vec<_>>().join(", ");
    let columns = columns.join(", ");
    let look = format!(
        "(select case when row({columns})::pg_catalog.record operator(pg_catalog.*=) row({new})::pg_catalog.record then not (row({values})::pg_catalog.record operator(pg_catalog.*=) row({columns})::pg_catalog.record) end
     from (select {outer}, {key}) as _bf_new({key_names}, {names}) cross join only {target} where {equal})",
        values = values.join(", "),
        outer = key.columns,
        key = columns,
        key_names = key.names,
        target = plan.source(),
        equal = keyset::equal(&plan.key, "_bf_new"),
    );
    match &plan.filter {
        _ if table.returns_old => Some(look),
        Some(filter) if !plan.volatile.filter => Some(format!("case when (\n{filter}\n) then {look} end")),
        Some(_) => None,
        None => None,
    }
}

/// Returns an expression that is not null for a row that still matches the filter after the row was
/// changed. For a delete, and for a job without a filter, the expression is always null. It is also
/// null if the filter calls a volatile function, which must not be evaluated again, and if the
/// filter must not be evaluated on changed rows.
pub(super) fn unresolved(plan: &Plan, table: Table) -> String {
    match &plan.filter {
        Some(filter) if plan.kind == Kind::Update && !plan.volatile.filter && !table.lenient => {
            format!("case when (\n{filter}\n) then 1 end")
        }
        _ => "null::pg_catalog.int4".to_owned(),
    }
}

/// Returns the filter as a further condition that begins with `and`, or an empty string if the job
/// has no filter. The filter is wrapped in a `case`, so that the planner does not prefer an index
/// on the filter's columns to the index on the key.
pub(super) fn matches(plan: &Plan) -> String {
    plan.filter
        .as_ref()
        .map_or_else(String::new, |filter| format!(" and case when (\n{filter}\n) then true else false end"))
}

/// Returns the query `_bf_held`, which locks rows, and the query `_bf_due`, which returns those of
/// the locked rows that match the filter. Both return `columns`. A filter that calls a volatile
/// function is evaluated only once for each row, in `_bf_held`. `wait` is empty or `skip locked`.
pub(super) fn held(plan: &Plan, table: Table, columns: &str, source: &str, range: &str, wait: &str) -> String {
    let lock = lock(plan, table);
    match &plan.filter {
        Some(filter) if plan.volatile.filter => format!(
            "_bf_held as materialized (
  select {columns}, case when (\n{filter}\n) then true else false end as _bf_match from only {source} where {range} for {lock}{wait}),
_bf_due as (select * from _bf_held where _bf_match)"
        ),
        _ => format!(
            "_bf_held as materialized (
  select {columns} from only {source} where {range}{matches} for {lock}{wait}),
_bf_due as (select * from _bf_held)",
            matches = matches(plan)
        ),
    }
}

/// Returns the filter for a query that only looks up which rows exist. Returns an empty text for a
/// filter that calls a volatile function, because it must not be evaluated a second time.
pub(super) fn matches_if_pure(plan: &Plan) -> String {
    if plan.volatile.filter { String::new() } else { matches(plan) }
}

/// Returns the row lock that the change itself takes. A stronger lock would keep the application
/// from inserting rows that refer to the locked rows.
pub(super) fn lock(plan: &Plan, table: Table) -> &'static str {
    if table.keys_change || plan.kind == Kind::Delete { "update" } else { "no key update" }
}

/// Returns a condition that raises an error if the table differs from the planned table. The
/// condition also raises an error if [`Table::suppressible`] has changed since it was read. At
/// REPEATABLE READ, the condition also checks that none of the other tables that the batch reads
/// has been rewritten since the snapshot. The walked table is locked before the snapshot is taken,
/// but some of the other tables cannot be locked.
pub(super) fn unchanged(plan: &Plan, table: Table) -> String {
    let attributes = |numbers: Vec<i16>| {
        format!("array[{}]::pg_catalog.int2[]", numbers.iter().map(i16::to_string).collect::<Vec<_>>().join(", "))
    };
    let relation = plan.relation;
    // A leaf must still belong to its target.
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

pub(super) fn assignment(assignment: &Assignment) -> String {
    match assignment.columns.as_slice() {
        [column] => format!("{} = (\n{}\n)", quote(column), assignment.expression),
        columns => format!("({}) = (\n{}\n)", quote_all(columns.iter().map(String::as_str)), assignment.expression),
    }
}
