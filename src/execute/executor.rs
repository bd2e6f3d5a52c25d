//! Runs the batches of one claim. Each claim has its own session, which has the job's settings and
//! is never used for another job. Otherwise settings, locks and temporary objects from one job's
//! code could affect the next job.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::types::{Json, ToSql};
use tokio_postgres::{Row, Statement};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};
use crate::execute::answer::{outcome, read, retried};
use crate::execute::bounds::{Bounds, why_cancelled};
use crate::execute::guard::Guard;
use crate::execute::standby::Standby;
use crate::execute::statement::apart;
use crate::execute::statement::batch::{self as batch_statement, BatchKind};
use crate::execute::statement::deferred;
use crate::execute::statement::since;
use crate::execute::statement::table::Table;
use crate::execute::written::Ledger;
use crate::failpoint;
use crate::job::batch::{Batch, BatchMode, Outcome, RetryOutcome};
use crate::job::checkpoint::Checkpoint;
use crate::job::claim::{Claim, DeferredRow};
use crate::job::plan::{Isolation, Plan};
use crate::key::Key;
use crate::metrics::Written;
use crate::pg::cancel::Cancelled;
use crate::pg::connect::Session;
use crate::pg::control::Control;
use crate::pg::ident::ascii_literal;
use crate::pg::pins::UNLOCK;
use crate::pg::pools::Logins;
use crate::pg::row::{self, Columns};
use crate::pg::session::{self, Plans, Recipe};

/// Keeps the claim's fencing token out of error messages. If log_parameter_max_length_on_error is
/// not 0, the server adds a statement's parameters to the context of an error. The job's own code
/// can change the setting and read this context. With the token, that code could advance the
/// checkpoint of its slice. So the daemon runs this SET command before it sends a statement that
/// contains the token. The server uses the value that is in effect when the parameters arrive.
const UNSEEN: &str = "set log_parameter_max_length_on_error = 0";

#[derive(Debug)]
pub struct Executor {
    session: Session,
    plan: Plan,
    kind: BatchKind,
    prepared: Option<Prepared>,
    lenience: Lenience,
    bounds: Bounds,
    /// `statement_timeout` of the next statement.
    limit: Duration,
    guard: Guard,
    ledger: Ledger,
    /// The standby that reads the rows of a verification.
    standby: Option<Standby>,
}

#[derive(Debug, Default)]
struct Lenience {
    /// See [`Table::lenient`].
    lenient: bool,
    /// The plan that replaces the executor's plan when `lenient` changes. Only a sweep has two
    /// plans.
    other_plan: Option<Plan>,
}

/// Holds the prepared statements of batches, and the properties that the table had when the
/// statements were prepared.
#[derive(Debug)]
struct Prepared {
    table: Table,
    batches: HashMap<(BatchMode, bool), Statement>,
}

impl Executor {
    /// Opens the claim's session with the job's settings.
    pub async fn open(
        logins: &Logins,
        claim: &Claim,
        plan: &Plan,
        kind: BatchKind,
        bounds: Bounds,
        guard: Guard,
    ) -> Result<Self> {
        let session = open(logins, claim, plan, bounds).await?;
        let plan = plan.clone();
        let limit = bounds.batch;
        Ok(Self {
            session,
            plan,
            kind,
            prepared: None,
            lenience: Lenience::default(),
            bounds,
            limit,
            guard,
            ledger: Ledger::default(),
            standby: None,
        })
    }

    /// From now on, reads the rows of a verification on a standby, if one is configured and can be
    /// used.
    pub async fn use_standby(&mut self, logins: &Logins, control: &Control, claim: &Claim) {
        if !logins.database().verify_on.is_empty() && matches!(self.kind, BatchKind::Count { .. }) {
            self.standby = Standby::open(logins, control, claim, &recipe(claim, &self.plan, self.bounds)).await;
        }
    }

    /// Counts the `rows` that a batch changed. If a measurement is due, measures what the session
    /// wrote. A failed measurement does not stop the job.
    pub async fn written(&mut self, rows: u64) -> Option<Written> {
        if self.ledger.add(rows) { self.written_until_now().await } else { None }
    }

