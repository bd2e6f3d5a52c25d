//! Compares the final table and the counters of the job with the application's own record of its
//! writes (its book), and reports the differences.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio_postgres::Client;

use crate::model::application::{Book, Report};
use crate::model::case::{Case, Form};
use crate::model::key::{literal, quote};
use crate::support::value;

/// A row of the table.
#[derive(Debug)]
struct Found {
    n: i64,
    c: Option<i64>,
    src: i64,
    s: i64,
    /// The row's key is above the upper bound that was set during planning.
    beyond: bool,
    /// The columns `pad`, `toasted` and `doubled` have the expected values, if they exist.
    whole: bool,
}

/// Returns a list of everything that is wrong. The list is empty if nothing is wrong.
pub async fn judge(case: &Case, client: &Client, book: &Book) -> Vec<String> {
    let mut found = read(case, client).await;
    let changes = if case.audited { changes(client).await } else { BTreeMap::new() };
    let verifying = last_verification(client).await;
    let mut wrong = Vec::new();
    for (tag, report) in book {
        let mut say = |what: String| wrong.push(format!("row {tag}: {what}"));
        let times = changes.get(tag).copied().unwrap_or(0);
        if case.audited {
            by_changes(case, report, found.get(tag), times, &mut say);
        }
        let Some(row) = found.remove(tag) else {
            if report.inserted && !report.deleted && (case.form != Form::Delete || times == 0) {
                say(format!("is missing: {report:?}"));
            }
            continue;
        };
        if report.deleted {
            say(format!("was deleted but still exists: {report:?}"));
        }
        if row.s != report.sides || row.n.div_euclid(1000) != report.bumps {
            say(format!("an update of the application was lost: {row:?} {report:?}"));
        }
        if !row.whole {
            say("a column changed that neither the job nor the application changes".to_owned());
        }
        if case.form.counts() {
            by_count(case, report, &row, &mut say);
        } else if case.form.fills() {
            let swept = case.sweeps && !row.beyond && report.needy_since.is_none_or(|since| Some(since) < verifying);
            by_value(case, report, &row, swept, &mut say);
        } else if report.promised && !report.moved && row.src % 2 == 0 {
            say(format!("was not deleted: {row:?} {report:?}"));
        }
    }
    wrong.extend(found.keys().map(|tag| format!("row {tag}: no commit inserted it")));
    let open = "select count(*) from backfill.row_error where resolved_at is null";
    let aside = "select count(*) from backfill.deferred_row";
    let (open, aside): (i64, i64) = (value(client, open).await, value(client, aside).await);
    if (open, aside) != (0, 0) {
        wrong.push(format!("{open} rows are still quarantined, {aside} deferred"));
    }
    wrong.extend(by_counters(case, client, changes.values().sum()).await);
    wrong
}

/// Returns everything that is wrong after the job has failed because of `bad` rows. The job's row
/// errors must name exactly the bad rows that need a change. The bad rows must be unchanged. A row
/// is not checked if the application inserted it after the job was enqueued, or if the application
/// changed the row's key. The caller must stop the application's writes first.
pub async fn judge_refused(case: &Case, client: &Client, book: &Book, bad: &[i64]) -> Vec<String> {
    let key: Vec<String> =
        case.key.columns.iter().map(|column| format!("{}, t.{}", literal(&column.name), quote(&column.name))).collect();
    let sql = format!(
        "select t.tag, t.n % 1000, t.c, t.src, e.key is not null from {} t
           left join (select key from backfill.row_errors where resolved_at is null) e on e.key = jsonb_build_object({})",
        case.target,
        key.join(", ")
    );
    // With these settings, keys are formatted as in `row_errors`.
    let pinned = "set timezone = 'UTC'; set intervalstyle = 'postgres'; set datestyle = 'ISO'; set extra_float_digits = 3; set bytea_output = 'hex'";
    client.batch_execute(pinned).await.unwrap();
    let mut wrong = Vec::new();
    for row in client.query(&sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")) {
        let (tag, times, c, src, named): (i64, i64, Option<i64>, i64, bool) =
            (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4));
        let Some(report) = book.get(&tag).filter(|report| report.promised && !report.moved) else { continue };
        let is_bad = bad.contains(&tag);
        if named && !is_bad {
            wrong.push(format!("row {tag} is named but can be changed: {report:?}"));
        }
        let due = match case.form {
            Form::Delete => src % 2 == 0,
            form if form.fills() => !report.filled && !report.emptied,
            _ => true,
        };
        if is_bad && due && !named {
            wrong.push(format!("row {tag} cannot be changed and is not named: {report:?}"));
        }
        let changed = if case.form.fills() { c.is_some() && !report.filled } else { times != 0 };
        if is_bad && changed {
            wrong.push(format!("row {tag} was changed although it cannot be changed: {times} {c:?} {report:?}"));
        }
    }
    wrong
}

