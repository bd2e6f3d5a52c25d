//! What is kept of ended jobs, and for how long. Their slices, events and row errors go after some days; name, spec and
//! verdict stay until `forget`, so that a migration replayed a year later does not run its job again.

use std::time::Duration;

use deadpool_postgres::Pool;
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::failpoint;
use crate::pg::connect::within;
use crate::pg::pools::{CONTROL_LIMIT, control};

/// Between two looks; the first comes after one as well, so that a daemon that is restarted over and over does no more.
const EVERY: Duration = Duration::from_secs(60);
/// Rows removed in one transaction: some milliseconds.
const BATCH: i32 = 500;
/// Between two batches, so that a year's leftovers are no burst of writes for the replicas.
const GAP: Duration = Duration::from_millis(200);

/// Removes one batch; answers how many rows that was, and [`BATCH`] means that there may be more.
async fn batch(pool: &Pool, days: u32) -> Result<i32> {
    const SQL: &str = "select backfill._prune_history(make_interval(days => $1), $2)";
    let client = control(pool).await?;
    let days = i32::try_from(days).unwrap_or(i32::MAX);
    Ok(within(CONTROL_LIMIT, client.query_one(SQL, &[&days, &BATCH])).await?.get(0))
}

/// Keeps house until `stop`. It has a task of its own: nothing waits for it.
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
                tracing::debug!(error = %error.message, "retention: next time");
                EVERY
            }
        };
        if pause == EVERY && removed > 0 {
            tracing::info!(rows = removed, days, "retention: removed what is left of jobs that ended long ago");
            removed = 0;
        }
    }
}
