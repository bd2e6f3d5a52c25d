//! Renders the gauges. Each scrape renders the newest snapshots that the daemon's loops have
//! stored, except snapshots that are too old.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{gauge, with_local_recorder};
use tokio::time::Instant;

use super::exporter::new_recorder;
use super::footprint::{Footprint, Footprints};
use super::names::{
    BUILD_INFO, DATABASE_READY, JOB_DEADLINE, JOB_ETA, JOB_HEAP_GROWTH, JOB_HOT, JOB_INDEX_GROWTH, JOB_INFO,
    JOB_LAST_PROGRESS, JOB_PROGRESS, JOB_REMAINING, JOB_WAL, OLDEST_QUEUED, PROCESS_START, QUEUE_JOBS, RATE_LIMIT,
    REPLICA_LAG_BYTES, REPLICA_LAG_LIMIT, REPLICA_LAG_SECONDS, REPLICA_UP, ROLLOUT_INFO, ROLLOUT_LOCK_HOLD,
    ROLLOUT_LOCK_WAIT, ROLLOUT_STAGE, SIGNAL_UTILIZATION,
};

/// The time at which metrics were first used, shortly after the start of the process.
pub(super) static STARTED: LazyLock<f64> =
    LazyLock::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());

/// Age at which a snapshot is no longer exported. If the database cannot be reached, the state of
/// the jobs is unknown, so the previous state must not be exported.
const STALE: Duration = Duration::from_secs(60);

/// The gauges of one job. Times are Unix times in seconds. A gauge whose value is none has no
/// series.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobGauges {
    pub name: String,
    pub state: String,
    /// None if the job does not wait. The label is then empty.
    pub waiting_reason: Option<String>,
    /// The progress of the walk, 0 to 1.
    pub progress_ratio: Option<f64>,
    pub remaining_rows: Option<f64>,
    pub last_progress_at: Option<f64>,
    pub eta: Option<f64>,
    pub deadline: Option<f64>,
    /// The size of the table including TOAST, divided by its size when the job was planned.
    pub heap_growth: Option<f64>,
    pub index_growth: Option<f64>,
}

impl JobGauges {
    /// Maximum number of jobs of one database that have their own series. Without this limit, a
    /// queue of 100,000 jobs would create a million series. [`QueueGauges`] counts all jobs.
    pub const MOST: usize = 1000;

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state.as_str(), "succeeded" | "failed" | "cancelled")
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct QueueGauges {
    /// The number of jobs in each state, including states with 0 jobs.
    pub jobs: Vec<(String, i64)>,
    /// The Unix time in seconds at which the oldest eligible job began to wait. None if no job
    /// waits.
    pub oldest_queued_at: Option<f64>,
}

