//! Metrics for Prometheus. All names are in [`names`].
//!
//! Counters and histograms are written by the functions below, at the point where the event
//! happens. Gauges are written as snapshots ([`gauges`]): a loop hands over the newest complete
//! snapshot of its database, and each scrape renders it again. So a finished job, an earlier state
//! and an outdated timestamp are gone with the next snapshot. The exporter alone can't do this,
//! because it can't delete a single series; it only has a timeout for idle ones.
//!
//! That timeout is used for the counters of jobs. [`handle::Handle::jobs`] touches the counters of
//! active jobs, and counters that were not touched for [`handle::JOB_COUNTERS_IDLE`] are dropped.
//! Counters without a job are never dropped.
//!
//! `job` and `instance` are target labels of Prometheus itself and are never used here.

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
    ROWS_CHANGED, ROWS_QUARANTINED, ROWS_SCANNED, VICTIM_WAIT, WAL_BYTES,
};

/// The way in which a batch ended, which is the label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Rows and checkpoint were committed.
    Committed,
    /// A lock, a deadlock or a serialization failure occurred, and the batch is tried again.
    Retried,
    /// The batch was cancelled for a session that waited for it.
    Yielded,
    /// A row raised a data error, and the batch is halved.
    Split,
    /// The connection broke. It is not known whether the batch committed.
    Lost,
    /// Another worker holds the slice.
    Fenced,
    /// The job failed with the batch.
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

/// Counts a batch that ended. `took` is the time of the whole round trip. Only committed batches
/// are recorded in the histograms.
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

/// Counts rows that were quarantined because no batch can change them.
pub fn rows_quarantined(database: &str, job_name: &str, rows: u64) {
    if rows > 0 {
        of_job(ROWS_QUARANTINED, database, job_name, None).increment(rows);
    }
}

/// The amounts that one session wrote since its last measurement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Row versions that an update wrote during about the last second. `hot` is the part of
    /// `updated` that needed no new index entries.
    pub updated: u64,
    pub hot: u64,
    /// None if the server does not count the WAL of each session, which it does from PostgreSQL 18
    /// on.
    pub wal: Option<Wal>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wal {
    pub bytes: u64,
    /// Rows that were changed in the same time.
    pub rows: u64,
}

/// Adds a measurement of what a session of the job wrote.
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

/// Sets the total time, in whole seconds since the start, for which batches were held for this
/// reason.
pub fn held(database: &str, reason: &str, seconds: u64) {
    let labels = [("database", database.to_owned()), ("reason", reason.to_owned())];
    counter!(HOLD, &labels).absolute(seconds);
}

/// Records that a session waited this long for a batch.
pub fn victim_waited(database: &str, waited: Duration) {
    histogram!(VICTIM_WAIT, "database" => database.to_owned()).record(waited.as_secs_f64());
}

/// Counts a batch that was cancelled for a victim.
pub fn guard_yielded(database: &str) {
    counter!(GUARD_YIELDS, "database" => database.to_owned()).increment(1);
}

/// Counts the takeover of an expired lease.
pub fn lease_taken_over(database: &str) {
    counter!(LEASE_TAKEOVERS, "database" => database.to_owned()).increment(1);
}

/// Counts a write of this daemon that was refused because another worker holds the slice.
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
