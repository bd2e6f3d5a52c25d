//! The daemon's side of the metrics: takes pictures from its loops, and renders everything for a scrape.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::counter;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::footprint::Footprints;
use super::gauges::{JobGauges, Pictures, QueueGauges, STARTED, ThrottleGauges};
use super::names::{
    BATCHES, FENCED_WRITES, GUARD_YIELDS, JOBS_FINISHED, LEASE_TAKEOVERS, ROWS_CHANGED, ROWS_QUARANTINED, ROWS_SCANNED,
};
use super::recorder::Split;
use super::{Outcome, of_job};
use crate::error::{Error, Kind, Result};

/// How long the counters of a job outlive its last touch: two scrapes at the usual interval of a minute, so that the
/// last increments are seen.
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

/// Takes pictures from the loops, and renders everything. Cheap to clone.
#[derive(Clone)]
pub struct Handle(Arc<Inner>);

/// Make this process's metrics. Once only; needs no runtime.
pub fn install() -> Result<Handle> {
    LazyLock::force(&STARTED);
    let split = Split::new(JOB_COUNTERS_IDLE);
    let handle = Handle::of(&split);
    metrics::set_global_recorder(split)
        .map_err(|_| Error::new(Kind::Internal, "metrics are installed already in this process"))?;
    Ok(handle)
}

impl Handle {
    pub(super) fn of(split: &Split) -> Self {
        let recorders = Recorders { of_jobs: split.of_jobs.handle(), lasting: split.lasting.handle() };
        Self(Arc::new(Inner { recorders, footprints: Arc::clone(&split.footprints), pictures: Mutex::default() }))
    }

    /// A handle that nothing but pictures writes to, for tests and for verbs that serve no metrics.
    pub fn detached() -> Self {
        Self::of(&Split::new(JOB_COUNTERS_IDLE))
    }

    /// All metrics in the text format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut text = self.0.recorders.lasting.render();
        text.push_str(&self.0.recorders.of_jobs.render());
        text.push_str(&self.pictures().render(&self.0.footprints));
        text
    }

    /// The whole picture of a database's live jobs, most important first (running, then queued); jobs past
    /// [`JobGauges::MOST`] are left out. Include those that ended in the last minutes for their last state to be
    /// scraped. Also keeps the counters of these jobs alive.
    pub fn jobs(&self, database: &str, mut jobs: Vec<JobGauges>) {
        jobs.truncate(JobGauges::MOST);
        for job in jobs.iter().filter(|job| !job.has_ended()) {
            touch(database, &job.name);
        }
        self.0.footprints.keep(database, |name| jobs.iter().any(|job| job.name == name));
        self.pictures().set_jobs(database, jobs);
    }

    /// The whole picture of a database's queue.
    pub fn queue(&self, database: &str, queue: QueueGauges) {
        touch_database(database);
        self.pictures().set_queue(database, queue);
    }

    /// The whole picture of a database's throttle.
    pub fn throttle(&self, database: &str, throttle: ThrottleGauges) {
        self.pictures().set_throttle(database, throttle);
    }

    /// Whether each database is ready. Never too old to be shown: one that can't be asked is known not to be.
    pub fn databases(&self, ready: impl IntoIterator<Item = (String, bool)>) {
        self.pictures().set_ready(ready.into_iter().collect());
    }

    fn pictures(&self) -> MutexGuard<'_, Pictures> {
        self.0.pictures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Folds histogram samples into their buckets, and drops idle series when nobody scrapes; without it both would
    /// pile up in memory. Ends with `shutdown`.
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
                    // Only rendering looks for idle series.
                    drop(this.0.recorders.of_jobs.render());
                }
            }
        })
    }
}

/// Exist from a job's first picture on, at zero: `rate()` does not see what a series is born with. And touching them
/// keeps those of a paused job from being dropped as idle. WAL is left out: a zero where nothing is measured would lie.
fn touch(database: &str, job_name: &str) {
    for name in [ROWS_CHANGED, ROWS_SCANNED, ROWS_QUARANTINED] {
        of_job(name, database, job_name, None).increment(0);
    }
    of_job(BATCHES, database, job_name, Some(Outcome::Committed)).increment(0);
}

/// The same for what happens seldom: of a first failure an alert would see nothing.
fn touch_database(database: &str) {
    for name in [GUARD_YIELDS, LEASE_TAKEOVERS, FENCED_WRITES] {
        counter!(name, "database" => database.to_owned()).increment(0);
    }
    for state in ["succeeded", "failed", "cancelled"] {
        counter!(JOBS_FINISHED, "database" => database.to_owned(), "state" => state).increment(0);
    }
}
