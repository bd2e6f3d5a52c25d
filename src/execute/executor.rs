//! The connection of one claim. It is opened for the claim, set up under the job's settings, and never used for
//! another job: settings, locks and temporary objects of one job's code must not reach the next.

use std::time::Duration;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};
use crate::execute::statement::{self, Passage};
use crate::fault;
use crate::job::claim::{Checkpoint, Claim, Desired, Outcome};
use crate::job::plan::{Isolation, Plan};
use crate::key::{Batch, Key};
use crate::pg::cancel::Cancelled;
use crate::pg::connect::{Session, within};
use crate::pg::pools::Logins;
use crate::pg::session::{self, Recipe};

/// Beyond the server's own statement_timeout: then the network is at fault.
const NETWORK_MARGIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Executor {
    session: Session,
    plan: Plan,
    passage: Passage,
    /// For a batch from the start of the table, and for one after a key.
    first: Option<Statement>,
    after: Option<Statement>,
    limit: Duration,
    place: String,
}

impl Executor {
    /// Opens the claim's connection and sets it up for walking under the job's settings. `limit` is what one batch may
    /// take, `lock_wait` what it may wait for one lock.
    pub async fn open(
        logins: &Logins,
        claim: &Claim,
        plan: &Plan,
        passage: Passage,
        limit: Duration,
        lock_wait: Duration,
    ) -> Result<Self> {
        let recipe = Recipe {
            settings: &claim.settings,
            isolation: plan.isolation,
            statement_timeout: limit,
            lock_timeout: lock_wait.min(limit),
            walking: true,
        };
        let session = session::open(logins, claim, &recipe).await?;
        let (plan, place) = (plan.clone(), claim.checkpoint.place.clone());
        Ok(Self { session, plan, passage, first: None, after: None, limit: limit + NETWORK_MARGIN, place })
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Forgets the prepared statements: the table has changed under them.
    pub fn forget_statements(&mut self) {
        self.first = None;
        self.after = None;
    }

    async fn statement(&mut self, from_start: bool) -> Result<Statement> {
        let kept = if from_start { &mut self.first } else { &mut self.after };
        if let Some(statement) = kept {
            return Ok(statement.clone());
        }
        let sql = statement::batch(&self.plan, &self.passage, from_start);
        let made = within(self.limit, self.session.client.prepare(&sql)).await?;
        Ok(kept.insert(made).clone())
    }

    /// Commits one batch, or changes nothing. An error from the server means that it is not committed;
    /// [`Kind::ConnectionLost`] means that nobody knows. `hard` cancels it; it may have committed just before.
    pub async fn run(&mut self, claim: &Claim, batch: &Batch, hard: &CancellationToken) -> Result<Outcome> {
        let statement = self.statement(batch.from.is_none()).await?;
        let from = batch.from.as_ref().map(|key| &key.0);
        let rows = i64::from(batch.rows);
        let values: [&(dyn ToSql + Sync); 6] =
            [&claim.slice_id, &claim.token, &self.place, &from, &rows, &batch.upper.0];
        fault::point("before_batch")?;
        let answer = self.answer(claim, batch, &statement, &values, hard).await?;
        fault::point("after_batch")?;
        let row = answer
            .first()
            .ok_or_else(|| Error::new(Kind::Internal, "a batch committed without an answer of its checkpoint"))?;
        let outcome = read(row);
        self.place.clone_from(&outcome.checkpoint.place);
        Ok(outcome)
    }

    /// The batch's answer; or, after a hard stop, what became of it.
    async fn answer(
        &self,
        claim: &Claim,
        batch: &Batch,
        statement: &Statement,
        values: &[&(dyn ToSql + Sync)],
        hard: &CancellationToken,
    ) -> Result<Vec<Row>> {
        let mut answer = std::pin::pin!(self.send(claim, batch, statement, values));
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            () = hard.cancelled() => match self.session.cancel().await {
                Cancelled::Settled => answer.await,
                Cancelled::Unsettled => Err(Error::new(Kind::ConnectionLost, "a batch could not be cancelled")),
            },
        }
    }

