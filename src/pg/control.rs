//! Runs the statements of the control login in sessions of a pool. If the server does not answer
//! such a statement in time, the session of the statement and the idle sessions of the pool are
//! closed, because a network failure usually affects all of them.

use std::time::Duration;

use deadpool_postgres::{Client, HookError, Pool, PoolError};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::error::{Error, Kind, Result};
use crate::pg::connect::{Session, within};
use crate::pg::pooler;
use crate::pg::pools::{CONTROL_LIMIT, Logins, close};
use crate::pg::row::Columns;

/// Time without an answer after which the daemon asks the server, in another session, whether the
/// statement is still running.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time between two such queries while the statement is running. Once the statement is no longer
/// running, its answer may still be on its way, so the daemon asks again after `CONFIRM`.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const CONFIRM: Duration = Duration::from_millis(300);

/// The control sessions of one database. All clones share one pool.
#[derive(Debug, Clone)]
pub struct Control {
    pool: Pool,
    logins: Logins,
}

impl Control {
    /// Creates a pool of at most `size` sessions.
    pub fn new(logins: &Logins, size: usize) -> Result<Self> {
        Ok(Self { pool: logins.control_pool(size)?, logins: logins.clone() })
    }

    /// Opens a session in advance. Otherwise the first statement would wait for the connection.
    pub async fn connect(&self) -> Result<()> {
        self.session().await.map(drop)
    }

    /// Returns the rows of a statement. The statement is prepared once in each session.
    ///
    /// # Errors
    /// The error of the server. [`Kind::ConnectionLost`] if no session becomes available in time,
    /// or if the server does not answer within [`CONTROL_LIMIT`], or if the server is no longer
    /// running the statement and has not answered.
    pub async fn query(&self, sql: &'static str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        let client = self.session().await?;
        let answer = async {
            let statement = client.prepare_cached(sql).await?;
            client.query(&statement, values).await
        };
        let answer = answered(&self.logins, sql, CONTROL_LIMIT, AtTheEnd::Cancel, answer).await;
        self.settled(client, answer).map_err(explained)
    }

    /// Returns the row of a statement that returns at most one row.
    pub async fn query_opt(&self, sql: &'static str, values: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>> {
        Ok(self.query(sql, values).await?.into_iter().next())
    }

    /// Returns the row of a statement that returns one row.
    pub async fn query_one(&self, sql: &'static str, values: &[&(dyn ToSql + Sync)]) -> Result<Row> {
        let none = || Error::new(Kind::Internal, "a statement of the control login returned no row");
        self.query_opt(sql, values).await?.ok_or_else(none)
    }

    /// Returns the rows of a statement that waits for a lock for at most `limit`.
    pub async fn query_unlocked(&self, sql: &'static str, limit: Duration) -> Result<Vec<Row>> {
        let mut client = self.session().await?;
        let answer = async {
            let transaction = client.transaction().await?;
            transaction.batch_execute(&format!("set local lock_timeout = {}", limit.as_millis())).await?;
            let rows = transaction.query(sql, &[]).await?;
            transaction.commit().await?;
            Ok(rows)
        };
        let answer = answered(&self.logins, sql, CONTROL_LIMIT, AtTheEnd::Cancel, answer).await;
        self.settled(client, answer)
    }

    /// Takes a session from the pool.
    async fn session(&self) -> Result<Client> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => Error::from(error),
            other => Error::new(Kind::ConnectionLost, other.to_string()),
        })
    }

    /// Closes the session and the idle sessions of the pool if the connection was lost or goes
    /// through a pooler. Otherwise returns the session to the pool.
    fn settled<T>(&self, client: Client, answer: Result<T>) -> Result<T> {
        let answer = answer.map_err(pooler::recognized);
        if answer.as_ref().is_err_and(|error| matches!(error.kind, Kind::ConnectionLost | Kind::Pooled)) {
            close(&self.pool, client);
        }
        answer
    }
}

/// Replaces the server's message about a lock timeout, which names no table. The statements of the
/// control login lock the tables of schema `backfill`, and for some of its functions, such as
/// `pg_table_size`, the server locks the table of a job.
pub fn explained(error: Error) -> Error {
    if error.kind == Kind::LockTimeout {
        let message = "another session has locked a table of schema backfill or the table of a job";
        return Error { message: message.to_owned(), ..error }.hint("To find this session, query pg_locks.");
    }
    error
}

