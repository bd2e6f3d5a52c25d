//! Metrics for Prometheus. All names are in [`names`].
//!
//! The functions below write counters and histograms when an event happens. Gauges are written as
//! snapshots ([`gauges`]), because the exporter cannot delete individual series. It only has a
//! timeout for idle series. For each database, a loop stores the newest complete snapshot, and each
//! scrape renders the stored snapshots that are not too old. Each new snapshot replaces the
//! previous one. So the output no longer contains the series of a removed job, of a job's earlier
//! state, or of an outdated timestamp.
//!
//! The timeout for idle series applies to the counters of jobs. [`handle::Handle::jobs`] touches
//! the counters of jobs that have not ended, and the exporter drops counters that have not been
//! touched for [`handle::JOB_COUNTERS_IDLE`]. Counters without a job are never dropped.
//!
//! No metric has a label `job` or `instance`, because these are target labels of Prometheus.

mod exporter;
mod footprint;
pub mod gauges;
pub mod handle;
mod job_label;
pub mod names;
mod recorder;

use std::time::Duration;

use metrics::{Counter, counter, histogram};

use self::footprint::Part;
use self::names::{
    BATCH_DURATION, BATCH_ROWS, BATCHES, FENCED_WRITES, GUARD_YIELDS, HOLD, JOBS_FINISHED, LEASE_TAKEOVERS,
    ROWS_CHANGED, ROWS_QUARANTINED, ROWS_SCANNED, THROTTLED, VICTIM_WAIT, WAL_BYTES,
};

/// How a batch ended. This is the value of the label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The rows and the checkpoint were committed.
    Committed,
    /// The batch failed, and none of the outcomes below applies. Examples are a lock timeout, a
    /// deadlock and a serialization failure. The worker retries the batch. If the batch has only
    /// one row, the worker may instead defer or quarantine this row.
    Retried,
    /// The batch was cancelled because another session waited too long for a lock that the batch
    /// held.
    Yielded,
    /// One of the rows made the batch fail, and the batch is halved to isolate this row.
    Split,
    /// The connection broke, or no new connection could be opened. It may be unknown whether the
    /// batch was committed.
    Lost,
    /// The worker no longer holds the slice.
    Fenced,
    /// The batch failed, and the job failed with the same error.
    Failed,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Retried => "retried",
            Self::Yielded => "yielded",
            Self::Split => "split",
            Self::Lost => "lost",
            Self::Fenced => "fenced",
            Self::Failed => "failed",
        }
    }
}

/// Counts a batch that ended. `took` is the duration of the whole round trip. The histograms and
/// the counters of rows include only committed batches.
pub fn batch_done(
    database: &str,
    job_name: &str,
    outcome: Outcome,
    rows_changed: u64,
    rows_scanned: u64,
    took: Duration,
) {
    of_job(BATCHES, database, job_name, Some(outcome)).increment(1);
    if outcome == Outcome::Committed {
        of_job(ROWS_CHANGED, database, job_name, None).increment(rows_changed);
        of_job(ROWS_SCANNED, database, job_name, None).increment(rows_scanned);
        histogram!(BATCH_DURATION, "database" => database.to_owned()).record(took.as_secs_f64());
        #[allow(clippy::cast_precision_loss)]
        histogram!(BATCH_ROWS, "database" => database.to_owned()).record(rows_changed as f64);
    }
}

/// Counts rows that are quarantined because they could not be changed.
pub fn rows_quarantined(database: &str, job_name: &str, rows: u64) {
    if rows > 0 {
        of_job(ROWS_QUARANTINED, database, job_name, None).increment(rows);
    }
}

/// One measurement of what a session has written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Row versions that updates wrote during about the last second. `hot` is the number of these
    /// row versions that HOT updates wrote. HOT updates need no new index entries.
    pub updated: u64,
    pub hot: u64,
    /// The WAL that the session has written since its last measurement. None before PostgreSQL 18,
    /// which is the first version that counts the WAL of each session.
    pub wal: Option<Wal>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wal {
    pub bytes: u64,
    /// The number of rows that the session has changed since its last measurement.
    pub rows: u64,
}

/// Adds a measurement of the row versions and the WAL that a session of the job wrote.
pub fn written(database: &str, job_name: &str, written: Written) {
    let Wal { bytes, rows } = written.wal.unwrap_or_default();
    for (part, value) in [
        (Part::RowVersions, written.updated),
        (Part::HotRowVersions, written.hot.min(written.updated)),
        (Part::WalBytes, bytes),
        (Part::WalRows, rows),
    ] {
        of_job(part.name(), database, job_name, None).increment(value);
    }
    if written.wal.is_some() {
        of_job(WAL_BYTES, database, job_name, None).increment(bytes);
    }
}

/// Sets the total time, in whole seconds, for which this reason has held slices since the daemon
/// started.
pub fn held(database: &str, reason: &str, seconds: u64) {
    let labels = [("database", database.to_owned()), ("reason", reason.to_owned())];
    counter!(HOLD, &labels).absolute(seconds);
}

/// Sets the total time, in whole seconds, for which this reason has throttled slices since the
/// daemon started.
pub fn throttled(database: &str, reason: &str, seconds: u64) {
    let labels = [("database", database.to_owned()), ("reason", reason.to_owned())];
    counter!(THROTTLED, &labels).absolute(seconds);
}

/// Records how long a session waited for a lock before the work that held the lock (a batch,
/// planning or a vacuum) was cancelled.
pub fn victim_waited(database: &str, waited: Duration) {
    histogram!(VICTIM_WAIT, "database" => database.to_owned()).record(waited.as_secs_f64());
}

/// Counts a batch, planning run or vacuum that was cancelled because another session waited for one
/// of its locks.
pub fn guard_yielded(database: &str) {
    counter!(GUARD_YIELDS, "database" => database.to_owned()).increment(1);
}

/// Counts the takeover of an expired lease.
pub fn lease_taken_over(database: &str) {
    counter!(LEASE_TAKEOVERS, "database" => database.to_owned()).increment(1);
}

/// Counts a write of this daemon that was refused because the worker no longer holds the slice.
pub fn write_fenced(database: &str) {
    counter!(FENCED_WRITES, "database" => database.to_owned()).increment(1);
}

/// Counts a job that ended in this daemon with the state `succeeded`, `failed` or `cancelled`.
pub fn job_finished(database: &str, state: &str) {
    counter!(JOBS_FINISHED, "database" => database.to_owned(), "state" => state.to_owned()).increment(1);
}

fn of_job(name: &'static str, database: &str, job_name: &str, outcome: Option<Outcome>) -> Counter {
    let (database, job_name) = (database.to_owned(), job_name.to_owned());
    match outcome {
        Some(outcome) => counter!(name, "database" => database, "job_name" => job_name, "outcome" => outcome.as_str()),
        None => counter!(name, "database" => database, "job_name" => job_name),
    }
}

#[cfg(test)]
mod tests;
