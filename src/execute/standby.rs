//! Reads the rows of a verification on a standby, so that the verification puts less load on the
//! primary. The standby must first have replayed everything that the primary had written when the
//! claim began. All changes that the walk has made are then visible on the standby.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use crate::error::{Error, Kind, Result};
use crate::execute::statement::apart;
use crate::execute::statement::batch::BatchKind;
use crate::execute::statement::table::Table;
use crate::job::batch::Batch;
use crate::job::claim::Claim;
use crate::job::plan::Plan;
use crate::pg::connect::Session;
use crate::pg::conninfo::Place;
use crate::pg::control::Control;
use crate::pg::pools::{CONTROL_LIMIT, Logins};
use crate::pg::row::Columns;
use crate::pg::session::{self, Recipe};

/// Maximum time to wait for a standby to replay the WAL that the primary has written.
const REPLAY: Duration = Duration::from_secs(5);
/// Time between two checks of the replay position.
const POLL: Duration = Duration::from_millis(100);

/// A session on a standby.
#[derive(Debug)]
pub struct Standby {
    session: Session,
    name: String,
    statements: HashMap<bool, Statement>,
}

impl Standby {
    /// Opens a session on the first standby of `verify_on` that can be used. Returns none if no
    /// standby can be used. The rows are then read on the primary.
    pub async fn open(logins: &Logins, control: &Control, claim: &Claim, recipe: &Recipe<'_>) -> Option<Self> {
        for name in &logins.database().verify_on {
            let opened = async {
                let place = Place::parse(name).ok_or_else(|| Error::new(Kind::Config, "not a host"))?;
                let session = session::open_at(Some(&place), logins, claim, recipe).await?;
                has_replayed(&session, control).await?;
                Ok::<_, Error>(session)
            };
            match Box::pin(opened).await {
                Ok(session) => {
                    tracing::debug!(standby = name, "the verification reads the rows on a standby");
                    return Some(Self { session, name: name.clone(), statements: HashMap::new() });
                }
                Err(error) => {
                    tracing::warn!(standby = name, error = %error.message, "cannot verify on this standby; using another server");
                }
            }
        }
        None
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads the rows of a batch. The result has the columns of [`apart::rows`].
    pub async fn read(
        &mut self,
        plan: &Plan,
        kind: &BatchKind,
        table: Table,
        batch: &Batch,
        limit: Duration,
    ) -> Result<Row> {
        let from_start = batch.from().is_none();
        self.session.set("statement_timeout", limit.as_millis().to_string());
        if !self.statements.contains_key(&from_start) {
            let sql = apart::rows(plan, kind, table, from_start);
            let made = self.session.bounded(limit, self.session.client.prepare(&sql)).await?;
            self.statements.insert(from_start, made);
        }
        let statement = self.statements.get(&from_start).ok_or_else(|| Error::new(Kind::Internal, "no statement"))?;
        let from = batch.from().map(|key| &key.0);
        let values: [&(dyn ToSql + Sync); 3] = [&from, &i64::from(batch.rows), &batch.upper.0];
        self.session.bounded(limit, self.session.client.query_one(statement, &values)).await
    }
}

/// Waits until the standby has replayed the WAL that the primary has written so far.
async fn has_replayed(session: &Session, control: &Control) -> Result<()> {
    const WRITTEN: &str =
        "select pg_current_wal_insert_lsn()::text, (select c.system_identifier from pg_control_system() c)";
    const REPLAYED: &str = "
select pg_catalog.pg_is_in_recovery(), (select c.system_identifier from pg_catalog.pg_control_system() c),
       pg_catalog.pg_last_wal_replay_lsn() operator(pg_catalog.>=) $1::pg_catalog.text::pg_catalog.pg_lsn";
    let row = control.query_one(WRITTEN, &[]).await?;
    let (written, cluster): (String, i64) = (row.read(0)?, row.read(1)?);
    let deadline = Instant::now() + REPLAY;
    loop {
        let row = session.bounded_ours(CONTROL_LIMIT, session.client.query_one(REPLAYED, &[&written])).await?;
        let (is_standby, its_cluster): (bool, i64) = (row.read(0)?, row.read(1)?);
        if !is_standby || its_cluster != cluster {
            return Err(Error::new(Kind::Config, "the server is not a standby of this primary"));
        }
        if row.read::<Option<bool>>(2)? == Some(true) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let seconds = REPLAY.as_secs();
            return Err(Error::new(
                Kind::ServerUnavailable,
                format!("the standby has not replayed the WAL up to {written} within {seconds} s"),
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}
