//! Metrics for Prometheus: every name, label and bucket in one place.
//!
//! Counters and histograms are written where the thing happens, through the verbs below. Gauges are pictures
//! ([`gauges`]): a loop hands in the newest whole picture of its database, and each scrape draws it afresh. So a job
//! that ended, a state that was left and a timestamp that no longer applies are gone with the next picture, which the
//! exporter by itself can't do: it has no way to delete one series, only a timeout for idle ones.
//!
//! That timeout is used for the counters of jobs: [`Handle::jobs`] touches those of live jobs, and what nobody
//! touched for [`JOB_COUNTERS_IDLE`] is dropped. Counters without a job never are.
//!
//! `job` and `instance` are target labels of Prometheus itself and are never used here.

mod footprint;
mod gauges;
mod names;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit, counter, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use metrics_util::MetricKindMask;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};

pub use footprint::{Wal, Written, written};
pub use gauges::{JobGauges, QueueGauges, ReplicaGauges, SignalGauges, ThrottleGauges};

pub const ROWS_CHANGED: &str = "backfilld_rows_changed_total";
pub const ROWS_SCANNED: &str = "backfilld_rows_scanned_total";
pub const ROWS_QUARANTINED: &str = "backfilld_rows_quarantined_total";
pub const BATCHES: &str = "backfilld_batches_total";
pub const WAL_BYTES: &str = "backfilld_wal_bytes_total";
pub const BATCH_DURATION: &str = "backfilld_batch_duration_seconds";
pub const BATCH_ROWS: &str = "backfilld_batch_rows";
pub const VICTIM_WAIT: &str = "backfilld_victim_wait_seconds";
pub const HOLD: &str = "backfilld_hold_seconds_total";
pub const GUARD_YIELDS: &str = "backfilld_guard_yields_total";
pub const LEASE_TAKEOVERS: &str = "backfilld_lease_takeovers_total";
pub const FENCED_WRITES: &str = "backfilld_fenced_writes_total";
pub const JOBS_FINISHED: &str = "backfilld_jobs_finished_total";
pub const JOB_INFO: &str = "backfilld_job_info";
pub const JOB_PROGRESS: &str = "backfilld_job_progress_ratio";
pub const JOB_REMAINING: &str = "backfilld_job_remaining_rows";
pub const JOB_LAST_PROGRESS: &str = "backfilld_job_last_progress_timestamp_seconds";
pub const JOB_ETA: &str = "backfilld_job_eta_timestamp_seconds";
pub const JOB_DEADLINE: &str = "backfilld_job_deadline_timestamp_seconds";
pub const JOB_HOT: &str = "backfilld_job_hot_ratio";
pub const JOB_WAL: &str = "backfilld_job_wal_bytes_per_row";
pub const JOB_HEAP_GROWTH: &str = "backfilld_job_heap_growth_ratio";
pub const JOB_INDEX_GROWTH: &str = "backfilld_job_index_growth_ratio";
pub const RATE_LIMIT: &str = "backfilld_rate_limit_rows_per_second";
pub const SIGNAL_UTILIZATION: &str = "backfilld_signal_utilization_ratio";
pub const REPLICA_UP: &str = "backfilld_replica_up";
pub const REPLICA_LAG_SECONDS: &str = "backfilld_replica_lag_seconds";
pub const REPLICA_LAG_BYTES: &str = "backfilld_replica_lag_bytes";
pub const REPLICA_LAG_LIMIT: &str = "backfilld_replica_lag_limit_seconds";
pub const QUEUE_JOBS: &str = "backfilld_queue_jobs";
pub const OLDEST_QUEUED: &str = "backfilld_oldest_queued_timestamp_seconds";
pub const BUILD_INFO: &str = "backfilld_build_info";
pub const DATABASE_READY: &str = "backfilld_database_ready";
pub const PROCESS_START: &str = "backfilld_process_start_time_seconds";

/// How long the counters of a job outlive its last touch: two scrapes at the usual interval of a minute, so that the
/// last increments are seen.
pub const JOB_COUNTERS_IDLE: Duration = Duration::from_secs(120);

