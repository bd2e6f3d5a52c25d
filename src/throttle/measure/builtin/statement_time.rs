//! Load signal. The value is the time that the application's statements take, divided by the time
//! that they take while no job runs. The times come from the extension pg_stat_statements. If the
//! extension is not installed, the signal is absent.
//!
//! Each statement is compared with itself, so a change in the mix of statements does not matter.
//! For each statement, the baseline contains the mean time of a call while no job runs. The value
//! is computed from the calls since the last poll that gave a value. It is the total time of these
//! calls, divided by the time that they would take according to the baseline. Statements that the
//! baseline does not contain are not compared. The daemon's own statements are recognized by their
//! text, in which each name is qualified with the schema `pg_catalog` or `backfill`.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::error::{Error, Kind, Result};
use crate::pg::row::Columns;
use crate::throttle::measure::poll::{Poll, Sample};

/// Minimum number of calls from which a value is computed. If there are fewer calls, they are kept
/// and added to the calls of the next poll.
const FEW_CALLS: f64 = 20.0;
/// Weight of the latest poll in the baseline of a statement. The baseline is a moving average of
/// the time per call while no job runs.
const WEIGHT: f64 = 0.3;
/// Maximum number of statements that are compared. These are the statements with the highest total
/// time.
const MOST: usize = 1000;
/// A value is computed only from a minimum number of calls. To reach that number, calls are added
/// up for at most this time.
const TOO_LONG: Duration = Duration::from_secs(60);

const INSTALLED: &str = "
select pg_catalog.quote_ident(n.nspname), pg_catalog.pg_has_role('pg_read_all_stats', 'usage'), pg_catalog.quote_ident(current_user)
  from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace where e.extname = 'pg_stat_statements'";

/// Identifies a statement by its role and its query ID.
type Id = (u32, i64);

/// Number of calls of a statement since the statistics were reset, and the total time of these
/// calls in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spent {
    calls: f64,
    millis: f64,
}

/// Holds the baseline, and the counters with which the next poll is compared. Does no I/O and reads
/// no clock.
#[derive(Debug, Default)]
struct Comparison {
    /// Milliseconds per call while no job runs.
    baseline: HashMap<Id, f64>,
    last: HashMap<Id, Spent>,
    last_at: Option<Instant>,
    /// Whether a job ran at the last poll. If so, the job may have slowed down the calls since that
    /// poll.
    worked: bool,
}

impl Comparison {
    /// Updates the baseline while no job runs, because calls then take their usual time. At the
    /// first poll, creates the baseline from all calls since the statistics were reset, even if a
    /// job runs.
    fn learn(&mut self, at: Instant, now: HashMap<Id, Spent>) {
        let mut baseline = HashMap::with_capacity(now.len());
        for (id, spent) in &now {
            let before = self.baseline.get(id).copied();
            let since = self.last.get(id).map_or(*spent, |last| since(*last, *spent));
            let recent = (since.calls > 0.0).then(|| since.millis / since.calls);
            let mean = match (before, recent) {
                (Some(before), Some(_)) if self.worked => before,
                (Some(before), Some(recent)) => before + WEIGHT * (recent - before),
                (Some(mean), None) | (None, Some(mean)) => mean,
                (None, None) => continue,
            };
            baseline.insert(*id, mean);
        }
        *self = Self { baseline, last: now, last_at: Some(at), worked: false };
    }

    /// Compares the calls with the baseline while a job runs. Returns the time of the calls,
    /// divided by the time that they would take according to the baseline. Returns none if there
    /// were too few calls.
    fn compare(&mut self, at: Instant, now: HashMap<Id, Spent>) -> Option<f64> {
        self.worked = true;
        let (mut calls, mut millis, mut usual) = (0.0, 0.0, 0.0);
        for (id, spent) in &now {
            let (Some(mean), Some(last)) = (self.baseline.get(id), self.last.get(id)) else { continue };
            let since = since(*last, *spent);
            calls += since.calls;
            millis += since.millis;
            usual += since.calls * mean;
        }
        let enough = calls >= FEW_CALLS && usual > 0.0;
        let too_old = self.last_at.is_some_and(|last| at.saturating_duration_since(last) > TOO_LONG);
        if enough || too_old {
            (self.last, self.last_at) = (now, Some(at));
        }
        enough.then(|| millis / usual)
    }

    fn knows_nothing(&self) -> bool {
        self.last_at.is_none()
    }
}

/// Returns the difference of two counters. After a reset of the counters, returns `now`, because
/// all calls that `now` counts are new.
fn since(last: Spent, now: Spent) -> Spent {
    if now.calls < last.calls {
        return now;
    }
    Spent { calls: now.calls - last.calls, millis: (now.millis - last.millis).max(0.0) }
}

pub struct StatementTime {
    limit: Option<f64>,
    comparison: Comparison,
}

impl StatementTime {
    pub fn new(limit: Option<f64>) -> Self {
        Self { limit, comparison: Comparison::default() }
    }
}

