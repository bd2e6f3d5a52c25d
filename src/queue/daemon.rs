//! Stores in the queue the time until which a daemon's window is closed, deregisters the daemon,
//! and runs the periodic housekeeping.

use std::time::SystemTime;

use uuid::Uuid;

use crate::error::Result;
use crate::pg::control::Control;

/// Stores the time until which this daemon's window for the database is closed. None means that the
/// window is open.
pub async fn set_worker_window(control: &Control, worker: Uuid, until: Option<SystemTime>) -> Result<()> {
    const SQL: &str = "select backfill._set_worker_window($1, $2)";
    control.query_opt(SQL, &[&worker, &until]).await.map(drop)
}

/// Runs housekeeping, which makes due slices ready and completes requested pauses and cancels.
pub async fn run_housekeeping(control: &Control) -> Result<()> {
    const SQL: &str = "select backfill._run_housekeeping()";
    control.query_opt(SQL, &[]).await.map(drop)
}

/// Deregisters the daemon, and releases the slices that it still holds. Another daemon can claim
/// these slices immediately.
pub async fn deregister_worker(control: &Control, worker: Uuid) -> Result<()> {
    const SQL: &str = "select backfill._deregister_worker($1)";
    control.query_opt(SQL, &[&worker]).await.map(drop)
}