/// `target_batch_ms` is 10 by default, so that is where the resolution is.
const BATCH_SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// `max_batch_rows` is 5000 by default.
const ROWS: &[f64] = &[1.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0, 50_000.0];
/// `max_victim_wait_ms` is 50 by default.
const WAIT_SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5];

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

/// Rows were set aside because no batch can change them.
pub fn rows_quarantined(database: &str, job_name: &str, rows: u64) {
    if rows > 0 {
        of_job(ROWS_QUARANTINED, database, job_name, None).increment(rows);
    }
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

/// No batch ran for this long, for a reason out of the contract's list. Holds are short and the facade's counters
/// are whole, so what is counted is the whole seconds of the sum.
pub fn held(database: &str, reason: &str, took: Duration) {
    static SUMS: Mutex<BTreeMap<(String, String), Duration>> = Mutex::new(BTreeMap::new());
    let total = {
        let mut sums = SUMS.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = sums.entry((database.to_owned(), reason.to_owned())).or_default();
        *sum += took;
        *sum
    };
    counter!(HOLD, "database" => database.to_owned(), "reason" => reason.to_owned()).absolute(total.as_secs());
}

fn of_job(name: &'static str, database: &str, job_name: &str, outcome: Option<Outcome>) -> Counter {
    let (database, job_name) = (database.to_owned(), names::counted_as(database, job_name).to_owned());
    match outcome {
        Some(outcome) => counter!(name, "database" => database, "job_name" => job_name, "outcome" => outcome.as_str()),
        None => counter!(name, "database" => database, "job_name" => job_name),
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

const HELP: &[(&str, Unit, &str)] = &[
    (ROWS_CHANGED, Unit::Count, "Rows changed by committed batches of this daemon."),
    (ROWS_SCANNED, Unit::Count, "Rows that committed batches of this daemon went past, changed or not."),
    (ROWS_QUARANTINED, Unit::Count, "Rows set aside because no batch can change them."),
    (BATCHES, Unit::Count, "Batches by how they ended."),
    (WAL_BYTES, Unit::Bytes, "WAL written by the sessions in which this daemon runs batches; from PostgreSQL 18 on."),
    (BATCH_DURATION, Unit::Seconds, "Time of a committed batch, from statement to acknowledged commit."),
    (BATCH_ROWS, Unit::Count, "Rows changed by a committed batch."),
    (VICTIM_WAIT, Unit::Seconds, "How long a session was seen waiting behind a batch."),
    (HOLD, Unit::Seconds, "Time without a next batch, by reason."),
    (GUARD_YIELDS, Unit::Count, "Batches cancelled for a session that waited behind them."),
    (LEASE_TAKEOVERS, Unit::Count, "Expired leases taken over by this daemon."),
    (FENCED_WRITES, Unit::Count, "Writes refused because another holder has the slice."),
    (JOBS_FINISHED, Unit::Count, "Jobs that ended, by final state."),
    (JOB_INFO, Unit::Count, "A live job, its state and what it waits for; always 1."),
    (JOB_PROGRESS, Unit::Count, "Share of the job's key range that is done, 0 to 1."),
    (JOB_REMAINING, Unit::Count, "Rows still to go past, estimated."),
    (JOB_LAST_PROGRESS, Unit::Seconds, "Unix time at which this daemon last saw the job come further."),
    (JOB_ETA, Unit::Seconds, "Unix time at which the job should end at its present pace."),
    (JOB_DEADLINE, Unit::Seconds, "Unix time by which the job should have ended."),
    (
        RATE_LIMIT,
        Unit::CountPerSecond,
        "Rows a second that this daemon is allowed now; absent while nothing limits it.",
    ),
    (
        JOB_HOT,
        Unit::Count,
        "Share of the job's row versions that took no new index entries, by samples of this daemon's sessions.",
    ),
    (JOB_WAL, Unit::Bytes, "WAL that this daemon's batches of the job wrote for each row that they changed."),
    (JOB_HEAP_GROWTH, Unit::Count, "Size of the job's table, TOAST included, over its size at planning."),
    (JOB_INDEX_GROWTH, Unit::Count, "Size of the table's indexes over their size at planning."),
    (SIGNAL_UTILIZATION, Unit::Count, "Reading of a signal over its limit; above 1 the work holds or is halved."),
    (REPLICA_UP, Unit::Count, "Whether the replica's lag can be read: 1 or 0."),
    (REPLICA_LAG_SECONDS, Unit::Seconds, "Replay lag of the replica; 0 when it has replayed all there is."),
    (REPLICA_LAG_BYTES, Unit::Bytes, "WAL that the replica has not replayed yet."),
    (REPLICA_LAG_LIMIT, Unit::Seconds, "Replay lag at which the work holds."),
    (QUEUE_JOBS, Unit::Count, "Jobs in the database by state."),
    (OLDEST_QUEUED, Unit::Seconds, "Unix time since when the oldest eligible job waits; absent when none does."),
    (BUILD_INFO, Unit::Count, "The running version; always 1."),
    (DATABASE_READY, Unit::Count, "Whether this daemon can work in the database, as /readyz has it: 1 or 0."),
    (PROCESS_START, Unit::Seconds, "Unix time at which this daemon was started."),
];

fn describe(recorder: &impl Recorder) {
    for &(name, unit, help) in HELP {
        // The exporter keeps one table for all three kinds, and writes a line only for a metric that exists.
        recorder.describe_gauge(name.into(), Some(unit), help.into());
    }
}

fn new_recorder(idle: Option<Duration>) -> PrometheusRecorder {
    use metrics_exporter_prometheus::Matcher::Full;
    let with_buckets = |builder: PrometheusBuilder, name: &str, buckets: &[f64]| {
        builder.set_buckets_for_metric(Full(name.to_owned()), buckets)
    };
    let recorder = with_buckets(PrometheusBuilder::new(), BATCH_DURATION, BATCH_SECONDS)
        .and_then(|builder| with_buckets(builder, BATCH_ROWS, ROWS))
        .and_then(|builder| with_buckets(builder, VICTIM_WAIT, WAIT_SECONDS))
        .expect("bucket lists are not empty")
        .idle_timeout(MetricKindMask::COUNTER, idle)
        .build_recorder();
    describe(&recorder);
    recorder
}

/// What the facade writes to: one recorder that forgets idle series, for the counters of jobs, and one that does not.
struct Split {
    of_jobs: PrometheusRecorder,
    lasting: PrometheusRecorder,
}

impl Split {
    fn new(idle: Duration) -> Self {
        Self { of_jobs: new_recorder(Some(idle)), lasting: new_recorder(None) }
    }

    fn handle(&self) -> Handle {
        let recorders = Recorders { of_jobs: self.of_jobs.handle(), lasting: self.lasting.handle() };
        Handle(Arc::new(Inner { recorders, pictures: Mutex::default() }))
    }

    fn of(&self, key: &Key) -> &PrometheusRecorder {
        if key.labels().any(|label| label.key() == "job_name") { &self.of_jobs } else { &self.lasting }
    }
}

impl Recorder for Split {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.of(key).register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.of(key).register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        self.of(key).register_histogram(key, metadata)
    }
}

struct Recorders {
    of_jobs: PrometheusHandle,
    lasting: PrometheusHandle,
}

struct Inner {
    recorders: Recorders,
    pictures: Mutex<gauges::Pictures>,
}

/// Takes pictures from the loops, and renders everything. Cheap to clone.
#[derive(Clone)]
pub struct Handle(Arc<Inner>);

/// Make this process's metrics. Once only; needs no runtime.
pub fn install() -> Result<Handle> {
    LazyLock::force(&gauges::STARTED);
    let split = Split::new(JOB_COUNTERS_IDLE);
    let handle = split.handle();
    metrics::set_global_recorder(split)
        .map_err(|_| Error::new(Kind::Internal, "metrics are installed already in this process"))?;
    Ok(handle)
}

impl Handle {
    /// A handle that nothing but pictures writes to, for tests and for verbs that serve no metrics.
    pub fn detached() -> Self {
        Split::new(JOB_COUNTERS_IDLE).handle()
    }

    /// All metrics in the text format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut text = self.0.recorders.lasting.render();
        text.push_str(&self.0.recorders.of_jobs.render());
        text.push_str(&self.pictures().render());
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
        footprint::keep(database, |name| jobs.iter().any(|job| job.name == name));
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

    fn pictures(&self) -> std::sync::MutexGuard<'_, gauges::Pictures> {
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

#[cfg(test)]
mod tests;
