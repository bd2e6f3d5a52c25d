//! Removes the history of finished jobs. Slices, events and row errors are removed after some days.
//! Name, spec and verdict are kept until `forget`; otherwise a migration that is replayed a year
//! later would run its job again.

use std::time::Duration;

use deadpool_postgres::Pool;
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::failpoint;
use crate::pg::connect::within;
use crate::pg::pools::{CONTROL_LIMIT, control};

/// The time between two passes. It also precedes the first pass, so that a daemon that restarts
/// again and again does not run more of them.
const EVERY: Duration = Duration::from_secs(60);
/// Rows that are removed in one transaction, which takes some milliseconds.
const BATCH: i32 = 500;
/// The time between two batches. Without it, removing a year of history would be a burst of writes
/// for the replicas.
const GAP: Duration = Duration::from_millis(200);

/// Removes one batch of rows. Returns their number; [`BATCH`] means that there may be more.
async fn batch(pool: &Pool, days: u32) -> Result<i32> {
    const SQL: &str = "select backfill._prune_history(make_interval(days => $1), $2)";
    let client = control(pool).await?;
    let days = i32::try_from(days).unwrap_or(i32::MAX);
    Ok(within(CONTROL_LIMIT, client.query_one(SQL, &[&days, &BATCH])).await?.get(0))
}

/// Removes old history until `stop`. It runs as a separate task that no other task waits for.
pub async fn keep(pool: Pool, days: u32, stop: CancellationToken) {
    let mut pause = if failpoint::active("retention_at_once") { GAP } else { EVERY };
    let mut removed = 0_i64;
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        pause = match batch(&pool, days).await {
            Ok(rows) => {
                removed += i64::from(rows);
                if rows >= BATCH { GAP } else { EVERY }
            }
            Err(error) => {
                tracing::debug!(error = %error.message, "retention failed; retrying later");
                EVERY
            }
        };
        if pause == EVERY && removed > 0 {
            tracing::info!(rows = removed, days, "retention: removed slices, events and row errors of old jobs");
            removed = 0;
        }
    }
}
