//! Every name, with its unit and what it says.

use metrics::Unit;

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

pub(super) const HELP: &[(&str, Unit, &str)] = &[
    (ROWS_CHANGED, Unit::Count, "Rows changed by committed batches of this daemon."),
    (ROWS_SCANNED, Unit::Count, "Rows that committed batches of this daemon went past, changed or not."),
    (ROWS_QUARANTINED, Unit::Count, "Rows quarantined because no batch can change them."),
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
    (SIGNAL_UTILIZATION, Unit::Count, "Reading of a signal over its limit; above 1 the work holds or slows down."),
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
