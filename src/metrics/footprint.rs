//! What the batches of this daemon leave behind, summed for each job that it works on.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{WAL_BYTES, of_job};

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

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    updated: u64,
    hot: u64,
    wal: Wal,
}

/// As the gauges show it; none where nothing was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Footprint {
    pub hot_ratio: Option<f64>,
    pub wal_bytes_per_row: Option<f64>,
}

/// By database and job.
static SUMS: Mutex<BTreeMap<(String, String), Sums>> = Mutex::new(BTreeMap::new());

fn sums() -> MutexGuard<'static, BTreeMap<(String, String), Sums>> {
    SUMS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A session of the job was asked what it wrote.
pub fn written(database: &str, job_name: &str, written: Written) {
    let mut sums = sums();
    let sum = sums.entry((database.to_owned(), job_name.to_owned())).or_default();
    sum.updated += written.updated;
    sum.hot += written.hot.min(written.updated);
    if let Some(wal) = written.wal {
        sum.wal.bytes += wal.bytes;
        sum.wal.rows += wal.rows;
        of_job(WAL_BYTES, database, job_name, None).increment(wal.bytes);
    }
}

pub(super) fn of(database: &str, job_name: &str) -> Footprint {
    let sum = sums().get(&(database.to_owned(), job_name.to_owned())).copied().unwrap_or_default();
    #[allow(clippy::cast_precision_loss)]
    let ratio = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
    Footprint { hot_ratio: ratio(sum.hot, sum.updated), wal_bytes_per_row: ratio(sum.wal.bytes, sum.wal.rows) }
}

/// Those that are not shown any more are not kept.
pub(super) fn keep(database: &str, shown: impl Fn(&str) -> bool) {
    sums().retain(|(of, job_name), _| of != database || shown(job_name));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_what_was_measured_and_forgotten_with_the_job() {
        let database = "footprint-test";
        assert_eq!(of(database, "a"), Footprint::default());
        written(database, "a", Written { updated: 100, hot: 90, wal: None });
        written(database, "a", Written { updated: 100, hot: 70, wal: Some(Wal { bytes: 5000, rows: 50 }) });
        written(database, "b", Written::default());
        assert_eq!(of(database, "a"), Footprint { hot_ratio: Some(0.8), wal_bytes_per_row: Some(100.0) });
        assert_eq!(of(database, "b"), Footprint::default());
        keep(database, |name| name == "b");
        assert_eq!(of(database, "a"), Footprint::default());
    }
}
