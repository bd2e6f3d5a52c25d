//! Determines what a job's expressions depend on. Planning creates temporary SQL functions (the
//! probes) with the expressions in their bodies, so that the server itself parses the expressions.
//! For each probe, planning then reads the parse tree and the dependencies, and rolls back the
//! creation.

use crate::error::{self, Error, Result};
use crate::job::claim::Claim;
use crate::job::plan::{Assignment, Isolation, Kind, Volatile};
use crate::pg::assigned;
use crate::pg::connect::Session;
use crate::pg::ident::{quote, quote_all};
use crate::pg::pools::CONTROL_LIMIT;
use crate::pg::row::Columns;
use crate::plan::catalog::Found;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// Attribute numbers of the key's columns and of the columns that the job names, in ascending
    /// order. The list contains all columns if an expression reads a whole row, or if the parse
    /// tree could not be read.
    pub columns: Vec<i16>,
    /// OIDs of the other tables that the expressions read.
    pub reads: Vec<u32>,
    pub isolation: Isolation,
    pub comparable: bool,
    pub self_reading: bool,
    pub filter_varies: bool,
    pub volatile: Volatile,
    /// Whether an expression reads a row as text (`md5(t::text)`).
    pub rows_as_text: bool,
    /// Reason why the assigned values cannot be compared with the columns, even though the
    /// expressions give the same values each time they are evaluated.
    pub incomparable: Option<String>,
    /// Reason why the parse tree could not be read. Reading the tree requires the TEMPORARY
    /// privilege, and fails if an event trigger rejects CREATE FUNCTION.
    pub unseen: Option<String>,
}

/// Reads the properties of a probe function. The result has these columns, in this order:
///
/// - the columns of the target that the probe names,
/// - whether the probe may read other rows or other tables,
/// - whether its value may differ from one evaluation to the next,
/// - the other tables that it reads,
/// - whether it reads a row as a whole (`f(t)`), which names no column,
/// - whether it reads a row as text,
/// - whether a function or a view that it uses may read the target,
/// - whether it calls a volatile function.
///
/// The OIDs of functions and operators come from the parse tree. Built-in functions do not require
/// REPEATABLE READ, because they are assumed not to read any table.
const READ: &str = r"
with recursive probe as (
  select p.oid, p.prosqlbody::text as tree from pg_catalog.pg_proc p where p.oid = $1::text::pg_catalog.regprocedure),
named(oid) as (
  select d.refobjid from pg_catalog.pg_depend d, probe
   where d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass and d.objid = probe.oid and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
  union
  select d.refobjid from named n join pg_catalog.pg_rewrite w on w.ev_class = n.oid
    join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass and d.objid = w.oid and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass),
trees(tree) as (
  select tree from probe union all select w.ev_action::text from named n join pg_catalog.pg_rewrite w on w.ev_class = n.oid),
used as (
  select f.provolatile, f.pronamespace = 'pg_catalog'::pg_catalog.regnamespace as builtin
    from trees t, pg_catalog.regexp_matches(t.tree, ':(?:op)?(?:func|fn)id (\d+)', 'g') m, pg_catalog.pg_proc f where f.oid = m[1]::pg_catalog.oid
  union all
  select f.provolatile, f.pronamespace = 'pg_catalog'::pg_catalog.regnamespace
    from trees t, pg_catalog.regexp_matches(t.tree, ':opno (\d+)', 'g') m, pg_catalog.pg_operator o, pg_catalog.pg_proc f
   where o.oid = m[1]::pg_catalog.oid and f.oid = o.oprcode)
select (select pg_catalog.array_agg(distinct d.refobjsubid::pg_catalog.int2 order by d.refobjsubid::pg_catalog.int2)
          from pg_catalog.pg_depend d, probe
         where d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass and d.objid = probe.oid
           and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.refobjid = $2 and d.refobjsubid > 0),
       (select tree ~ 'SUBLINK|SUBQUERY' from probe) or exists (select from used where provolatile <> 'i' and not builtin),
       exists (select from used where provolatile <> 'i') or (select tree ~ 'SQLVALUEFUNCTION|NEXTVALUEEXPR|SUBLINK' from probe),
       (select pg_catalog.array_agg(distinct n.oid) from named n join pg_catalog.pg_class c on c.oid = n.oid where c.relkind in ('r', 'p', 'm') and c.oid <> $2),
       (select tree ~ ':varattno 0 ' from probe),
       (select tree ~ 'COERCEVIAIO :arg \{VAR :varno \d+ :varattno 0 ' from probe),
       exists (select from used where provolatile <> 'i' and not builtin)
         or exists (select from named n join pg_catalog.pg_rewrite w on w.ev_class = n.oid
                      join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass and d.objid = w.oid
                     where d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.refobjid = $2),
       exists (select from used where provolatile = 'v')";