/// Whether to cancel a statement that exceeds its time limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtTheEnd {
    /// Cancel the statement, then wait a moment longer for its answer.
    Cancel,
    /// Do not cancel the statement.
    Leave,
}

/// Waits for the answer to a statement of the control login. If the answer does not arrive, asks
/// the server in another session whether the statement is still running. This detects within
/// seconds a connection on which data no longer arrives. A statement that is still running, for
/// example because it waits for a lock, may take up to `limit`.
///
/// # Errors
/// The error of the server. [`Kind::ConnectionLost`] after `limit`, or if the server is not running
/// the statement.
pub async fn answered<T>(
    logins: &Logins,
    sql: &str,
    limit: Duration,
    at_the_end: AtTheEnd,
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    let mut answer = std::pin::pin!(answer);
    let deadline = Instant::now() + limit;
    let mut next = Instant::now() + PATIENCE;
    let mut absent = false;
    loop {
        if let Ok(answer) = timeout_at(next.min(deadline), &mut answer).await {
            return answer.map_err(Error::from);
        }
        if Instant::now() >= deadline {
            // A commit can wait for a synchronous standby indefinitely, and no timeout of the
            // server ends this wait. A cancel request ends it, and the commit then succeeds.
            if at_the_end == AtTheEnd::Cancel {
                let cancelled = timeout(PATIENCE, cancel_running(logins, sql, limit));
                tokio::select! {
                    biased;
                    answer = &mut answer => return answer.map_err(Error::from),
                    _ = cancelled => {}
                }
                if let Ok(answer) = timeout(PATIENCE, &mut answer).await {
                    return answer.map_err(Error::from);
                }
            }
            return Err(Error::new(
                Kind::ConnectionLost,
                format!("the server did not respond within {} s", limit.as_secs_f32()),
            ));
        }
        let running = tokio::select! {
            biased;
            answer = &mut answer => return answer.map_err(Error::from),
            running = timeout_at(deadline, is_running(logins, sql)) => running,
        };
        // The server may not respond to this query either. In this case, the wait continues.
        let running = !matches!(running, Ok(Ok(false)));
        if !running && absent {
            return Err(Error::new(
                Kind::ConnectionLost,
                "the answer to a statement did not arrive, although the server responds in other sessions",
            ));
        }
        absent = !running;
        next = Instant::now() + if absent { CONFIRM } else { ASK_AGAIN };
    }
}

/// Cancels the statements of this login that begin like `sql` and have been running for more than
/// `limit` minus 1 s.
async fn cancel_running(logins: &Logins, sql: &str, limit: Duration) -> Result<()> {
    const CANCEL: &str = "
select pg_cancel_backend(a.pid) from pg_stat_activity a
 where a.datname = current_database() and a.usename = session_user and a.state = 'active' and left(a.query, 90) = left($1, 90)
   and a.query_start < clock_timestamp() - make_interval(secs => $2)";
    let (_turn, session) = open_probe(logins).await?;
    let seconds = limit.saturating_sub(Duration::from_secs(1)).as_secs_f64();
    within(PATIENCE, session.client.query(CANCEL, &[&sql, &seconds])).await.map(drop)
}

/// Returns whether the server is running a statement that begins like `sql` for this login.
async fn is_running(logins: &Logins, sql: &str) -> Result<bool> {
    // The state is "disabled" while track_activities is off. The server may truncate the text of
    // the statement.
    const RUNNING: &str = "
select exists (select from pg_stat_activity a
                where a.datname = current_database() and a.usename = session_user and a.pid <> pg_backend_pid() and a.state not like 'idle%'
                  and (a.state = 'disabled' or left(a.query, 90) = left($1, 90)))";
    let (_turn, session) = open_probe(logins).await?;
    within(CONTROL_LIMIT, session.client.query_one(RUNNING, &[&sql])).await?.read(0)
}

/// Opens a session that queries the state of other sessions of the login. At most one such session
/// is open for each database. The session resets its role, because a default role of the login may
/// lack the privilege to see the other sessions.
async fn open_probe(logins: &Logins) -> Result<(OwnedMutexGuard<()>, Session)> {
    let turn = logins.probing().await;
    let session = timeout(CONTROL_LIMIT, logins.open_control("backfilld probe", |_| {})).await;
    let session = session.map_err(|_| Error::new(Kind::ConnectionLost, "no response"))??;
    within(PATIENCE, session.client.batch_execute("set role none")).await?;
    Ok((turn, session))
}
