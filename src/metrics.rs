//! Metrics for Prometheus. Every name is in [`names`].
//!
//! Counters and histograms are written where the thing happens, through the verbs below. Gauges are pictures
//! ([`gauges`]): a loop hands in the newest whole picture of its database, and each scrape draws it afresh. So a job
//! that ended, a state that was left and a timestamp that no longer applies are gone with the next picture, which the
//! exporter by itself can't do: it has no way to delete one series, only a timeout for idle ones.
//!
//! That timeout is used for the counters of jobs: [`handle::Handle::jobs`] touches those of live jobs, and what nobody
//! touched for [`handle::JOB_COUNTERS_IDLE`] is dropped. Counters without a job never are.
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

/// How a batch ended: the label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Rows and checkpoint are in.
    Committed,
    /// A lock, a deadlock or a serialization failure: it is tried again.
    Retried,
    /// Cancelled for a session that waited behind it.
    Yielded,
    /// A row raised a data error: the batch is bisected.
    Split,
    /// The connection broke; whether it committed is not known.
    Lost,
    /// Another holder has the slice.
    Fenced,
    /// The job ended with it.
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

/// A batch ended. `took` is the whole round trip; only committed batches enter the histograms.
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

/// Rows were quarantined because no batch can change them.
pub fn rows_quarantined(database: &str, job_name: &str, rows: u64) {
    if rows > 0 {
        of_job(ROWS_QUARANTINED, database, job_name, None).increment(rows);
    }
}

/// What one session wrote since it was asked before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Row versions, and those of them that took no new index entries; of the last second's work.
    pub updated: u64,
    pub hot: u64,
    /// None where the server does not tell whose WAL it is: before PostgreSQL 18.
    pub wal: Option<Wal>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wal {
    pub bytes: u64,
    /// Changed with it.
    pub rows: u64,
}

/// A session of the job was asked what it wrote.
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

/// For how long batches were held for a reason, since the start, in whole seconds.
pub fn held(database: &str, reason: &str, seconds: u64) {
    let labels = [("database", database.to_owned()), ("reason", reason.to_owned())];
    counter!(HOLD, &labels).absolute(seconds);
}

/// A session was seen that waited this long behind a batch.
pub fn victim_waited(database: &str, waited: Duration) {
    histogram!(VICTIM_WAIT, "database" => database.to_owned()).record(waited.as_secs_f64());
}

/// A batch was cancelled for a victim.
pub fn guard_yielded(database: &str) {
    counter!(GUARD_YIELDS, "database" => database.to_owned()).increment(1);
}

/// An expired lease was taken over.
pub fn lease_taken_over(database: &str) {
    counter!(LEASE_TAKEOVERS, "database" => database.to_owned()).increment(1);
}

/// A write of ours was refused because another holder has the slice.
pub fn write_fenced(database: &str) {
    counter!(FENCED_WRITES, "database" => database.to_owned()).increment(1);
}

/// This daemon saw a job to its end: `succeeded`, `failed` or `cancelled`.
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