impl Poll for StatementTime {
    fn poll<'a>(&'a mut self, client: &'a Client, working: bool) -> BoxFuture<'a, Result<Vec<Sample>>> {
        Box::pin(async move {
            let installed = client.query_typed(INSTALLED, &[]).await?;
            let Some(row) = installed.first() else { return Ok(Vec::new()) };
            let (schema, may): (String, bool) = (row.read(0)?, row.read(1)?);
            if !may {
                let login: String = row.read(2)?;
                return Err(Error::new(
                    Kind::Permission,
                    "permission denied to read other roles' statements in pg_stat_statements",
                )
                .hint(format!("As an administrator, run: grant pg_read_all_stats to {login};")));
            }
            if !working || self.comparison.knows_nothing() {
                let now = spent(client, &schema, true).await?;
                self.comparison.learn(Instant::now(), now);
                return Ok(Vec::new());
            }
            let now = spent(client, &schema, false).await?;
            let times = self.comparison.compare(Instant::now(), now);
            Ok(times.map(|value| Sample::of_server(value, self.limit)).into_iter().collect())
        })
    }
}

/// Returns the calls and the time of the [`MOST`] statements of this database with the highest
/// total time. If `with_text` is true, the daemon's own statements and statements such as `begin`
/// and `set` are excluded by their text. The server keeps the texts in a file, so they are read
/// only for the baseline. A comparison does not need the texts, because it leaves out the
/// statements that the baseline does not contain.
async fn spent(client: &Client, schema: &str, with_text: bool) -> Result<HashMap<Id, Spent>> {
    let not_ours = if with_text {
        "and s.query not like '%backfill.%' and s.query not like '%pg_catalog.%' and s.query !~* '^\\s*(begin|commit|rollback|set|reset|show|start|end|discard)\\M'"
    } else {
        ""
    };
    let sql = format!(
        "select s.userid, s.queryid, s.calls::pg_catalog.float8, s.total_exec_time
           from {schema}.pg_stat_statements({with_text}) s
          where s.dbid = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())
            and s.queryid is not null {not_ours}
          order by s.total_exec_time desc limit {MOST}"
    );
    let mut found: HashMap<Id, Spent> = HashMap::new();
    for row in client.query_typed(&sql, &[]).await? {
        let id = (row.read::<u32>(0)?, row.read::<i64>(1)?);
        // The extension counts calls at top level and calls within functions separately.
        let spent = found.entry(id).or_insert(Spent { calls: 0.0, millis: 0.0 });
        spent.calls += row.read::<f64>(2)?;
        spent.millis += row.read::<f64>(3)?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(list: &[(i64, f64, f64)]) -> HashMap<Id, Spent> {
        list.iter().map(|(id, calls, millis)| ((10, *id), Spent { calls: *calls, millis: *millis })).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn statements_are_compared_with_themselves() {
        let at = Instant::now();
        let mut comparison = Comparison::default();
        comparison.learn(at, spent(&[(1, 100.0, 100.0), (2, 10.0, 1000.0)]));
        // The slow statement is called more often, but takes as long as before. A statement that
        // did not run before is not compared.
        let now = spent(&[(1, 100.0, 100.0), (2, 110.0, 11_000.0), (3, 1000.0, 1e6)]);
        assert_eq!(comparison.compare(at, now), Some(1.0));
        let now = spent(&[(1, 200.0, 400.0), (2, 110.0, 11_000.0)]);
        assert_eq!(comparison.compare(at, now), Some(3.0));
    }

    #[tokio::test(start_paused = true)]
    async fn few_calls_are_kept_for_the_next_poll() {
        let at = Instant::now();
        let mut comparison = Comparison::default();
        comparison.learn(at, spent(&[(1, 100.0, 100.0)]));
        assert_eq!(comparison.compare(at, spent(&[(1, 110.0, 120.0)])), None);
        assert_eq!(comparison.compare(at, spent(&[(1, 120.0, 140.0)])), Some(2.0));
        assert_eq!(comparison.compare(at, spent(&[(1, 120.0, 140.0)])), None);
        // Old calls are not reported as if they were recent.
        let later = at + Duration::from_secs(61);
        assert_eq!(comparison.compare(later, spent(&[(1, 130.0, 150.0)])), None);
        assert_eq!(comparison.compare(later, spent(&[(1, 150.0, 170.0)])), Some(1.0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_baseline_follows_the_polls_at_rest() {
        let at = Instant::now();
        let mut comparison = Comparison::default();
        comparison.learn(at, spent(&[(1, 100.0, 100.0)]));
        comparison.learn(at, spent(&[(1, 200.0, 300.0)]));
        assert!((comparison.baseline[&(10, 1)] - 1.3).abs() < 1e-9);
        // After a reset of the statistics, all calls count as new. Each of these
        // calls takes as long as a call in the baseline, so the baseline stays the same.
        comparison.learn(at, spent(&[(1, 10.0, 13.0)]));
        assert!((comparison.baseline[&(10, 1)] - 1.3).abs() < 1e-9);
        // Calls that were made near the end of the job's run do not change the baseline.
        comparison.compare(at, spent(&[(1, 110.0, 1013.0)]));
        comparison.learn(at, spent(&[(1, 210.0, 2013.0)]));
        assert!((comparison.baseline[&(10, 1)] - 1.3).abs() < 1e-9);
    }
}