/// Checks a row of a job such as `n = n + 1`. The last three digits of `n` count how often the job
/// changed the row.
fn by_count(case: &Case, report: &Report, row: &Found, say: &mut impl FnMut(String)) {
    let times = row.n.rem_euclid(1000);
    let filled = matches!(case.form, Form::Several | Form::SeveralFromSelect).then_some(row.src * 2 + 1);
    let right = if report.promised && !report.moved {
        times == 1
    } else if report.moved && case.form.filter().is_none() {
        true
    } else {
        times <= 1
    };
    if !right {
        say(format!("was changed {times} times: {row:?} {report:?}"));
    }
    if row.c != filled.filter(|_| times > 0) {
        say(format!("has a wrong value: {row:?} {report:?}"));
    }
}

/// Checks a row of a job such as `c = src * 2 + 1 where c is null`.
fn by_value(case: &Case, report: &Report, row: &Found, swept: bool, say: &mut impl FnMut(String)) {
    // `report.filled` is also true for a row that the job left null and whose `src` the application
    // changed afterwards.
    let unresolved = case.form == Form::FillUnresolved && (row.src % 7 == 0 || report.filled);
    match row.c {
        Some(c) if c == row.src * 2 + 1 => {}
        Some(_) => say(format!("has a wrong value: {row:?} {report:?}")),
        None if unresolved => {}
        None if report.promised && !report.moved && !report.emptied => {
            say(format!("was never filled: {row:?} {report:?}"))
        }
        None if swept => say(format!("was written before the last verification and not filled: {row:?} {report:?}")),
        None => {}
    }
}

/// Checks the number of times that the job changed a row. The number comes from the audit table.
fn by_changes(case: &Case, report: &Report, row: Option<&Found>, times: i64, say: &mut impl FnMut(String)) {
    let may_come_again = report.moved
        || report.emptied
        || (case.form == Form::FillUnresolved && row.is_none_or(|row| row.c.is_none() || report.filled));
    if times > 1 && !may_come_again {
        say(format!("was changed {times} times: {row:?} {report:?}"));
    }
    let due = report.promised && !report.moved && !report.deleted && !report.filled && !report.emptied;
    if due && times == 0 && (case.form != Form::Delete || row.is_some_and(|row| row.src % 2 == 0)) {
        say(format!("was never changed: {row:?} {report:?}"));
    }
}

/// Checks the counters of the job, its final state, and its changes in the audit table.
async fn by_counters(case: &Case, client: &Client, audited: i64) -> Vec<String> {
    let mut wrong = Vec::new();
    let row = client
        .query_one(
            "select state, verified_at is not null, rows_changed, (options ->> 'verify') <> 'none',
                    (select coalesce(sum(rows_changed), 0)::bigint from backfill.slices), (select count(*) from backfill.lease)
               from backfill.jobs",
            &[],
        )
        .await
        .unwrap();
    let (state, verified, changed, to_verify, by_slices, leases): (String, bool, i64, bool, i64, i64) =
        (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4), row.get(5));
    if state != "succeeded" || verified != to_verify || leases != 0 {
        wrong.push(format!("the job is {state}, verified: {verified}, with {leases} leases"));
    }
    if changed != by_slices {
        wrong.push(format!("the job counts {changed} changed rows, its slices {by_slices}"));
    }
    if case.audited {
        if changed != audited {
            wrong.push(format!("the job counts {changed} changed rows, the audit table {audited}"));
        }
        let strange = "select count(*) from public.audit where who like 'backfilld%' and old - array['n', 'c'] <> new - array['n', 'c']";
        let strange: i64 = value(client, strange).await;
        if strange > 0 {
            wrong.push(format!("{strange} times the job changed another column"));
        }
        if case.form == Form::Delete {
            let others =
                "select count(*) from public.audit where who like 'backfilld%' and (old ->> 'src')::bigint % 2 <> 0";
            let others: i64 = value(client, others).await;
            if others > 0 {
                wrong.push(format!("{others} rows were deleted that do not match the filter"));
            }
        }
        if case.form.fills() {
            let late = "select count(*) from public.audit where who like 'backfilld%' and old ->> 'c' is not null";
            let late: i64 = value(client, late).await;
            if late > 0 {
                wrong.push(format!("{late} times the job changed a row that did not match its filter"));
            }
        }
    }
    wrong
}