const LIMITS: &str = "set local lock_timeout = '2s'";

/// Returns what the expressions of a job depend on.
///
/// # Errors
/// Returns the errors that the server raises for the expressions, for example an unknown column, a
/// missing privilege or a syntax error.
pub async fn read(executor: &Session, claim: &Claim, found: &Found) -> Result<Needs> {
    for assignment in &found.assignments {
        stays_inside(executor, "set", &assignment.expression).await?;
    }
    if let Some(filter) = &claim.filter {
        stays_inside(executor, "filter", filter).await?;
    }
    let target = if found.spread { format!("{} as {}", found.target, found.alias) } else { found.target.clone() };
    if claim.work() == Kind::Delete {
        let delete = change(&target, &[], claim.filter.as_deref());
        let probe = probe(executor, claim, "backfill_probe_delete", "void", &delete).await;
        return of_delete(executor, claim, found, probe, &delete).await;
    }
    let expressions: Vec<String> =
        found.assignments.iter().map(|assignment| format!("(\n{}\n)", assignment.expression)).collect();
    let update = change(&target, &found.assignments, claim.filter.as_deref());
    let reads: Vec<String> = found
        .assignments
        .iter()
        .zip(&expressions)
        .enumerate()
        .map(|(n, (assignment, expression))| match assignment.columns.len() {
            // Only an update accepts the word `default`, so this probe contains `null` instead. The
            // values of a job with such an assignment can never be compared.
            1 if assignment.is_default() => "null".to_owned(),
            1 => expression.clone(),
            // The values for several columns come from a query, or from a row constructor.
            _ if assignment.is_select() => {
                format!("(select pg_catalog.count(*) from {expression} as backfill_probe_{n})")
            }
            _ => format!("{expression} is null"),
        })
        .collect();
    let select = format!("select {} from only {target}", reads.join(", "));

    let whole = probe(executor, claim, "backfill_probe_update", "void", &update).await;
    let values = match &whole {
        Ok(_) => probe(executor, claim, "backfill_probe_values", "record", &select).await,
        Err(error) => Err(error.clone()),
    };
    let key = found.key.iter().map(|column| column.attnum);
    match (whole, values) {
        (Ok(whole), Ok(values)) => {
            let assigned = attribute_numbers(executor, claim, found).await?;
            let named = if whole.whole_row { all_columns(executor, claim).await? } else { whole.columns };
            let mut columns: Vec<i16> = named.into_iter().chain(key).collect();
            columns.sort_unstable();
            columns.dedup();
            // A function or a view that may read the target counts as a read of the assigned
            // columns. Otherwise a sweep could change a row a second time.
            let self_reading =
                values.whole_row || values.opaque || values.columns.iter().any(|column| assigned.contains(column));
            let isolation = if whole.reads_rows { Isolation::RepeatableRead } else { Isolation::ReadCommitted };
            let reads = whole.reads;
            let filter = if whole.varies { filter_of(executor, claim, &target).await? } else { None };
            let filter_varies = filter.as_ref().is_some_and(|filter| filter.varies);
            let evaluable = !found.assignments.iter().any(Assignment::is_default);
            let incomparable = if !values.varies && !self_reading && evaluable {
                incomparable(executor, claim, &assigned, &target, &found.assignments).await?
            } else {
                None
            };
            Ok(Needs {
                columns,
                reads,
                isolation,
                comparable: !values.varies && !self_reading && evaluable && incomparable.is_none(),
                self_reading,
                incomparable,
                filter_varies,
                volatile: Volatile { values: values.volatile, filter: filter.is_some_and(|filter| filter.volatile) },
                rows_as_text: whole.row_as_text,
                unseen: None,
            })
        }
        (Err(error), _) | (_, Err(error)) => assume_worst_if_refused(executor, claim, error, &update).await,
    }
}