    async fn send(
        &self,
        claim: &Claim,
        batch: &Batch,
        statement: &Statement,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        match self.plan.isolation {
            _ if fault::active("checkpoint_apart") => self.run_apart(claim, batch).await,
            Isolation::ReadCommitted => within(self.limit, self.session.client.query(statement, values)).await,
            Isolation::RepeatableRead => self.run_locked(statement, values).await,
        }
    }

    /// REPEATABLE READ takes its snapshot before it waits for the table's lock, and would not see what an ALTER TABLE
    /// did meanwhile (it may even see the table empty). So: lock, then snapshot; all of it in one round trip.
    async fn run_locked(&self, statement: &Statement, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        let client = &self.session.client;
        let begin = format!("begin; lock table only {} in row exclusive mode", self.plan.target);
        let all = async {
            let (begun, answer, ended) = tokio::join!(
                client.batch_execute(&begin),
                client.query(statement, values),
                client.batch_execute("commit")
            );
            begun?;
            let answer = answer?;
            ended?;
            Ok(answer)
        };
        within(self.limit, all).await
    }

    /// The negative control of the exactly-once tests: rows and checkpoint in two transactions. It exists where named
    /// faults do, and shows that those tests can fail.
    async fn run_apart(&self, claim: &Claim, batch: &Batch) -> Result<Vec<Row>> {
        let client = &self.session.client;
        let sql = statement::batch(&self.plan, &self.passage, batch.from.is_none());
        let rows_only = sql.split("\nselect a.at_place").next().unwrap_or_default();
        let key_and_counts =
            sql.split("from (select array").nth(1).and_then(|rest| rest.split(") s\n").next()).unwrap_or_default();
        let first = format!(
            "{rows_only}\nselect s.key, s.scanned, s.changed, s.done from (select array{key_and_counts}) s
             where $1::pg_catalog.int8 is not null and $2::pg_catalog.uuid is not null and $3::pg_catalog.text is not null and ($4::pg_catalog.text[] is null or true)"
        );
        let from = batch.from.as_ref().map(|key| &key.0);
        let rows = i64::from(batch.rows);
        let changed = within(
            self.limit,
            client.query_one(&first, &[&claim.slice_id, &claim.token, &self.place, &from, &rows, &batch.upper.0]),
        )
        .await?;
        fault::point("between_rows_and_checkpoint")?;
        let (key, scanned, count, done) = (
            changed.get::<_, Vec<String>>(0),
            changed.get::<_, i64>(1),
            changed.get::<_, i64>(2),
            changed.get::<_, bool>(3),
        );
        let second = "select a.at_place, a.desired, a.revision, $5::pg_catalog.text[] as key, $6::pg_catalog.int8 as scanned, $7::pg_catalog.int8 as changed, $8::pg_catalog.bool as done, 0::pg_catalog.float8 as took
            from backfill.advance($1, $2, $3::pg_catalog.text::pg_catalog.tid, $4, $5, $6, $7, 0, $8) a";
        within(
            self.limit,
            client.query(second, &[&claim.slice_id, &claim.token, &self.place, &from, &key, &scanned, &count, &done]),
        )
        .await
    }
}

fn read(row: &Row) -> Outcome {
    let count = |column: &str| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
    Outcome {
        checkpoint: Checkpoint {
            position: Some(Key(row.get("key"))),
            done: row.get("done"),
            place: row.get("at_place"),
        },
        scanned: count("scanned"),
        changed: count("changed"),
        // The server's clock may step back.
        took: Duration::try_from_secs_f64(row.get("took")).unwrap_or_default(),
        desired: Desired::read(row.get("desired")),
        revision: row.get("revision"),
    }
}