    /// At the end of a claim, measures what the session wrote, even if no measurement is due.
    /// Returns none if no rows have been changed since the last measurement.
    pub async fn written_at_last(&mut self) -> Option<Written> {
        if self.ledger.is_open() { self.written_until_now().await } else { None }
    }

    async fn written_until_now(&mut self) -> Option<Written> {
        let asked = self.ledger.ask(&self.session, self.plan.relation, self.limit).await;
        if let Err(error) = &asked {
            tracing::debug!(error = %error.message, "could not read the statistics of an executor session");
        }
        asked.ok()
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Sets the time limits of the following statements.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        if self.bounds != bounds {
            self.bounds = bounds;
            self.session.set("lock_timeout", bounds.lock_wait().as_millis().to_string());
        }
    }

    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Sets the time limit of the next statement, which works on this many rows.
    fn limit_for(&mut self, rows: usize) {
        let limit = self.bounds.limit(rows);
        if self.limit != limit {
            self.limit = limit;
            self.session.set("statement_timeout", limit.as_millis().to_string());
        }
    }

    /// Returns how long a failed statement kept the server busy. `took` is the time until it
    /// failed. If the statement failed because of a lock timeout, its wait for the lock does not
    /// count.
    pub fn busy(&self, error: &Error, took: Duration) -> Duration {
        if error.kind == Kind::LockTimeout { took.saturating_sub(self.bounds.lock_wait()) } else { took }
    }

    /// Prepares for a sweep of a job that was planned at the snapshot `since` (a `pg_snapshot`).
    pub fn sweep_since(&mut self, since: &str) {
        self.lenience.other_plan = Some(since::of_lenient_sweep(&self.plan, since));
    }

    pub fn is_lenient(&self) -> bool {
        self.lenience.lenient
    }

    /// Sets whether the following statements skip the filter for rows that were changed; see
    /// [`Table::lenient`].
    pub fn set_lenient(&mut self, lenient: bool) {
        if self.lenience.lenient != lenient {
            self.lenience.lenient = lenient;
            if let Some(other) = &mut self.lenience.other_plan {
                std::mem::swap(&mut self.plan, other);
            }
            self.prepared = None;
        }
    }

    /// Forgets the prepared statements, so that they are prepared again. The properties of the
    /// table are then read again, too.
    pub fn forget_statements(&mut self) {
        self.prepared = None;
    }

    async fn prepared(&mut self) -> Result<&mut Prepared> {
        const TABLE: &str = "
select backfill.suppressible($1::pg_catalog.oid),
       exists (select from pg_catalog.pg_trigger t join pg_catalog.pg_proc p on p.oid = t.tgfoid
                where t.tgrelid = $1 and t.tgtype & 3 = 3 and p.prosrc operator(pg_catalog.~*) '[[:<:]]return[[:space:]]+old[[:>:]]'),
       exists (select from pg_catalog.pg_index i join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
                where i.indrelid = $1 and i.indisunique and i.indimmediate and i.indpred is null and i.indexprs is null and a.attname = any ($2::pg_catalog.text[]))";
        if self.prepared.is_none() {
            let assigned: Vec<&str> =
                self.plan.assignments.iter().flat_map(|a| a.columns.iter().map(String::as_str)).collect();
            let values: [&(dyn ToSql + Sync); 2] = [&self.plan.relation, &assigned];
            let row = self.session.bounded_ours(self.limit, self.session.client.query_one(TABLE, &values)).await?;
            let table = Table {
                suppressible: row.read(0)?,
                returns_old: row.read(1)?,
                keys_change: row.read(2)?,
                lenient: self.lenience.lenient,
            };
            self.prepared = Some(Prepared { table, batches: HashMap::new() });
        }
        self.prepared.as_mut().ok_or_else(|| Error::new(Kind::Internal, "no prepared statements"))
    }

