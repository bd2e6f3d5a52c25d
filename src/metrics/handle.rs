//! The daemon's interface to the metrics. The handle accepts snapshots from the daemon's loops, and
//! renders all metrics for a scrape.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::counter;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::footprint::Footprints;
use super::gauges::{JobGauges, Pictures, QueueGauges, RolloutGauges, STARTED, ThrottleGauges};
use super::names::{
    BATCHES, FENCED_WRITES, GUARD_YIELDS, JOBS_FINISHED, LEASE_TAKEOVERS, ROWS_CHANGED, ROWS_QUARANTINED, ROWS_SCANNED,
};
use super::recorder::Split;
use super::{Outcome, of_job};
use crate::error::{Error, Kind, Result};

/// Time for which the counters of a job remain after they were last touched. Two scrapes at the
/// usual interval of one minute fit into this time, so that the last increments are scraped.
pub const JOB_COUNTERS_IDLE: Duration = Duration::from_secs(120);

struct Recorders {
    of_jobs: PrometheusHandle,
    lasting: PrometheusHandle,
}

struct Inner {
    recorders: Recorders,
    footprints: Arc<Footprints>,
    pictures: Mutex<Pictures>,
}

/// Accepts snapshots from the loops and renders all metrics. Cheap to clone.
#[derive(Clone)]
pub struct Handle(Arc<Inner>);

/// Creates the metrics of this process. May be called only once, and needs no async runtime.
pub fn install() -> Result<Handle> {
    LazyLock::force(&STARTED);
    let split = Split::new(JOB_COUNTERS_IDLE);
    let handle = Handle::of(&split);
    metrics::set_global_recorder(split)
        .map_err(|_| Error::new(Kind::Internal, "metrics are already installed in this process"))?;
    Ok(handle)
}

impl Handle {
    pub(super) fn of(split: &Split) -> Self {
        let recorders = Recorders { of_jobs: split.of_jobs.handle(), lasting: split.lasting.handle() };
        Self(Arc::new(Inner { recorders, footprints: Arc::clone(&split.footprints), pictures: Mutex::default() }))
    }

    /// Creates a handle for tests. Its recorder is not the global recorder, so the handle renders
    /// only snapshots.
    pub fn detached() -> Self {
        Self::of(&Split::new(JOB_COUNTERS_IDLE))
    }

    /// Renders all metrics in the text format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut text = self.0.recorders.lasting.render();
        text.push_str(&self.0.recorders.of_jobs.render());
        text.push_str(&self.pictures().render(&self.0.footprints));
        text
    }

    /// Sets the jobs of a database. The caller passes the most important jobs first: the running
    /// jobs, then the other unfinished jobs. Jobs beyond [`JobGauges::MOST`] are left out. The
    /// caller must include jobs that ended in the last minutes, so that their final state is
    /// scraped. Also touches the counters of the unfinished jobs, so that these counters are not
    /// dropped as idle.
    pub fn jobs(&self, database: &str, mut jobs: Vec<JobGauges>) {
        jobs.truncate(JobGauges::MOST);
        for job in jobs.iter().filter(|job| !job.has_ended()) {
            touch(database, &job.name);
        }
        self.0.footprints.keep(database, |name| jobs.iter().any(|job| job.name == name));
        self.pictures().set_jobs(database, jobs);
    }

    /// Sets the values of a database's queue gauges.
    pub fn queue(&self, database: &str, queue: QueueGauges) {
        touch_database(database);
        self.pictures().set_queue(database, queue);
    }

    /// Sets the rollouts of a database.
    pub fn rollouts(&self, database: &str, rollouts: Vec<RolloutGauges>) {
        self.pictures().set_rollouts(database, rollouts);
    }

    /// Sets the values of a database's throttle gauges.
    pub fn throttle(&self, database: &str, throttle: ThrottleGauges) {
        self.pictures().set_throttle(database, throttle);
    }

    /// Sets whether each database is ready. This value needs no expiry, because a database that
    /// cannot be reached is reported as not ready.
    pub fn databases(&self, ready: impl IntoIterator<Item = (String, bool)>) {
        self.pictures().set_ready(ready.into_iter().collect());
    }

    fn pictures(&self) -> MutexGuard<'_, Pictures> {
        self.0.pictures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a task that adds histogram samples to their buckets and drops idle series. Without
    /// this task, samples and series would accumulate in memory while Prometheus does not scrape.
    /// The task ends at `shutdown`.
    pub fn spawn_upkeep(&self, shutdown: CancellationToken) -> JoinHandle<()> {
        let this = self.clone();
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_secs(5));
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut turns = 0_u32;
            while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
                this.0.recorders.lasting.run_upkeep();
                turns = turns.wrapping_add(1);
                if turns.is_multiple_of(12) {
                    // The exporter drops idle series only when it renders.
                    drop(this.0.recorders.of_jobs.render());
                }
            }
        })
    }
}

/// Creates the counters of a job at zero when the job first appears, because `rate()` ignores the
/// initial value of a series. Also touches the counters of a paused job, which would otherwise be
/// dropped as idle. WAL is left out, because a zero would be wrong before the first measurement.
fn touch(database: &str, job_name: &str) {
    for name in [ROWS_CHANGED, ROWS_SCANNED, ROWS_QUARANTINED] {
        of_job(name, database, job_name, None).increment(0);
    }
    of_job(BATCHES, database, job_name, Some(Outcome::Committed)).increment(0);
}

/// Creates the counters of rare events at zero. Otherwise an alert on `rate()` or `increase()`
/// would miss the first event.
fn touch_database(database: &str) {
    for name in [GUARD_YIELDS, LEASE_TAKEOVERS, FENCED_WRITES] {
        counter!(name, "database" => database.to_owned()).increment(0);
    }
    for state in ["succeeded", "failed", "cancelled"] {
        counter!(JOBS_FINISHED, "database" => database.to_owned(), "state" => state).increment(0);
    }
}
