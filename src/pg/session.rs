//! Opens executors' sessions. Before a session does any work, sets the settings that backfilld
//! depends on. So the defaults of the role and of the database do not apply to these settings. The
//! settings affect:
//! - the results of expressions (the same instant is a different date in another time zone)
//! - the choice of the query plan
//! - how long a statement waits for locks

use std::time::Duration;

use crate::error::{Kind, Result};
use crate::job::claim::{Claim, Settings};
use crate::job::plan::Isolation;
use crate::job::plan::KeyColumn;
use crate::pg::connect::{Session, within};
use crate::pg::conninfo::Place;
use crate::pg::control::Control;
use crate::pg::keyset;
use crate::pg::pins::{OUR_PATH, Pins};
use crate::pg::pooler;
use crate::pg::pools::{CONTROL_LIMIT, Logins};
use crate::pg::row::Columns;

/// The settings of an executor's session that differ between jobs, or between the planning, the
/// execution and the vacuum of a job.
#[derive(Debug, Clone)]
pub struct Recipe<'a> {
    pub settings: &'a Settings,
    pub isolation: Isolation,
    /// Maximum duration of a statement; 0 for no limit. A batch is one statement.
    pub statement_timeout: Duration,
    pub lock_timeout: Duration,
    pub plans: Plans,
}

/// The query plans that the server may choose for the daemon's statements. Statements that plan a
/// job may use any query plan, because they read samples and bounds. A walk must follow its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plans {
    Any,
    /// Avoids sequential scans and bitmap scans, which may read the whole table.
    Index,
    /// Also avoids sorts. Otherwise the server could read an index on a part of the key and sort
    /// the rows. Used if the walked index is descending in some columns and ascending in others.
    IndexInOrder,
}

impl Plans {
    pub fn along(key: &[KeyColumn]) -> Self {
        if keyset::is_mixed(key) { Self::IndexInOrder } else { Self::Index }
    }
}

/// Reads what the settings of the session depend on: whether the server knows `transaction_timeout`
/// (PostgreSQL 17 and later), and the login.
const SERVER: &str = "
select exists (select from pg_catalog.pg_settings s where s.name = 'transaction_timeout'), session_user::pg_catalog.text";
/// Makes the server check every 500 ms, while a statement runs, whether the client is still
/// connected. If the operating system of the server does not support this check, this `set` raises
/// an error, which is ignored.
const NOTICE_DEAD_CLIENT: &str = "set client_connection_check_interval = '500ms'";

/// Opens an executor session for a claim and applies a recipe to the session.
pub async fn open(logins: &Logins, claim: &Claim, recipe: &Recipe<'_>) -> Result<Session> {
    open_at(None, logins, claim, recipe).await
}

/// Like [`open`], but connects to `place` (a host and a port) if it is given.
pub async fn open_at(place: Option<&Place>, logins: &Logins, claim: &Claim, recipe: &Recipe<'_>) -> Result<Session> {
    // Each role can see the application name of a session, so this name does not contain the name
    // of the job.
    let name = format!("backfilld job {}", claim.job_id);
    let mut session = logins.open_executor_at(place, &claim.run_as, &name).await?;
    within(CONTROL_LIMIT, session.client.batch_execute(OUR_PATH)).await?;
    let row = within(CONTROL_LIMIT, session.client.query_one(SERVER, &[])).await?;
    let (knows_transaction_timeout, login): (bool, String) = (row.read(0)?, row.read(1)?);
    let mut pins = of(recipe);
    if knows_transaction_timeout {
        pins.push(("transaction_timeout", "0".to_owned()));
    }
    // The code of a job can reset the role (`reset role`). If the login is the job's role itself,
    // no role is set.
    pins.push(("role", if login == claim.run_as { "none".to_owned() } else { claim.run_as.clone() }));
    let job_path = recipe.settings.search_path.clone().unwrap_or_else(|| "pg_catalog".to_owned());
    session.pin(Pins::new(pins, job_path));
    session.bounded(CONTROL_LIMIT, session.client.batch_execute("")).await?;
    if let Err(error) = within(CONTROL_LIMIT, session.client.batch_execute(NOTICE_DEAD_CLIENT)).await
        && error.sqlstate.is_none()
    {
        return Err(error);
    }
    Ok(session)
}

/// The server process of a session, and the server to which the process belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    pub pid: i32,
    /// Start time of the process, if the login may see it.
    pub started: Option<String>,
    /// The result of `backfill._server_identity()`.
    pub server: String,
}

