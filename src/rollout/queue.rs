//! Calls the functions of schema `backfill` that lease rollouts and record the outcome of their
//! statements.

use std::collections::HashSet;
use std::time::Duration;

use tokio_postgres::types::Json;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::job::rollout::{Lock, Step};
use crate::pg::control::Control;
use crate::pg::row::Columns;
use crate::pg::session::Backend;

/// Claims a rollout, and returns its next statement. `held` lists the tokens that this daemon
/// holds. `at_share` lists the roles that have reached their limit, so the daemon claims none of
/// their rollouts now.
pub async fn claim(
    control: &Control,
    worker: Uuid,
    roles: &[String],
    held: &[Uuid],
    at_share: &[String],
    ttl: Duration,
) -> Result<Option<Step>> {
    const SQL: &str =
        "select backfill._claim_rollout($1, $2::text[]::name[], make_interval(secs => $3), $4, $5::text[]::name[])";
    let row = control.query_one(SQL, &[&worker, &roles, &ttl.as_secs_f64(), &held, &at_share]).await?;
    Ok(row.read::<Option<Json<Step>>>(0)?.map(|Json(step)| step))
}

/// Renews the lease. Returns false if a long statement is to be cancelled.
pub async fn renew(control: &Control, step: &Step, ttl: Duration) -> Result<bool> {
    const SQL: &str = "select backfill._renew_rollout($1, $2, make_interval(secs => $3), $4)";
    control.query_one(SQL, &[&step.rollout_id, &step.token, &ttl.as_secs_f64(), &step.undo]).await?.read(0)
}

/// Stores the session in which the statement runs.
pub async fn register_backend(control: &Control, step: &Step, backend: &Backend) -> Result<()> {
    const SQL: &str = "select backfill._register_rollout_backend($1, $2, $3, $4::text::timestamptz)";
    control.query_one(SQL, &[&step.rollout_id, &step.token, &backend.pid, &backend.started]).await.map(drop)
}

/// Terminates the session in which the statement runs. Returns false if the control login lacks the
/// privilege to do so, or if the session has ended.
pub async fn end_session(control: &Control, step: &Step) -> Result<bool> {
    const SQL: &str = "select backfill._end_rollout_session($1)";
    control.query_one(SQL, &[&step.rollout_id]).await?.read(0)
}

/// Returns whether the session holds a lock that blocks writes on the table.
pub async fn blocks_writes(control: &Control, pid: i32, relation: u32) -> Result<bool> {
    const SQL: &str = "select backfill._blocks_writes($1, $2)";
    control.query_one(SQL, &[&pid, &relation]).await?.read(0)
}

/// Returns the transactions of other sessions that have been running for longer than `age`, and
/// hold a lock that could conflict with the lock of the statement.
pub async fn older_locks(control: &Control, step: &Step, pid: i32, age: Duration) -> Result<HashSet<String>> {
    const SQL: &str = "select backfill._older_locks($1, $2, $3, $4, make_interval(secs => $5))";
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
        [&pid, &step.relation, &step.also, &(step.lock == Lock::AccessExclusive), &age.as_secs_f64()];
    let older: Vec<String> = control.query_one(SQL, &values).await?.read(0)?;
    Ok(older.into_iter().collect())
}

/// Releases the rollout after its statement. Returns false, and does not release it, if the
/// statement was not recorded.
pub async fn release(control: &Control, step: &Step) -> Result<bool> {
    const SQL: &str = "select backfill._release_rollout($1, $2, $3)";
    control.query_one(SQL, &[&step.rollout_id, &step.token, &step.statement_id]).await?.read(0)
}

/// Reports that the statement failed. `waits` says what the next attempt waits for, if there is
/// one.
pub async fn failed(control: &Control, step: &Step, error: &Error, waits: Option<&str>) -> Result<()> {
    const SQL: &str = "select backfill._rollout_statement_failed($1, $2, $3, $4, $5, $6, $7)";
    let message = told(step, error);
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
        [&step.rollout_id, &step.token, &step.statement_id, &message, &error.hint, &waits.is_some(), &waits];
    control.query_one(SQL, &values).await.map(drop)
}

/// Returns the message of an error, without data from rows, because every user who can read the
/// queue can see the message. A statement that changes only the catalog reads no rows, so its
/// message is safe. The server's message about a violated constraint is safe too: only the error's
/// detail, which is not used, contains the key.
fn told<'a>(step: &Step, error: &'a Error) -> &'a str {
    let reads_rows = step.lock == Lock::ShareUpdateExclusive;
    let is_of_constraint = error.sqlstate.as_deref().is_some_and(|code| code.starts_with("23"));
    match &error.redacted {
        Some(redacted) if error.is_raised || reads_rows && !is_of_constraint => &redacted.message,
        _ => &error.message,
    }
}

/// Lists sessions that have locked the table or one of its partitions.
pub async fn sessions_with_locks(control: &Control, relation: u32) -> Result<Option<String>> {
    const SQL: &str = "select backfill._sessions_with_locks($1)";
    control.query_one(SQL, &[&relation]).await?.read(0)
}
