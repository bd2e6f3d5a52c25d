//! Removes the slices, events and row errors of finished jobs after `retention.days`, and also
//! events that belong to no job. Signals and daemons are removed 1 hour after their last update or
//! their expiry. Name, spec and verdict of a job are kept until the job is deleted with `forget`.
//! Otherwise, if a migration ran again a year later, it would create its job a second time, and the
//! job would run again.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::failpoint;
use crate::pg::control::Control;
use crate::pg::row::Columns;

/// Time between two passes, and before the first pass. Without the wait before the first pass, a
/// daemon that restarts repeatedly would run a pass at each start.
const EVERY: Duration = Duration::from_secs(60);
/// Maximum number of rows that one transaction removes. Such a transaction takes a few
/// milliseconds.
const BATCH: i32 = 500;
/// Time between two batches. Without this pause, the removal of a year of history would be a burst
/// of writes that increases the lag of the replicas.
const GAP: Duration = Duration::from_millis(200);

/// Removes one batch of rows and returns their number. If the number is at least [`BATCH`], more
/// rows may be left.
async fn batch(control: &Control, days: u32) -> Result<i32> {
    const SQL: &str = "select backfill._prune_history(make_interval(days => $1), $2)";
    let days = i32::try_from(days).unwrap_or(i32::MAX);
    control.query_one(SQL, &[&days, &BATCH]).await?.read(0)
}

/// Removes old history repeatedly, until `stop` is cancelled. Runs as a separate task, so that it
/// does not delay other tasks.
pub async fn keep(control: Control, days: u32, stop: CancellationToken) {
    let mut pause = if failpoint::active("retention_at_once") { GAP } else { EVERY };
    let mut removed = 0_i64;
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        pause = match batch(&control, days).await {
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
            tracing::info!(rows = removed, days, "retention has removed the slices, events and row errors of old jobs");
            removed = 0;
        }
    }
}