    async fn table(&mut self) -> Result<Table> {
        Ok(self.prepared().await?.table)
    }

    /// Prepares a statement. An error in the statement or a missing privilege becomes
    /// [`Kind::Refused`], because no row is involved yet.
    async fn prepare(&self, sql: &str) -> Result<Statement> {
        let made = self.session.bounded(self.limit, self.session.client.prepare(sql)).await;
        made.map_err(|error| match error.kind {
            Kind::Statement | Kind::Permission => Error { kind: Kind::Refused, ..error },
            _ => error,
        })
    }

    async fn statement(&mut self, mode: BatchMode, from_start: bool) -> Result<Statement> {
        let prepared = self.prepared().await?;
        if let Some(statement) = prepared.batches.get(&(mode, from_start)) {
            return Ok(statement.clone());
        }
        let table = prepared.table;
        let sql = batch_statement::batch(&self.plan, &self.kind, table, mode, from_start);
        let made = self.prepare(&sql).await?;
        self.prepared().await?.batches.insert((mode, from_start), made.clone());
        Ok(made)
    }

    /// Runs one batch, which either commits or changes nothing. An error from the server means that
    /// the batch is not committed. [`Kind::ConnectionLost`], [`Kind::Unanswered`] and
    /// [`Kind::Overrun`] mean that the outcome may be unknown.
    /// `hard` cancels the batch, unless the batch has just committed.
    pub async fn run(&mut self, claim: &Claim, batch: &Batch, hard: &CancellationToken) -> Result<Outcome> {
        self.limit_for(batch.rows.try_into().unwrap_or(usize::MAX));
        let statement = self.statement(batch.mode, batch.from().is_none()).await?;
        let from = batch.from().map(|key| &key.0);
        let rows = i64::from(batch.rows);
        let values: [&(dyn ToSql + Sync); 6] =
            [&claim.slice_id, &claim.token, &batch.checkpoint.ctid, &from, &rows, &batch.upper.0];
        failpoint::point("before_batch")?;
        #[cfg(any(debug_assertions, feature = "failpoint"))]
        if failpoint::active("checkpoint_apart") {
            return outcome(&self.run_apart(claim, batch).await?);
        }
        if let Some(answer) = Box::pin(self.run_on_standby(claim, batch, hard)).await? {
            return outcome(&answer);
        }
        let answer = Box::pin(self.answer(&statement, &values, hard)).await?;
        failpoint::point("after_batch")?;
        outcome(&answer)
    }

    /// Returns the key of the batch's first row, if there is one.
    pub async fn next_key(&self, batch: &Batch) -> Result<Option<Key>> {
        let sql = deferred::next_key(&self.plan, batch.from().is_none());
        let from = batch.from().map(|key| &key.0);
        let row =
            self.session.bounded(self.limit, self.session.client.query_opt(&sql, &[&from, &batch.upper.0])).await?;
        row.map_or(Ok(None), |row| row::key(&row, 0))
    }

    /// Sleeps for `time` in the session, in a statement whose text names the table. A tool that
    /// terminates the statements on this table then also terminates this statement.
    ///
    /// # Errors
    /// [`Kind::ConnectionLost`] if the session was terminated in the meantime.
    pub async fn survives(&mut self, time: Duration) -> Result<()> {
        self.limit = time + Duration::from_secs(1);
        self.session.set("statement_timeout", self.limit.as_millis().to_string());
        let place = ascii_literal(&format!("instead of an update of {}", self.plan.target));
        let sleep = format!("select pg_catalog.pg_sleep({}), {place}", time.as_secs_f64());
        self.session.bounded_ours(self.limit, self.session.client.batch_execute(&sleep)).await
    }

    /// Checks that no other session holds a table lock that blocks every change to the table's
    /// rows.
    ///
    /// # Errors
    /// [`Kind::LockTimeout`] if another session holds such a lock, or waits for one, for longer
    /// than `lock_timeout`.
    pub async fn table_is_free(&self) -> Result<()> {
        let sql = format!("begin; lock table only {} in row exclusive mode; commit", self.plan.target);
        let answer = self.session.bounded(self.limit, self.session.client.batch_execute(&sql)).await;
        self.leave_transaction(&answer).await?;
        answer
    }

