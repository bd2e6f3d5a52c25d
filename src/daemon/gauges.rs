//! Updates the gauges of the queue, of the jobs and of the throttle. Each daemon exports the gauges
//! of all jobs, including jobs that another daemon holds and jobs that no daemon holds.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use super::growth::Growth;
use crate::error::Result;
use crate::http::status::history::{Lag, Observation};
use crate::job::state::State;
use crate::job::waiting::WaitingReason;
use crate::metrics::gauges::{JobGauges, QueueGauges, ReplicaGauges, RolloutGauges, SignalGauges, ThrottleGauges};
use crate::metrics::handle::Handle;
use crate::pg::control::Control;
use crate::pg::row::Columns;
use crate::throttle::handle::Throttle;
use crate::throttle::measure::signal::Signal;

const JOBS: &str = "
select name, state, waiting_reason, progress, remaining_rows, eta, deadline, rows_scanned, work from backfill._gauges";
const QUEUE: &str = "select state, jobs from backfill._queue";
/// Unfinished rollouts, and those that ended in the last two minutes.
const ROLLOUTS: &str = "
select r.name, r.stage, r.state, r.waiting_reason, extract(epoch from r.since)::float8,
       (select extract(epoch from max(s.waited))::float8 from backfill.rollout_statements s where s.name = r.name),
       (select extract(epoch from max(s.held + coalesce(s.committed, interval '0')))::float8 from backfill.rollout_statements s where s.name = r.name)
  from backfill.rollouts r where coalesce(r.finished_at > clock_timestamp() - interval '2 minutes', true) order by r.id desc limit 1000";
const OLDEST: &str = "select backfill._oldest_queued()";

/// The progress of each job at the last observation, and the time of its last progress. `work` is
/// the number of scanned rows plus the number of changed rows, including sweeps and the
/// verification.
#[derive(Debug, Default)]
pub(super) struct Progress {
    seen: BTreeMap<String, Far>,
    /// The number of rows that the walks of all jobs passed between the last two observations. None
    /// before the second observation.
    came: Option<u64>,
    looked: bool,
    growth: Growth,
}

#[derive(Debug, Clone, Copy)]
struct Far {
    rows: i64,
    work: i64,
    since: f64,
}

impl Progress {
    /// Returns the time at which each job in `shown` last made progress, in seconds since the
    /// epoch. `shown` contains the name of each job, the number of rows that its walk has passed,
    /// and its total work. `now` is the current time.
    fn observe(&mut self, shown: &[(&str, i64, i64)], now: f64) -> Vec<f64> {
        let before = std::mem::take(&mut self.seen);
        let passed = |(name, rows, _): &(&str, i64, i64)| {
            before.get(*name).map_or(0, |was| rows.saturating_sub(was.rows).max(0))
        };
        let came: i64 = shown.iter().map(passed).sum();
        self.came = self.looked.then(|| came.unsigned_abs());
        self.looked = true;
        let since = |name: &str, work: i64| match before.get(name) {
            Some(was) if was.work == work => was.since,
            _ => now,
        };
        shown
            .iter()
            .map(|&(name, rows, work)| {
                let since = since(name, work);
                self.seen.insert(name.to_owned(), Far { rows, work, since });
                since
            })
            .collect()
    }
}

/// Updates the gauges of a database, and returns the observation for the charts of the status page.
pub(super) async fn paint(
    handle: &Handle,
    database: &str,
    control: &Control,
    throttle: &Throttle,
    progress: &mut Progress,
) -> Result<Observation> {
    progress.growth.look(control).await;
    let jobs = control.query(JOBS, &[]).await?;
    let mut far: Vec<(&str, i64, i64)> = Vec::new();
    let mut held: Vec<Option<&str>> = Vec::new();
    for job in &jobs {
        far.push((job.read(0)?, job.read(7)?, job.read(8)?));
        if matches!(job.read(1)?, "running" | "verifying") {
            held.push(job.read(2)?);
        }
    }
    let held_by = of_all(held.into_iter());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let jobs = jobs
        .iter()
        .zip(progress.observe(&far, now))
        .map(|(row, last_progress_at)| {
            let growth = progress.growth.of(row.read(0)?);
            Ok(JobGauges {
                name: row.read(0)?,
                state: row.read(1)?,
                waiting_reason: row.read(2)?,
                progress_ratio: row.read(3)?,
                remaining_rows: row.read::<Option<f64>>(4)?.map(|rows| rows.max(0.0)),
                last_progress_at: Some(last_progress_at),
                eta: row.read(5)?,
                deadline: row.read(6)?,
                heap_growth: growth.table,
                index_growth: growth.indexes,
            })
        })
        .collect::<Result<_>>()?;
    handle.jobs(database, jobs);

    let counted = control.query(QUEUE, &[]).await?;
    let counted: HashMap<&str, i64> =
        counted.iter().map(|row| Ok((row.read(0)?, row.read(1)?))).collect::<Result<_>>()?;
    let of_state = |state: &State| {
        let text = state.to_string();
        let count = counted.get(text.as_str()).copied().unwrap_or(0);
        (text, count)
    };
    let oldest = control.query(OLDEST, &[]).await?;
    handle.queue(
        database,
        QueueGauges {
            jobs: State::ALL.iter().map(of_state).collect(),
            oldest_queued_at: oldest.first().map_or(Ok(None), |row| row.read(0))?,
        },
    );
    let rollouts = control.query(ROLLOUTS, &[]).await?;
    let gauges = |row: &tokio_postgres::Row| {
        Ok(RolloutGauges {
            name: row.read(0)?,
            stage: row.read(1)?,
            state: row.read(2)?,
            waiting_reason: row.read(3)?,
            since: row.read(4)?,
            lock_wait: row.read(5)?,
            lock_hold: row.read(6)?,
        })
    };
    handle.rollouts(database, rollouts.iter().map(gauges).collect::<Result<_>>()?);
    let throttled = throttled(throttle);
    let lag = |replica: &ReplicaGauges| Lag {
        replica: replica.replica.clone(),
        seconds: replica.lag_seconds,
        limit: replica.limit_seconds,
    };
    let lags = throttled.replicas.iter().filter(|replica| replica.limit_seconds.is_some()).map(lag).collect();
    handle.throttle(database, throttled);
    Ok(Observation { rows: progress.came, held_by, lags })
}