/// Queries the server process and the server identity of a session.
pub async fn backend(session: &Session) -> Result<Backend> {
    // The start time is converted by `to_json` to ISO 8601, because this session has the job's
    // DateStyle, and the control session reads the time under another DateStyle.
    const WHO: &str = "
select a.pid, pg_catalog.to_json(a.backend_start) operator(pg_catalog.#>>) '{}', backfill._server_identity()
from pg_catalog.pg_stat_activity a where a.pid = pg_catalog.pg_backend_pid()";
    let row = session.bounded_ours(CONTROL_LIMIT, session.client.query_one(WHO, &[])).await?;
    let pid: i32 = row.read(0)?;
    // `session.pid` is the server process that the session had when it was opened. If the process
    // has changed, the connection goes through a pooler.
    if session.pid.is_some_and(|opened| opened != pid) {
        return Err(pooler::error(Kind::Pooled));
    }
    Ok(Backend { pid, started: row.read(1)?, server: row.read(2)? })
}

/// Whether a session is idle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Activity {
    /// The session has ended, or waits for its client.
    Idle {
        /// Time at which this state began; empty if the session has ended.
        since: String,
    },
    /// The session is running a statement, or the login may not see the state of the session.
    Unknown,
}

/// Reads the state of the session with the process ID `pid`.
pub async fn activity(control: &Control, pid: i32) -> Result<Activity> {
    const SQL: &str = "
select coalesce(pg_catalog.max(case when a.state like 'idle%' then a.state_change::text end), case when pg_catalog.count(*) = 0 then '' end)
from pg_catalog.pg_stat_activity a where a.pid = $1";
    let idle: Option<String> = control.query_one(SQL, &[&pid]).await?.read(0)?;
    Ok(idle.map_or(Activity::Unknown, |since| Activity::Idle { since }))
}

/// Returns the settings of a recipe, without `search_path`.
fn of(recipe: &Recipe<'_>) -> Vec<(&'static str, String)> {
    let millis = |duration: Duration| duration.as_millis().to_string();
    let settings = recipe.settings;
    let mut pins: Vec<(&'static str, String)> = vec![
        ("exit_on_error", "off".to_owned()),
        ("client_encoding", "UTF8".to_owned()),
        ("extra_float_digits", "3".to_owned()),
        ("bytea_output", "hex".to_owned()),
        ("standard_conforming_strings", "on".to_owned()),
        ("backslash_quote", "safe_encoding".to_owned()),
        ("transform_null_equals", "off".to_owned()),
        ("array_nulls", "on".to_owned()),
        ("xmloption", "content".to_owned()),
        ("quote_all_identifiers", "off".to_owned()),
        ("row_security", "off".to_owned()),
        ("jit", "off".to_owned()),
        // Otherwise the queries in the functions of the job could start parallel workers for each
        // row.
        ("max_parallel_workers_per_gather", "0".to_owned()),
        ("synchronous_commit", "off".to_owned()),
        ("default_transaction_isolation", recipe.isolation.sql().to_owned()),
        ("default_transaction_read_only", "off".to_owned()),
        ("default_transaction_deferrable", "off".to_owned()),
        ("statement_timeout", millis(recipe.statement_timeout)),
        ("lock_timeout", millis(recipe.lock_timeout)),
        ("idle_in_transaction_session_timeout", "1000".to_owned()),
        ("idle_session_timeout", "0".to_owned()),
    ];
    for (name, value) in [
        ("TimeZone", &settings.time_zone),
        ("DateStyle", &settings.date_style),
        ("IntervalStyle", &settings.interval_style),
    ] {
        if let Some(value) = value {
            pins.push((name, value.clone()));
        }
    }
    if recipe.plans != Plans::Any {
        // The server estimates that the bound of a batch on a composite key selects a third of the
        // table. Without these settings the server may choose a plan that reads the whole table
        // (P14).
        pins.extend([("enable_seqscan", "off".to_owned()), ("enable_bitmapscan", "off".to_owned())]);
    }
    if recipe.plans == Plans::IndexInOrder {
        pins.extend([("enable_sort", "off".to_owned()), ("enable_incremental_sort", "off".to_owned())]);
    }
    pins
}

const DEADLOCK_TIMEOUT: &str = "
select least(
  (select setting::bigint from pg_catalog.pg_settings where name = 'deadlock_timeout'),
  (select min(extract(epoch from v.value::interval) * 1000)::bigint
     from pg_catalog.pg_db_role_setting s, unnest(s.setconfig) c,
          lateral (select case when split_part(c, '=', 2) ~ '^[0-9]+$' then split_part(c, '=', 2) || ' ms' else split_part(c, '=', 2) end) v(value)
    where c like 'deadlock_timeout=%'))";

/// Returns the maximum duration of a batch: 70 % of the smallest `deadlock_timeout` that is set for
/// this session, a role or a database. The result is at least 20 ms and at most 2 s. In a deadlock
/// with a session of the application, the batch therefore usually ends before the server cancels
/// the statement of the application (P16).
pub async fn batch_limit(control: &Control) -> Result<Duration> {
    let millis: i64 = control.query_one(DEADLOCK_TIMEOUT, &[]).await?.read(0)?;
    Ok(Duration::from_millis(u64::try_from(millis).unwrap_or(1000) * 7 / 10)
        .clamp(Duration::from_millis(20), Duration::from_secs(2)))
}
