//! For each job, sums up the row versions and the WAL that this daemon's batches write. These sums
//! are not exported. Gauges export the ratios of the sums, and `backfilld_wal_bytes_total` counts
//! the WAL bytes separately.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{Counter, CounterFn};

/// The quantities that are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    RowVersions,
    HotRowVersions,
    WalBytes,
    WalRows,
}

impl Part {
    const ALL: [Self; 4] = [Self::RowVersions, Self::HotRowVersions, Self::WalBytes, Self::WalRows];

    /// Returns the name that the counter for this part has in the crate `metrics`. The name does
    /// not begin with `backfilld_`, because the part is not exported.
    pub fn name(self) -> &'static str {
        match self {
            Self::RowVersions => "footprint_row_versions",
            Self::HotRowVersions => "footprint_hot_row_versions",
            Self::WalBytes => "footprint_wal_bytes",
            Self::WalRows => "footprint_wal_rows",
        }
    }

    pub fn read(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.name() == name)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    row_versions: u64,
    hot_row_versions: u64,
    wal_bytes: u64,
    wal_rows: u64,
}

/// The ratios that the gauges export. A ratio is none before the first measurement.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Footprint {
    pub hot_ratio: Option<f64>,
    pub wal_bytes_per_row: Option<f64>,
}

/// The sums by database and job.
#[derive(Debug, Default)]
pub(super) struct Footprints(Mutex<BTreeMap<(String, String), Sums>>);

impl Footprints {
    pub fn counter(self: &Arc<Self>, part: Part, database: &str, job_name: &str) -> Counter {
        let job = (database.to_owned(), job_name.to_owned());
        Counter::from_arc(Arc::new(Tally { footprints: Arc::clone(self), job, part }))
    }

    pub fn of(&self, database: &str, job_name: &str) -> Footprint {
        let sum = self.lock().get(&(database.to_owned(), job_name.to_owned())).copied().unwrap_or_default();
        #[allow(clippy::cast_precision_loss)]
        let ratio = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        Footprint {
            hot_ratio: ratio(sum.hot_row_versions, sum.row_versions),
            wal_bytes_per_row: ratio(sum.wal_bytes, sum.wal_rows),
        }
    }

    /// Removes the sums of jobs that are not in the current snapshot.
    pub fn keep(&self, database: &str, shown: impl Fn(&str) -> bool) {
        self.lock().retain(|(of, job_name), _| of != database || shown(job_name));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Sums>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A counter for the `metrics` crate. It counts one part of one job's footprint.
struct Tally {
    footprints: Arc<Footprints>,
    job: (String, String),
    part: Part,
}

impl CounterFn for Tally {
    fn increment(&self, value: u64) {
        let mut sums = self.footprints.lock();
        let sums = sums.entry(self.job.clone()).or_default();
        let sum = match self.part {
            Part::RowVersions => &mut sums.row_versions,
            Part::HotRowVersions => &mut sums.hot_row_versions,
            Part::WalBytes => &mut sums.wal_bytes,
            Part::WalRows => &mut sums.wal_rows,
        };
        *sum += value;
    }

    /// Does nothing, because callers only add increments and do not know the total.
    fn absolute(&self, _: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_need_a_measurement_and_are_dropped_with_the_job() {
        let footprints = Arc::new(Footprints::default());
        let add = |job_name: &str, part: Part, value| footprints.counter(part, "main", job_name).increment(value);
        assert_eq!(footprints.of("main", "a"), Footprint::default());
        add("a", Part::RowVersions, 100);
        add("a", Part::HotRowVersions, 90);
        add("a", Part::RowVersions, 100);
        add("a", Part::HotRowVersions, 70);
        assert_eq!(footprints.of("main", "a"), Footprint { hot_ratio: Some(0.8), wal_bytes_per_row: None });
        add("a", Part::WalBytes, 5000);
        add("a", Part::WalRows, 50);
        add("b", Part::RowVersions, 0);
        assert_eq!(footprints.of("main", "a"), Footprint { hot_ratio: Some(0.8), wal_bytes_per_row: Some(100.0) });
        assert_eq!(footprints.of("main", "b"), Footprint::default());
        footprints.keep("main", |name| name == "b");
        assert_eq!(footprints.of("main", "a"), Footprint::default());
    }
}
