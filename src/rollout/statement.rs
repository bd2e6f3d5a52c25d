//! Runs one statement of a rollout in a session of the table's owner.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::job::rollout::{Lock, Step};
use crate::pg::connect::{Session, within};
use crate::pg::control::Control;
use crate::pg::ident::ascii_literal;
use crate::pg::pools::{CONTROL_LIMIT, Logins};
use crate::rollout::queue;

/// Maximum time that a statement may hold a lock that blocks the application. Such a statement
/// changes only the catalog, so it normally takes much less time. It reaches the limit only if it
/// runs the user's code, for example a function in a column's default.
const HOLD: Duration = Duration::from_millis(500);
/// Maximum time to wait until the autovacuums of the table and its partitions have ended. The
/// server cancels an autovacuum only after `deadlock_timeout`, usually 1 s (P18).
const AUTOVACUUM: Duration = Duration::from_secs(5);
/// Maximum time to wait for a moment at which no older transaction uses the table, and the time
/// between two checks. This wait blocks no other session.
const QUIET: Duration = Duration::from_secs(5);
const CHECK_QUIET: Duration = Duration::from_millis(50);
/// Maximum time to wait for the server's answer to a short statement.
const SHORT: Duration = Duration::from_secs(20);

const SETTINGS: &str = "
set exit_on_error = off;
set synchronous_commit = on;
set default_transaction_isolation = 'read committed';
set default_transaction_read_only = off;
set idle_in_transaction_session_timeout = '20s';
set idle_session_timeout = 0;
select pg_catalog.set_config(s.name, '0', false) from pg_catalog.pg_settings s where s.name = 'transaction_timeout'";
/// Makes the server notice during a statement that the daemon's connection is gone. On operating
/// systems that do not support this check, the server rejects the setting.
const NOTICE_DEAD_CLIENT: &str = "set client_connection_check_interval = '500ms'";

/// Runs deferred triggers now. The user's code must not run after the statement is recorded,
/// because recording it locks the rollout until the transaction ends.
const DEFERRED: &str = "set constraints all immediate";

/// Opens the session for a statement.
pub async fn open(logins: &Logins, step: &Step) -> Result<Session> {
    let name = format!("backfilld rollout {}", step.rollout_id);
    let session = logins.open_executor(&step.run_as, &name).await?;
    within(CONTROL_LIMIT, session.client.batch_execute(SETTINGS)).await?;
    if let Err(error) = within(CONTROL_LIMIT, session.client.batch_execute(NOTICE_DEAD_CLIENT)).await
        && error.sqlstate.is_none()
    {
        return Err(error);
    }
    let settings = &step.settings;
    let path = settings.search_path.clone().unwrap_or_else(|| "pg_catalog".to_owned());
    let all = [
        ("search_path", Some(&path)),
        ("TimeZone", settings.time_zone.as_ref()),
        ("DateStyle", settings.date_style.as_ref()),
        ("IntervalStyle", settings.interval_style.as_ref()),
    ];
    for (name, value) in all {
        if let Some(value) = value {
            let sql = format!("select pg_catalog.set_config('{name}', {}, false)", ascii_literal(value));
            within(CONTROL_LIMIT, session.client.batch_execute(&sql)).await?;
        }
    }
    Ok(session)
}

/// One attempt to run the statement of a step.
pub struct Attempt<'a> {
    pub session: &'a Session,
    /// Process ID of the session.
    pub pid: i32,
    pub control: &'a Control,
    pub step: &'a Step,
    /// Maximum time to wait for a lock that blocks the application. While the statement waits for
    /// this lock, all other sessions that use the table must wait behind it.
    pub limit: Duration,
    /// Cancelled when the daemon stops.
    pub stop: &'a CancellationToken,
}

