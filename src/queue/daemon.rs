//! What a daemon tells the queue of itself, and the housekeeping that every daemon does now and then.

use std::time::SystemTime;

use deadpool_postgres::Pool;
use uuid::Uuid;

use crate::error::Result;
use crate::queue::call::call;

/// Until when a daemon's window for the database is closed; none: it is open.
pub async fn set_worker_window(pool: &Pool, worker: Uuid, until: Option<SystemTime>) -> Result<()> {
    const SQL: &str = "select backfill._set_worker_window($1, $2)";
    call(pool, SQL, &[&worker, &until]).await.map(drop)
}

/// Housekeeping: what is due becomes ready, what was stopped settles.
pub async fn run_housekeeping(pool: &Pool) -> Result<()> {
    const SQL: &str = "select backfill._run_housekeeping()";
    call(pool, SQL, &[]).await.map(drop)
}

/// Leaves: what this worker still holds becomes free at once.
pub async fn deregister_worker(pool: &Pool, worker: Uuid) -> Result<()> {
    const SQL: &str = "select backfill._deregister_worker($1)";
    call(pool, SQL, &[&worker]).await.map(drop)
}