async fn changes(client: &Client) -> BTreeMap<i64, i64> {
    let sql = "select tag, count(*) from public.audit where who like 'backfilld%' group by tag";
    client.query(sql, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn last_verification(client: &Client) -> Option<SystemTime> {
    let sql = "select (extract(epoch from max(at)) * 1000000)::bigint from backfill.events where kind = 'verifying'";
    let micros: Option<i64> = client.query_one(sql, &[]).await.unwrap().get(0);
    micros.map(|micros| SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap()))
}

async fn read(case: &Case, client: &Client) -> BTreeMap<i64, Found> {
    let bounds = client
        .query(
            "select distinct s.relation::bigint, array(select jsonb_array_elements_text(coalesce(s.leaf, j.plan) -> 'upper'))
               from backfill.slice s join backfill.job j on j.id = s.job_id where s.kind = 'walk' and s.upper is not null",
            &[],
        )
        .await
        .unwrap();
    let by_leaf: Vec<String> = bounds
        .iter()
        .map(|row| format!("when {} then {}", row.get::<_, i64>(0), beyond(case, &row.get::<_, Vec<String>>(1))))
        .collect();
    let beyond = if by_leaf.is_empty() {
        "true".to_owned()
    } else {
        format!("case t.tableoid::bigint {} else true end", by_leaf.join(" "))
    };
    // Columns that exist only in some cases are read through JSON, so that the statement also works
    // without them.
    let whole = "coalesce(to_jsonb(t) ->> 'pad', 'pad') = 'pad' and coalesce(to_jsonb(t) ->> 'toasted', repeat('toast', 600)) = repeat('toast', 600)
        and coalesce((to_jsonb(t) ->> 'doubled')::bigint, src * 2) = src * 2";
    let sql = format!("select tag, n, c, src, s, {beyond}, {whole} from {} t", case.target);
    let rows = client.query(&sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.iter()
        .map(|row| {
            let found = Found {
                n: row.get(1),
                c: row.get(2),
                src: row.get(3),
                s: row.get(4),
                beyond: row.get(5),
                whole: row.get(6),
            };
            (row.get(0), found)
        })
        .collect()
}

/// Returns an SQL condition that is true for keys that come after `upper` in the order of the walk.
/// The condition compares column by column, because each column has its own direction.
fn beyond(case: &Case, upper: &[String]) -> String {
    let ordered = case.key.ordered();
    let mut alternatives = Vec::new();
    for (n, column) in case.key.columns.iter().enumerate() {
        let bound = |n: usize| format!("{}::{}", crate::model::key::literal(&upper[n]), case.key.columns[n].sql_type);
        let mut all: Vec<String> = (0..n).map(|before| format!("{} = {}", ordered[before], bound(before))).collect();
        // If the index is descending in all columns, the walk reads it backwards.
        let mixed = case.key.columns.iter().any(|other| other.descending != column.descending);
        let operator = if mixed && column.descending { "<" } else { ">" };
        all.push(format!("{} {operator} {}", ordered[n], bound(n)));
        alternatives.push(format!("({})", all.join(" and ")));
    }
    format!("({})", alternatives.join(" or "))
}