/// Checks that a text stays inside the parentheses that the daemon's statements put around it. The
/// text `a) or (b` is valid SQL inside parentheses, although its own brackets do not match.
/// Therefore the server parses the text in a statement without these parentheses, where unmatched
/// brackets are a syntax error. This statement names a table that does not exist. The server
/// reports the missing table only after it has parsed the whole statement, and before it resolves
/// any other name. So the error for the missing table shows that the text is complete. `enqueue`
/// makes the same check (`backfill._check_fragments`), in a session with other settings.
///
/// # Errors
/// [`error::Kind::Refused`] if the server cannot parse the text by itself.
async fn stays_inside(executor: &Session, what: &str, text: &str) -> Result<()> {
    // The second form accepts a query without parentheses of its own (`column = select ...`).
    const FORMS: [&str; 2] =
        ["select from pg_catalog.\"no such table\" where", "insert into pg_catalog.\"no such table\""];
    const UNDEFINED_TABLE: &str = "42P01";
    let mut reason = None;
    for form in FORMS {
        match executor.bounded(CONTROL_LIMIT, executor.client.prepare(&format!("{form}\n{text}\n"))).await {
            Err(error) if error.sqlstate.as_deref() == Some(UNDEFINED_TABLE) => return Ok(()),
            Err(error) if matches!(error.kind, error::Kind::Statement | error::Kind::Data) => {
                reason.get_or_insert(error.message);
            }
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    let reason = reason.unwrap_or_else(|| "the server accepted it without a table".to_owned());
    Err(Error::new(error::Kind::Refused, format!("{what} is not a complete expression: {reason}"))
        .detail("The server must be able to parse the text without the parentheses that a batch puts around it.")
        .hint("Enqueue the job under another name with a single complete expression, in which each opening bracket has a closing bracket."))
}

/// Returns one statement that does the job's work on a whole table. Without assignments, the
/// statement deletes rows.
pub fn change(target: &str, assignments: &[Assignment], filter: Option<&str>) -> String {
    let set: Vec<String> = assignments
        .iter()
        .map(|assignment| match assignment.columns.as_slice() {
            [column] => format!("{} = (\n{}\n)", quote(column), assignment.expression),
            columns => {
                format!("({}) = (\n{}\n)", quote_all(columns.iter().map(String::as_str)), assignment.expression)
            }
        })
        .collect();
    let filter = filter.map_or_else(|| "true".to_owned(), |filter| format!("(\n{filter}\n)"));
    if set.is_empty() {
        return format!("delete from only {target} where {filter}");
    }
    format!("update only {target} set {} where {filter}", set.join(", "))
}

/// Determines what a delete depends on. A delete assigns no column. After the walk, its
/// verification usually checks that no row matches the filter. But the filter may depend on the
/// clock or on other rows (`created_at < now() - interval '90 days'`). With such a filter, further
/// rows may begin to match during the job, and the job would fail after its last sweep. For such a
/// filter, the verification therefore only checks that the walk passed each row.
async fn of_delete(
    executor: &Session,
    claim: &Claim,
    found: &Found,
    probe: Result<Probe>,
    delete: &str,
) -> Result<Needs> {
    let probe = match probe {
        Err(error) => return assume_worst_if_refused(executor, claim, error, delete).await,
        Ok(probe) => probe,
    };
    let named = if probe.whole_row { all_columns(executor, claim).await? } else { probe.columns };
    let mut columns: Vec<i16> = named.into_iter().chain(found.key.iter().map(|column| column.attnum)).collect();
    columns.sort_unstable();
    columns.dedup();
    let isolation = if probe.reads_rows { Isolation::RepeatableRead } else { Isolation::ReadCommitted };
    Ok(Needs {
        columns,
        reads: probe.reads,
        isolation,
        comparable: !probe.varies,
        self_reading: probe.varies,
        filter_varies: probe.varies,
        volatile: Volatile { values: false, filter: probe.volatile },
        rows_as_text: probe.row_as_text,
        incomparable: None,
        unseen: None,
    })
}

/// Returns the needs of a job whose probe could not be created, if the reason is not the job's
/// statement itself.
///
/// # Errors
/// The given error if the server rejects the statement, or if the error is of a kind that says
/// nothing about the statement, for example a lost connection.
async fn assume_worst_if_refused(executor: &Session, claim: &Claim, error: Error, statement: &str) -> Result<Needs> {
    use error::Kind as Of;
    if !matches!(error.kind, Of::Permission | Of::Data | Of::Statement | Of::Refused) {
        return Err(error);
    }
    let reason = if lacks_temporary(executor, &error).await? {
        "the role of the job lacks the TEMPORARY privilege on the database".to_owned()
    } else if executor.bounded(CONTROL_LIMIT, executor.client.prepare(statement)).await.is_ok() {
        format!("the database refuses CREATE FUNCTION in the temporary schema ({})", error.message)
    } else {
        return Err(error);
    };
    assume_worst(executor, claim, &reason).await
}

/// Returns the needs of a job whose parse tree cannot be read. Each property gets its safe value.
/// The exceptions are `reads`, which is left empty, and `rows_as_text`, which is false: these two
/// have no safe value.
async fn assume_worst(executor: &Session, claim: &Claim, reason: &str) -> Result<Needs> {
    tracing::info!(
        "could not find out what the expressions of the job read: {reason}; assuming that they read other rows, so batches run at REPEATABLE READ"
    );
    let columns = all_columns(executor, claim).await?;
    Ok(Needs {
        columns,
        reads: Vec::new(),
        isolation: Isolation::RepeatableRead,
        comparable: false,
        self_reading: true,
        filter_varies: true,
        volatile: Volatile { values: true, filter: true },
        // The value is unknown, but most expressions do not read a row as text.
        rows_as_text: false,
        incomparable: None,
        unseen: Some(reason.to_owned()),
    })
}

/// Reads the properties of the filter alone. The caller knows only that the statement as a whole
/// can give different results for the same row. The assigned values alone may be the cause.
async fn filter_of(executor: &Session, claim: &Claim, target: &str) -> Result<Option<Probe>> {
    let Some(filter) = &claim.filter else { return Ok(None) };
    let select = format!("select (\n{filter}\n) from only {target}");
    probe(executor, claim, "backfill_probe_filter", "record", &select).await.map(Some)
}

/// Returns whether the server raised `error` because the role may not create temporary objects. The
/// text of the error is not checked, because the server may be set to another language.
async fn lacks_temporary(executor: &Session, error: &Error) -> Result<bool> {
    const SQL: &str =
        "select not pg_catalog.has_database_privilege(current_user, pg_catalog.current_database(), 'temporary')";
    if error.kind != error::Kind::Permission {
        return Ok(false);
    }
    executor.bounded_ours(CONTROL_LIMIT, executor.client.query_one(SQL, &[])).await?.read(0)
}

const ALL_COLUMNS: &str = "
select attnum from pg_catalog.pg_attribute where attrelid = $1 and attnum > 0 and not attisdropped order by attnum";

async fn all_columns(executor: &Session, claim: &Claim) -> Result<Vec<i16>> {
    let rows = executor.bounded_ours(CONTROL_LIMIT, executor.client.query(ALL_COLUMNS, &[&claim.relation])).await?;
    rows.iter().map(|row| row.read(0)).collect()
}

async fn attribute_numbers(executor: &Session, claim: &Claim, found: &Found) -> Result<Vec<i16>> {
    const SQL: &str = "select attnum from pg_catalog.pg_attribute where attrelid = $1 and attname = any ($2::pg_catalog.text[]) and attnum > 0";
    let names: Vec<&str> = found.assignments.iter().flat_map(|a| a.columns.iter().map(String::as_str)).collect();
    let rows = executor.bounded_ours(CONTROL_LIMIT, executor.client.query(SQL, &[&claim.relation, &names])).await?;
    rows.iter().map(|row| row.read(0)).collect()
}

/// Returns the reason why the columns cannot be compared with the assigned values, or none if they
/// can be compared. The possible reasons:
///
/// - A column's type, or a type that this type consists of, has no equality operator.
/// - A domain among these types has a constraint that calls a volatile function. The comparison
///   would call this function again.
/// - The server rejects the comparison, for example because the types in a row constructor differ
///   from the types of the columns.
async fn incomparable(
    executor: &Session,
    claim: &Claim,
    columns: &[i16],
    target: &str,
    assignments: &[Assignment],
) -> Result<Option<String>> {
    const LACKING: &str = "
with recursive made(oid) as (
  select a.atttypid from pg_catalog.pg_attribute a where a.attrelid = $1 and a.attnum = any ($2)
  union
  select p.oid from made m join pg_catalog.pg_type y on y.oid = m.oid
  cross join lateral (select y.typbasetype union all select y.typelem where y.typcategory = 'A'
                      union all select a.atttypid from pg_catalog.pg_attribute a where a.attrelid = y.typrelid and a.attnum > 0 and not a.attisdropped) p(oid)
   where p.oid <> 0)
select pg_catalog.format_type(y.oid, null), y.typtype = 'd' from made m join pg_catalog.pg_type y on y.oid = m.oid
 where exists (select from pg_catalog.pg_constraint c join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass and d.objid = c.oid and d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                 join pg_catalog.pg_proc p on p.oid = d.refobjid where c.contypid = y.oid and p.provolatile = 'v')
    or y.typtype = 'b' and y.typcategory <> 'A'
   and not exists (select from pg_catalog.pg_opclass o join pg_catalog.pg_am am on am.oid = o.opcmethod and am.amname in ('btree', 'hash')
                    where o.opcdefault and (o.opcintype = y.oid
                      or o.opcintype in (select c.casttarget from pg_catalog.pg_cast c where c.castsource = y.oid and c.castmethod = 'b' and c.castcontext = 'i')))
 order by 1 limit 1";
    let found =
        executor.bounded_ours(CONTROL_LIMIT, executor.client.query_opt(LACKING, &[&claim.relation, &columns])).await?;
    if let Some(row) = found {
        let (lacking, is_domain): (String, bool) = (row.read(0)?, row.read(1)?);
        return Ok(Some(match is_domain {
            true => {
                format!("A comparison would call the volatile function in the constraint of domain {lacking} again.")
            }
            false => format!("Values of type {lacking} cannot be compared: the type has no equality operator."),
        }));
    }
    let compared = format!("explain (costs off) select 1 from only {target} where {}", assigned::differs(assignments));
    match executor.bounded(CONTROL_LIMIT, executor.client.query(&compared, &[])).await {
        Err(error) if matches!(error.kind, error::Kind::Statement | error::Kind::Data) => {
            // The message can contain values of rows, because the server evaluates immutable
            // functions.
            let code = error.sqlstate.unwrap_or_default();
            Ok(Some(format!("The server cannot compare the assigned expressions with the columns (SQLSTATE {code}).")))
        }
        answer => answer.map(|_| None),
    }
}

struct Probe {
    columns: Vec<i16>,
    reads: Vec<u32>,
    whole_row: bool,
    row_as_text: bool,
    opaque: bool,
    reads_rows: bool,
    varies: bool,
    volatile: bool,
}

async fn probe(executor: &Session, claim: &Claim, name: &str, returns: &str, body: &str) -> Result<Probe> {
    let made = async {
        executor.client.batch_execute(&format!("begin; {LIMITS}")).await?;
        let setof = if returns == "record" { "setof record" } else { returns };
        executor
            .client
            .batch_execute(&format!(
                "create function pg_temp.{name}() returns {setof} language sql begin atomic {body}; end"
            ))
            .await?;
        executor.client.batch_execute("set local search_path = pg_catalog, pg_temp").await?;
        executor.client.query_one(READ, &[&format!("pg_temp.{name}()"), &claim.relation]).await
    };
    let answer = executor.bounded(CONTROL_LIMIT, made).await;
    executor.bounded_unpinned(CONTROL_LIMIT, executor.client.batch_execute("rollback")).await?;
    let row = answer?;
    Ok(Probe {
        columns: row.read::<Option<Vec<i16>>>(0)?.unwrap_or_default(),
        reads_rows: row.read(1)?,
        varies: row.read(2)?,
        reads: row.read::<Option<Vec<u32>>>(3)?.unwrap_or_default(),
        whole_row: row.read(4)?,
        row_as_text: row.read(5)?,
        opaque: row.read(6)?,
        volatile: row.read(7)?,
    })
}

/// Turns the error into a refusal if the server rejects the job's statements or their values. In
/// this case, the spec became invalid after `enqueue`, or it reached the queue without `enqueue`.
pub fn refuse(error: Error) -> Error {
    // The error is redacted if code of the job may have raised it, because this code may have read
    // rows of the table during planning.
    use error::Kind as Of;
    let is_of_code = matches!(
        error.kind,
        Of::Data | Of::Serialization | Of::LockTimeout | Of::Deadlock | Of::Cancelled | Of::ServerResources
    );
    let error = match error.is_raised || is_of_code {
        true => error.redacted("the code of the job failed while the job was planned", None),
        false => error,
    };
    match error.kind {
        error::Kind::Statement | error::Kind::Data => {
            Error { kind: error::Kind::Refused, ..error.context("the server rejects this job") }
        }
        _ => error,
    }
}