    /// Rolls back if the last statement of a transaction failed. A cancel request that arrives late
    /// can cancel the commit itself, and the transaction then stays open. Without the rollback, all
    /// later statements of the session would fail, and so would the job.
    async fn leave_transaction(&self, ended: &Result<()>) -> Result<()> {
        if !ended.as_ref().is_err_and(|error| error.sqlstate.is_some()) {
            return Ok(());
        }
        let client = &self.session.client;
        let statements =
            async { tokio::join!(biased; client.batch_execute("rollback"), client.batch_execute(UNLOCK)).0 };
        let left = self.session.bounded_unpinned(self.limit, statements).await;
        left.map_err(|error| Error { kind: Kind::ConnectionLost, ..error.context("could not roll back a transaction") })
    }

    /// Moves past the first row of the batch without changing it. `key` is the key of this row. If
    /// `error` is given, the row is quarantined. Otherwise the row is deferred, because another
    /// session has locked it or waits for it. Returns none if the row no longer exists, or if
    /// another row now precedes it.
    pub async fn skip_row(
        &mut self,
        claim: &Claim,
        batch: &Batch,
        key: &Key,
        error: Option<&Error>,
    ) -> Result<Option<Outcome>> {
        // The statement changes no row of the table.
        self.limit_for(0);
        let table = self.table().await?;
        let sql = deferred::skip_row(&self.plan, table, batch.from().is_none());
        let from = batch.from().map(|key| &key.0);
        let (sqlstate, message) = described(error);
        let values: [&(dyn ToSql + Sync); 7] =
            [&claim.slice_id, &claim.token, &batch.checkpoint.ctid, &from, &sqlstate, &key.0, &message];
        failpoint::point("before_skip_row")?;
        let statement = self.prepare(&sql).await?;
        let rows = self.guarded(&statement, &values).await?;
        failpoint::point("after_skip_row")?;
        rows.first().map(read).transpose()
    }

    /// Retries deferred rows. Rows that are still locked stay deferred. `hard` cancels the retry,
    /// unless it has just committed.
    pub async fn retry_deferred(
        &mut self,
        claim: &Claim,
        checkpoint: &Checkpoint,
        rows: &[DeferredRow],
        hard: &CancellationToken,
    ) -> Result<RetryOutcome> {
        self.limit_for(rows.len());
        let table = self.table().await?;
        let sql = deferred::retry_deferred_rows(&self.plan, table);
        let asked: Vec<serde_json::Value> =
            rows.iter().map(|row| serde_json::json!({"id": row.id, "key": row.key})).collect();
        let values: [&(dyn ToSql + Sync); 4] =
            [&claim.slice_id, &claim.token, &checkpoint.ctid, &Json(serde_json::Value::Array(asked))];
        failpoint::point("before_retry_deferred")?;
        let statement = self.prepare(&sql).await?;
        let answer = Box::pin(self.answer(&statement, &values, hard)).await?;
        failpoint::point("after_retry_deferred")?;
        retried(&answer)
    }

    /// Quarantines a deferred row that cannot be changed.
    pub async fn quarantine_deferred(
        &mut self,
        claim: &Claim,
        checkpoint: &Checkpoint,
        row: &DeferredRow,
        error: &Error,
    ) -> Result<RetryOutcome> {
        let sql = deferred::quarantine_deferred(&self.plan);
        let (sqlstate, message) = described(Some(error));
        let values: [&(dyn ToSql + Sync); 7] =
            [&claim.slice_id, &claim.token, &checkpoint.ctid, &row.id, &row.key.0, &sqlstate, &message];
        let statement = self.prepare(&sql).await?;
        let answer = self.run_at_once(&statement, &values).await?;
        retried(&answer)
    }