/// Returns the waiting reason of the first job if all jobs are held, and otherwise none. A job that
/// waits for its own rate limit does not count as held.
fn of_all<'a>(reasons: impl Iterator<Item = Option<&'a str>>) -> Option<String> {
    let all: Option<Vec<&str>> = reasons.map(|reason| reason.filter(|reason| *reason != "rate")).collect();
    all?.first().map(|first| (*first).to_owned())
}

fn throttled(throttle: &Throttle) -> ThrottleGauges {
    let snapshot = throttle.snapshot();
    let readings = &snapshot.readings.list;
    let signals = readings
        .iter()
        .map(|reading| SignalGauges {
            signal: reading.signal.as_str().to_owned(),
            source: reading.source.clone(),
            utilization: reading.utilization(),
        })
        .collect();
    let mut replicas: Vec<ReplicaGauges> = Vec::new();
    for reading in readings.iter().filter(|reading| reading.signal.waiting_reason() == WaitingReason::ReplicaLag) {
        let found = replicas.iter().position(|replica| replica.replica == reading.source);
        let index = found.unwrap_or_else(|| {
            replicas.push(ReplicaGauges { replica: reading.source.clone(), ..ReplicaGauges::default() });
            replicas.len() - 1
        });
        let Some(replica) = replicas.get_mut(index) else { continue };
        match reading.signal {
            Signal::ReplicaLagSeconds => {
                replica.up = reading.value.is_some();
                replica.lag_seconds = reading.value;
                replica.limit_seconds = Some(reading.limit);
            }
            Signal::ReplicaLagBytes => replica.lag_bytes = reading.value,
            _ => {}
        }
    }
    // The replicas in `lost_replicas` do not hold jobs, so no limit is exported for them.
    for lost in &snapshot.readings.lost_replicas {
        if replicas.iter().all(|replica| replica.replica != *lost) {
            replicas.push(ReplicaGauges { replica: lost.clone(), ..ReplicaGauges::default() });
        }
    }
    ThrottleGauges { rate_limit: throttle.rows_per_second(), signals, replicas }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_is_held_if_each_job_is_held_and_not_by_its_own_rate() {
        let of = |reasons: &[Option<&'static str>]| of_all(reasons.iter().copied());
        assert_eq!(of(&[Some("replica_lag"), Some("window")]).as_deref(), Some("replica_lag"));
        for none in [&[][..], &[None], &[Some("load"), None], &[Some("rate")], &[Some("rate"), Some("load")]] {
            assert_eq!(of(none), None, "{none:?}");
        }
    }

    #[test]
    fn the_progress_gauge_is_the_time_of_the_last_progress() {
        let mut progress = Progress::default();
        assert_eq!(progress.observe(&[("a", 5, 10), ("b", 0, 0)], 100.0), [100.0, 100.0]);
        assert_eq!(progress.came, None, "before the second observation");
        assert_eq!(progress.observe(&[("a", 5, 10), ("b", 7, 14)], 200.0), [100.0, 200.0]);
        assert_eq!(progress.came, Some(7));
        assert_eq!(progress.observe(&[("a", 5, 10)], 300.0), [100.0]);
        // Job `a` has started again from the beginning. Job `b` disappeared and has come back. Both
        // count as new, so the time of this observation counts as their last progress.
        assert_eq!(progress.observe(&[("a", 0, 0), ("b", 7, 14)], 400.0), [400.0, 400.0]);
        assert_eq!(progress.came, Some(0));
        // A verification does not advance the walk, but counts as work.
        assert_eq!(progress.observe(&[("a", 0, 0), ("b", 7, 20)], 500.0), [400.0, 500.0]);
        assert_eq!(progress.came, Some(0));
    }
}
