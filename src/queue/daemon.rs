//! Registers and deregisters the daemon, registers its executors, stores the time until which the
//! daemon's window is closed, and runs the periodic housekeeping.

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use crate::error::Result;
use crate::pg::control::Control;
use crate::pg::row::Columns;

/// Registers a daemon. Parameters: ID of the worker, host, process ID, version, roles, and TTL in
/// seconds.
pub(super) const REGISTER_WORKER: &str =
    "select backfill._register_worker($1, $2, $3, $4, $5::text[]::name[], make_interval(secs => $6))";

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

/// Registers the daemon, or renews its registration.
pub async fn register_worker(control: &Control, worker: Uuid, roles: &[String], ttl: Duration) -> Result<()> {
    let pid = i32::try_from(std::process::id()).unwrap_or(0);
    let version = env!("CARGO_PKG_VERSION");
    let ttl = ttl.as_secs_f64();
    control.query_opt(REGISTER_WORKER, &[&worker, &host(), &pid, &version, &roles, &ttl]).await.map(drop)
}

/// Registers a login as the executor of a role.
pub async fn register_executor(
    control: &Control,
    login: &str,
    run_as: &str,
    one_url: bool,
    trusts_owners: bool,
) -> Result<()> {
    const SQL: &str = "select backfill._register_executor($1::text::name, $2::text::name, $3, $4)";
    control.query_opt(SQL, &[&login, &run_as, &one_url, &trusts_owners]).await.map(drop)
}

/// Returns whether the daemon and its executors are registered.
pub async fn is_registered(control: &Control, worker: Uuid, roles: &[String]) -> Result<bool> {
    const SQL: &str = "select backfill._is_registered($1, $2::text[]::name[])";
    control.query_one(SQL, &[&worker, &roles]).await?.read(0)
}

/// Deregisters the daemon, and releases the slices that it still holds. Another daemon can claim
/// these slices immediately.
pub async fn deregister_worker(control: &Control, worker: Uuid) -> Result<()> {
    const SQL: &str = "select backfill._deregister_worker($1)";
    control.query_opt(SQL, &[&worker]).await.map(drop)
}

/// Returns the host name from the environment or from `/proc`, or `unknown`.
pub(super) fn host() -> String {
    std::env::var("HOSTNAME")
        .ok()
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .map_or_else(|| "unknown".to_owned(), |name| name.trim().to_owned())
}