    /// Runs the batch and returns its result rows. After a hard stop, cancels the batch and returns
    /// the result of the cancelled statement. If the cancel request cannot be completed, the
    /// connection counts as lost.
    async fn answer(
        &self,
        statement: &Statement,
        values: &[&(dyn ToSql + Sync)],
        hard: &CancellationToken,
    ) -> Result<Vec<Row>> {
        let mut answer = std::pin::pin!(self.guarded(statement, values));
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            () = hard.cancelled() => match self.session.cancel().await {
                Cancelled::Settled => self.session.settled(self.limit, answer).await,
                Cancelled::Unsettled => Err(Error::new(Kind::Unanswered, "could not cancel a batch")),
            },
        }
    }

    /// Runs a statement that changes rows. If another session waits too long for the statement, the
    /// statement is cancelled.
    async fn guarded(&self, statement: &Statement, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        let run = async {
            match self.plan.isolation {
                Isolation::ReadCommitted => self.run_at_once(statement, values).await,
                Isolation::RepeatableRead => self.run_locked(statement, values).await,
            }
        };
        let Some(pid) = self.session.pid() else { return run.await };
        let started = Instant::now();
        let mut watched = self.guard.watch(pid, self.bounds.patience(), self.limit);
        let mut run = std::pin::pin!(run);
        let answer = tokio::select! {
            biased;
            answer = &mut run => answer,
            victims = watched.in_the_way() => match self.session.cancel().await {
                // The statement may have committed just before the cancel request arrived.
                Cancelled::Settled => self.session.settled(self.limit, run).await.map_err(|error| match error.kind {
                    Kind::Cancelled => victims.error("the batch"),
                    _ => error,
                }),
                Cancelled::Unsettled => Err(Error::new(Kind::Unanswered, "could not cancel a batch that blocks another session")),
            },
        };
        answer.map_err(|error| why_cancelled(error, started.elapsed(), self.limit, watched.answering()))
    }

    /// Sets the settings on which the next statement depends. The next statement is sent only after
    /// the settings have been set. If both were sent in one round trip, another session of the job
    /// could cancel only the part that sets them, and the statement would run without the settings.
    async fn settle_settings(&self) -> Result<()> {
        let client = &self.session.client;
        let (unseen, set) = tokio::join!(biased; client.batch_execute(UNSEEN), self.session.apply_settings());
        unseen.map_err(Error::from).and(set)
    }

    /// Runs one statement as a transaction of its own.
    async fn run_at_once(&self, statement: &Statement, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        let client = &self.session.client;
        let all = async {
            self.settle_settings().await?;
            let (answer, _) = tokio::join!(biased; client.query(statement, values), client.batch_execute(UNLOCK));
            answer.map_err(Error::from)
        };
        let (answer, _) = self.session.or_cancelled(self.limit, all).await?;
        answer.map_err(Error::disbelieved)
    }

    /// Locks the table, then runs the statement. A single statement at REPEATABLE READ would take
    /// its snapshot before it waits for the table's lock. The statement would not see the result of
    /// an ALTER TABLE that commits during the wait, and could even see an empty table. So the
    /// daemon sends a LOCK TABLE before the statement, in the same round trip.
    async fn run_locked(&self, statement: &Statement, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        let client = &self.session.client;
        let begin = format!("begin; lock table only {} in row exclusive mode", self.plan.target);
        let all = async {
            self.settle_settings().await?;
            Ok(tokio::join!(
                biased;
                client.batch_execute(&begin),
                client.query(statement, values),
                client.batch_execute("commit"),
                client.batch_execute(UNLOCK)
            ))
        };
        let (sent, _) = self.session.or_cancelled(self.limit, all).await?;
        let (begun, answer, ended, _) = sent.map_err(Error::disbelieved)?;
        let ended = ended.map_err(Error::from);
        self.leave_transaction(&ended).await?;
        match (begun.map_err(Error::from), answer.map_err(|error| Error::from(error).disbelieved())) {
            // The cancel request cancelled the statements before the batch (BEGIN and LOCK), and
            // the batch committed as a transaction of its own. The error is reported as a lost
            // connection, so that the next claim reads the checkpoint again.
            (Err(error), Ok(_)) => Err(Error { kind: Kind::ConnectionLost, ..error }),
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(()), Ok(answer)) => ended.map(|()| answer),
        }
    }

    /// Reads the rows of a batch on the standby, then advances the checkpoint on the primary.
    /// Returns none if there is no standby, or if it could not read the rows. The primary then
    /// reads them, and decides what an error means.
    async fn run_on_standby(
        &mut self,
        claim: &Claim,
        batch: &Batch,
        hard: &CancellationToken,
    ) -> Result<Option<Vec<Row>>> {
        let Some(mut standby) = self.standby.take() else { return Ok(None) };
        let table = self.table().await?;
        let reading = Box::pin(standby.read(&self.plan, &self.kind, table, batch, self.limit));
        let read = match hard.run_until_cancelled(reading).await {
            Some(Ok(read)) => read,
            Some(Err(error)) => {
                tracing::info!(standby = standby.name(), error = %error.message, "could not verify rows on the standby; verifying them on the primary");
                return Ok(None);
            }
            None => return Ok(None),
        };
        self.standby = Some(standby);
        self.advance_apart(claim, batch, &read, Some((&self.plan, table))).await.map(Some)
    }

    /// Commits the rows and the checkpoint in two transactions; see [`apart`].
    #[cfg(any(debug_assertions, feature = "failpoint"))]
    async fn run_apart(&self, claim: &Claim, batch: &Batch) -> Result<Vec<Row>> {
        let client = &self.session.client;
        let from = batch.from().map(|key| &key.0);
        let rows = apart::rows(&self.plan, &self.kind, Table::default(), from.is_none());
        let asked: [&(dyn ToSql + Sync); 3] = [&from, &i64::from(batch.rows), &batch.upper.0];
        let changed = self.session.bounded(self.limit, client.query_one(&rows, &asked)).await?;
        failpoint::point("between_rows_and_checkpoint")?;
        self.advance_apart(claim, batch, &changed, None).await
    }

    /// Advances the checkpoint of a batch whose rows another statement has processed. `done` is the
    /// result of this statement; see [`apart`].
    async fn advance_apart(
        &self,
        claim: &Claim,
        batch: &Batch,
        done: &Row,
        checked: Option<(&Plan, Table)>,
    ) -> Result<Vec<Row>> {
        let from = batch.from().map(|key| &key.0);
        let key = row::key(done, "key")?.unwrap_or_else(|| batch.upper.clone()).0;
        let counts: [i64; 3] = [done.read("scanned")?, done.read("changed")?, done.read("unresolved")?];
        let (is_last, took): (bool, f64) = (done.read("done")?, done.read("took")?);
        let values: [&(dyn ToSql + Sync); 10] = [
            &claim.slice_id,
            &claim.token,
            &batch.checkpoint.ctid,
            &from,
            &key,
            &counts[0],
            &counts[1],
            &counts[2],
            &is_last,
            &took,
        ];
        let sql = apart::checkpoint(checked);
        self.session.bounded(self.limit, self.session.client.query(&sql, &values)).await
    }
}

async fn open(logins: &Logins, claim: &Claim, plan: &Plan, bounds: Bounds) -> Result<Session> {
    session::open(logins, claim, &recipe(claim, plan, bounds)).await
}

fn recipe<'a>(claim: &'a Claim, plan: &Plan, bounds: Bounds) -> Recipe<'a> {
    Recipe {
        settings: &claim.settings,
        isolation: plan.isolation,
        statement_timeout: bounds.batch,
        lock_timeout: bounds.lock_wait(),
        plans: Plans::along(&plan.key),
    }
}

/// Returns the SQLSTATE and the message of the error, or neither if the row is only deferred.
fn described(error: Option<&Error>) -> (Option<String>, Option<String>) {
    error.map(|error| (error.sqlstate.clone().unwrap_or_else(|| "XX000".to_owned()), error.message.clone())).unzip()
}
