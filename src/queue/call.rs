//! Runs the statements of the queue in a session of the control pool. Each statement is prepared
//! once per session.

use deadpool_postgres::Pool;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::error::Result;
use crate::pg::connect::within;
use crate::pg::pools::{CONTROL_LIMIT, control};

/// Runs a statement that returns at most one row.
pub(super) async fn call(pool: &Pool, sql: &'static str, values: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>> {
    let client = control(pool).await?;
    let statement = within(CONTROL_LIMIT, client.prepare_cached(sql)).await?;
    within(CONTROL_LIMIT, client.query_opt(&statement, values)).await
}