impl Attempt<'_> {
    /// Runs the statement and records it.
    pub async fn run(&self) -> Result<()> {
        let Self { session, step, .. } = self;
        let recorded =
            format!("select backfill.rollout_recorded({}, '{}', {})", step.rollout_id, step.token, step.statement_id);
        match (step.lock, step.lock.blocking()) {
            _ if step.alone => {
                let settings = "set lock_timeout = 0; set statement_timeout = 0";
                within(CONTROL_LIMIT, session.client.batch_execute(settings)).await?;
                session.client.batch_execute(&step.sql).await.map_err(Error::from)?;
                failpoint::point("rollout_before_record")?;
                within(SHORT, session.client.batch_execute(&recorded)).await
            }
            // The wait for this lock blocks neither reads nor writes, so it may last long.
            (Lock::ShareUpdateExclusive, _) => {
                let sql = format!(
                    "begin; set local lock_timeout = 0; set local statement_timeout = 0; {}; {recorded}; commit",
                    step.sql
                );
                session.client.batch_execute(&sql).await.map_err(Error::from)
            }
            (_, None) => {
                let (hold, sql) = (HOLD.as_millis(), &step.sql);
                let sql = format!("begin; set local statement_timeout = {hold}; {sql}; {DEFERRED}; {recorded}; commit");
                self.short(&sql).await
            }
            (_, Some(mode)) => {
                self.quiet().await?;
                self.short(&after_autovacuum(step)).await?;
                self.quiet().await?;
                self.short(&locked(step, mode, &recorded, self.limit)).await
            }
        }
    }

    async fn short(&self, sql: &str) -> Result<()> {
        within(SHORT, self.session.client.batch_execute(sql)).await.map_err(timed_out)
    }

    /// Waits until no transaction that has been running for longer than the limit holds a lock on
    /// the table. An attempt to lock the table would only make the application wait until such a
    /// transaction, for example a report, has ended.
    ///
    /// # Errors
    /// [`Kind::LockTimeout`] if one transaction has held its lock for the whole time of [`QUIET`].
    /// If different transactions have succeeded each other, there may never be a better moment, so
    /// the statement is attempted. [`Kind::Cancelled`] if the daemon stops.
    async fn quiet(&self) -> Result<()> {
        let end = Instant::now() + QUIET;
        let mut all_the_time: Option<HashSet<String>> = None;
        loop {
            let older = queue::older_locks(self.control, self.step, self.pid, self.limit).await?;
            if older.is_empty() {
                return Ok(());
            }
            let stayed = all_the_time.get_or_insert_with(|| older.clone());
            stayed.retain(|transaction| older.contains(transaction));
            if Instant::now() >= end {
                let error = Error::new(Kind::LockTimeout, "a transaction that uses the table has not ended");
                return if stayed.is_empty() {
                    Ok(())
                } else {
                    Err(Error { sqlstate: Some("55P03".to_owned()), ..error })
                };
            }
            tokio::select! {
                () = tokio::time::sleep(CHECK_QUIET) => {}
                () = self.stop.cancelled() => return Err(Error::new(Kind::Cancelled, "the daemon stops")),
            }
        }
    }
}

/// Returns the beginning of the transaction of a statement that takes a strong lock for a moment.
/// The first lock blocks neither reads nor writes. The server cancels an autovacuum that holds a
/// conflicting lock, and starts no new one on this table while the first lock is held.
fn after_autovacuum(step: &Step) -> String {
    let vacuum = AUTOVACUUM.as_millis();
    format!(
        "begin; set local lock_timeout = {vacuum}; set local statement_timeout = {vacuum}; \
         lock table {} in share update exclusive mode",
        step.target
    )
}

/// Returns the rest of the transaction. It is sent as one message, so that no round trip happens
/// while the lock is held.
fn locked(step: &Step, mode: &str, recorded: &str, limit: Duration) -> String {
    let Step { sql, target, statement_id, relation, .. } = step;
    let (hold, wait) = (HOLD.as_millis(), limit.as_millis());
    let tables = step.also.iter().fold(target.clone(), |all, also| format!("{all}, {also}"));
    let files = step.files.as_deref().map_or_else(|| "null".to_owned(), ascii_literal);
    let begun = format!("select backfill.rollout_begun({}, '{}', {statement_id})", step.rollout_id, step.token);
    format!(
        "{begun}; \
         set local lock_timeout = {wait}; set local statement_timeout = {wait}; \
         lock table {tables} in {mode} mode; \
         select backfill.rollout_locked({statement_id}); \
         set local statement_timeout = {hold}; \
         {sql}; \
         {DEFERRED}; \
         set local lock_timeout = 100; \
         {recorded}; \
         select backfill.rollout_unlocking({statement_id}, {relation}, {files}); \
         commit"
    )
}

/// Changes the kind of the error if the statement was cancelled, normally by its own
/// `statement_timeout`. Such an error is treated like a lock timeout.
fn timed_out(error: Error) -> Error {
    match error.kind {
        Kind::Cancelled => Error { kind: Kind::TimeLimit, ..error },
        _ => error,
    }
}
