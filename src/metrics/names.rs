//! Names, units and help texts of all metrics.

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
pub const THROTTLED: &str = "backfilld_throttled_seconds_total";
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
pub const ROLLOUT_INFO: &str = "backfilld_rollout_info";
pub const ROLLOUT_STAGE: &str = "backfilld_rollout_stage_timestamp_seconds";
pub const ROLLOUT_LOCK_WAIT: &str = "backfilld_rollout_lock_wait_seconds";
pub const ROLLOUT_LOCK_HOLD: &str = "backfilld_rollout_lock_hold_seconds";
pub const QUEUE_JOBS: &str = "backfilld_queue_jobs";
pub const OLDEST_QUEUED: &str = "backfilld_oldest_queued_timestamp_seconds";
pub const BUILD_INFO: &str = "backfilld_build_info";
pub const DATABASE_READY: &str = "backfilld_database_ready";
pub const PROCESS_START: &str = "backfilld_process_start_time_seconds";

pub(super) const HELP: &[(&str, Unit, &str)] = &[
    (ROWS_CHANGED, Unit::Count, "Rows changed by committed batches of this daemon."),
    (ROWS_SCANNED, Unit::Count, "Rows processed (changed or not) by committed batches of this daemon."),
    (ROWS_QUARANTINED, Unit::Count, "Rows quarantined because they could not be changed."),
    (BATCHES, Unit::Count, "Batches by outcome."),
    (
        WAL_BYTES,
        Unit::Bytes,
        "WAL bytes written by the sessions in which this daemon runs batches; PostgreSQL 18 and later.",
    ),
    (BATCH_DURATION, Unit::Seconds, "Duration of a committed batch, from its statement to the acknowledged commit."),
    (BATCH_ROWS, Unit::Count, "Rows changed by a committed batch."),
    (
        VICTIM_WAIT,
        Unit::Seconds,
        "Time that a session waited for a lock before the daemon cancelled the batch, planning run or vacuum that held the lock.",
    ),
    (HOLD, Unit::Seconds, "Time for which slices were held, by reason."),
    (
        THROTTLED,
        Unit::Seconds,
        "Time for which slices paused between two batches because they were throttled, by reason.",
    ),
    (
        GUARD_YIELDS,
        Unit::Count,
        "Batches, planning runs and vacuums cancelled because another session waited for one of their locks.",
    ),
    (LEASE_TAKEOVERS, Unit::Count, "Expired leases taken over by this daemon."),
    (FENCED_WRITES, Unit::Count, "Writes that were refused because this daemon no longer held the slice."),
    (JOBS_FINISHED, Unit::Count, "Jobs that finished in this daemon, by final state."),
    (
        JOB_INFO,
        Unit::Count,
        "State and waiting reason of a job that is unfinished, has ended within the last 2 minutes, or has failed within the last 15 minutes; the value is always 1.",
    ),
    (JOB_PROGRESS, Unit::Count, "Progress of the job's walk, 0 to 1."),
    (JOB_REMAINING, Unit::Count, "Estimated number of rows still to be processed."),
    (JOB_LAST_PROGRESS, Unit::Seconds, "Unix time at which this daemon last saw the job make progress."),
    (
        JOB_ETA,
        Unit::Seconds,
        "Unix time at which the job's walk or, while the job is verifying, its verification is expected to finish at the current rate.",
    ),
    (JOB_DEADLINE, Unit::Seconds, "Unix time of the deadline of the job."),
    (
        RATE_LIMIT,
        Unit::CountPerSecond,
        "Rows per second that this daemon may change now; absent while no limit applies or no slice is active.",
    ),
    (
        JOB_HOT,
        Unit::Count,
        "Share of HOT updates (no new index entries) among the row versions that the job wrote, sampled in the sessions of this daemon.",
    ),
    (JOB_WAL, Unit::Bytes, "WAL bytes that the batches of this daemon wrote per changed row; PostgreSQL 18 and later."),
    (JOB_HEAP_GROWTH, Unit::Count, "Size of the table including TOAST, divided by its size when the job was planned."),
    (
        JOB_INDEX_GROWTH,
        Unit::Count,
        "Size of the indexes of the table, divided by their size when the job was planned.",
    ),
    (
        SIGNAL_UTILIZATION,
        Unit::Count,
        "Value of a signal divided by its limit. At 1 or more, a budget signal holds jobs, and a load signal slows them down to the minimum speed.",
    ),
    (REPLICA_UP, Unit::Count, "1 if the lag of the replica can be read, 0 if not."),
    (REPLICA_LAG_SECONDS, Unit::Seconds, "Replay lag of the replica; 0 if it has replayed all WAL."),
    (REPLICA_LAG_BYTES, Unit::Bytes, "WAL bytes that the replica has not replayed yet."),
    (REPLICA_LAG_LIMIT, Unit::Seconds, "Replay lag at which jobs are held."),
    (ROLLOUT_INFO, Unit::Count, "Stage, state and waiting reason of a rollout, as labels; the value is always 1."),
    (ROLLOUT_STAGE, Unit::Seconds, "Unix time at which the rollout reached its stage."),
    (ROLLOUT_LOCK_WAIT, Unit::Seconds, "Longest time that a statement of the rollout has waited for its locks."),
    (ROLLOUT_LOCK_HOLD, Unit::Seconds, "Longest time that a statement of the rollout has held its locks."),
    (QUEUE_JOBS, Unit::Count, "Jobs in the database by state."),
    (
        OLDEST_QUEUED,
        Unit::Seconds,
        "Unix time at which the longest-waiting queued job began to wait; jobs that are not allowed to start are left out; absent if no job waits.",
    ),
    (BUILD_INFO, Unit::Count, "The label named version contains the version of this daemon; the value is always 1."),
    (
        DATABASE_READY,
        Unit::Count,
        "1 if this daemon can work on the database, 0 if not. Unlike /readyz, the value stays 1 during a drain.",
    ),
    (PROCESS_START, Unit::Seconds, "Unix time at which this daemon was started."),
];