/// The gauges of one rollout. Times are in seconds; `since` is a Unix time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RolloutGauges {
    pub name: String,
    pub stage: String,
    pub state: String,
    /// None if the rollout does not wait. The label is then empty.
    pub waiting_reason: Option<String>,
    pub since: f64,
    /// The longest time that a statement has waited for its locks.
    pub lock_wait: Option<f64>,
    /// The longest time that a statement has held its locks.
    pub lock_hold: Option<f64>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ThrottleGauges {
    /// The limit in rows per second. None if the rate is not limited, the limit is not known yet,
    /// or no slice is active.
    pub rate_limit: Option<f64>,
    pub signals: Vec<SignalGauges>,
    pub replicas: Vec<ReplicaGauges>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct SignalGauges {
    pub signal: String,
    pub source: String,
    /// The value divided by the limit. None if the signal has no limit or could not be read.
    pub utilization: Option<f64>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReplicaGauges {
    pub replica: String,
    /// Whether the lag of the replica could be read.
    pub up: bool,
    pub lag_seconds: Option<f64>,
    pub lag_bytes: Option<f64>,
    pub limit_seconds: Option<f64>,
}

/// The newest snapshot of each kind, by database.
#[derive(Default)]
pub(super) struct Pictures {
    jobs: BTreeMap<String, (Instant, Vec<JobGauges>)>,
    queues: BTreeMap<String, (Instant, QueueGauges)>,
    rollouts: BTreeMap<String, (Instant, Vec<RolloutGauges>)>,
    throttles: BTreeMap<String, (Instant, ThrottleGauges)>,
    ready: BTreeMap<String, bool>,
}

impl Pictures {
    pub(super) fn set_jobs(&mut self, database: &str, jobs: Vec<JobGauges>) {
        self.jobs.insert(database.to_owned(), (Instant::now(), jobs));
    }

    pub(super) fn set_queue(&mut self, database: &str, queue: QueueGauges) {
        self.queues.insert(database.to_owned(), (Instant::now(), queue));
    }

    pub(super) fn set_rollouts(&mut self, database: &str, rollouts: Vec<RolloutGauges>) {
        self.rollouts.insert(database.to_owned(), (Instant::now(), rollouts));
    }

    pub(super) fn set_throttle(&mut self, database: &str, throttle: ThrottleGauges) {
        self.throttles.insert(database.to_owned(), (Instant::now(), throttle));
    }

    pub(super) fn set_ready(&mut self, ready: BTreeMap<String, bool>) {
        self.ready = ready;
    }

    /// Renders the snapshots that are not stale. Each scrape uses a new recorder, so the output
    /// contains no series of an earlier scrape.
    pub(super) fn render(&self, footprints: &Footprints) -> String {
        let recorder = new_recorder(None);
        with_local_recorder(&recorder, || {
            gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
            gauge!(PROCESS_START).set(*STARTED);
            for (database, ready) in &self.ready {
                gauge!(DATABASE_READY, "database" => database.clone()).set(if *ready { 1.0 } else { 0.0 });
            }
            for (database, jobs) in fresh(&self.jobs) {
                jobs.iter().for_each(|job| draw_job(database, job, footprints.of(database, &job.name)));
            }
            for (database, queue) in fresh(&self.queues) {
                draw_queue(database, queue);
            }
            for (database, rollouts) in fresh(&self.rollouts) {
                rollouts.iter().for_each(|rollout| draw_rollout(database, rollout));
            }
            for (database, throttle) in fresh(&self.throttles) {
                draw_throttle(database, throttle);
            }
        });
        recorder.handle().render()
    }
}

fn fresh<T>(pictures: &BTreeMap<String, (Instant, T)>) -> impl Iterator<Item = (&str, &T)> {
    pictures
        .iter()
        .filter(|(_, (at, _))| at.elapsed() < STALE)
        .map(|(database, (_, picture))| (database.as_str(), picture))
}

fn draw_job(database: &str, job: &JobGauges, written: Footprint) {
    gauge!(
        JOB_INFO,
        "database" => database.to_owned(),
        "job_name" => job.name.clone(),
        "state" => job.state.clone(),
        "waiting_reason" => job.waiting_reason.clone().unwrap_or_default(),
    )
    .set(1.0);
    for (name, value) in [
        (JOB_PROGRESS, job.progress_ratio),
        (JOB_REMAINING, job.remaining_rows),
        (JOB_LAST_PROGRESS, job.last_progress_at),
        (JOB_ETA, job.eta),
        (JOB_DEADLINE, job.deadline),
        (JOB_HOT, written.hot_ratio),
        (JOB_WAL, written.wal_bytes_per_row),
        (JOB_HEAP_GROWTH, job.heap_growth),
        (JOB_INDEX_GROWTH, job.index_growth),
    ] {
        if let Some(value) = value {
            gauge!(name, "database" => database.to_owned(), "job_name" => job.name.clone()).set(value);
        }
    }
}

fn draw_queue(database: &str, queue: &QueueGauges) {
    for (state, count) in &queue.jobs {
        #[allow(clippy::cast_precision_loss)]
        gauge!(QUEUE_JOBS, "database" => database.to_owned(), "state" => state.clone()).set(*count as f64);
    }
    if let Some(at) = queue.oldest_queued_at {
        gauge!(OLDEST_QUEUED, "database" => database.to_owned()).set(at);
    }
}

fn draw_rollout(database: &str, rollout: &RolloutGauges) {
    gauge!(
        ROLLOUT_INFO,
        "database" => database.to_owned(),
        "rollout" => rollout.name.clone(),
        "stage" => rollout.stage.clone(),
        "state" => rollout.state.clone(),
        "waiting_reason" => rollout.waiting_reason.clone().unwrap_or_default(),
    )
    .set(1.0);
    for (name, value) in [
        (ROLLOUT_STAGE, Some(rollout.since)),
        (ROLLOUT_LOCK_WAIT, rollout.lock_wait),
        (ROLLOUT_LOCK_HOLD, rollout.lock_hold),
    ] {
        if let Some(value) = value {
            gauge!(name, "database" => database.to_owned(), "rollout" => rollout.name.clone()).set(value);
        }
    }
}

fn draw_throttle(database: &str, throttle: &ThrottleGauges) {
    if let Some(rate) = throttle.rate_limit {
        gauge!(RATE_LIMIT, "database" => database.to_owned()).set(rate);
    }
    for SignalGauges { signal, source, utilization } in &throttle.signals {
        if let Some(utilization) = *utilization {
            let (signal, source) = (signal.clone(), source.clone());
            gauge!(SIGNAL_UTILIZATION, "database" => database.to_owned(), "signal" => signal, "source" => source)
                .set(utilization);
        }
    }
    for replica in &throttle.replicas {
        for (name, value) in [
            (REPLICA_UP, Some(if replica.up { 1.0 } else { 0.0 })),
            (REPLICA_LAG_SECONDS, replica.lag_seconds),
            (REPLICA_LAG_BYTES, replica.lag_bytes),
            (REPLICA_LAG_LIMIT, replica.limit_seconds),
        ] {
            if let Some(value) = value {
                gauge!(name, "database" => database.to_owned(), "replica" => replica.replica.clone()).set(value);
            }
        }
    }
}
