//! Load: how long the application's statements take, compared with before the work. It is read from
//! the extension pg_stat_statements; if that is not installed the signal is absent.
//!
//! Each statement is compared with itself, so that it does not matter which statements are called
//! more often than before: the time of the calls since the last poll, over the time that as many
//! calls of the same statements took before. Only statements that ran before the work began are
//! known. Ours are recognized by their text: each name in it has its schema.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::error::{Error, Kind, Result};
use crate::throttle::measure::poll::{Poll, Sample};

/// Fewer calls since the last poll say nothing; they are added to those of the next.
const FEW_CALLS: f64 = 20.0;
/// The weight of the last poll at rest in the mean of a statement.
const WEIGHT: f64 = 0.3;
/// No more statements are compared: those on which most time was spent.
const MOST: usize = 1000;
/// Nothing is said of calls that lie further back.
const TOO_LONG: Duration = Duration::from_secs(60);

const INSTALLED: &str = "
select pg_catalog.quote_ident(n.nspname), pg_catalog.pg_has_role('pg_read_all_stats', 'usage'), pg_catalog.quote_ident(current_user)
  from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace where e.extname = 'pg_stat_statements'";

/// A statement, of a role.
type Id = (u32, i64);

/// Calls, and the milliseconds that they took, since the server's statistics begin.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spent {
    calls: f64,
    millis: f64,
}

/// The baseline, and the counters at the last poll that gave a value. Pure.
#[derive(Debug, Default)]
struct Comparison {
    /// Milliseconds of one call before the work.
    baseline: HashMap<Id, f64>,
    last: HashMap<Id, Spent>,
    last_at: Option<Instant>,
    /// The last poll was at work: the calls since then may still be slowed down by it.
    worked: bool,
}

impl Comparison {
    /// At rest: what a call takes is what it usually takes.
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

    /// At work: how many times as long as before. None where there were few calls.
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

/// All of it after a reset.
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
            let (schema, may): (String, bool) = (row.try_get(0)?, row.try_get(1)?);
            if !may {
                let login: String = row.try_get(2)?;
                return Err(Error::new(Kind::Permission, "the statements of others may not be seen")
                    .hint(format!("grant pg_read_all_stats to {login}")));
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

/// What each statement of this database took. The texts are in a file, so they are read at rest
/// only: `with_text` leaves ours out.
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
        let id = (row.try_get::<_, u32>(0)?, row.try_get::<_, i64>(1)?);
        // At top level and within functions they are apart.
        let spent = found.entry(id).or_insert(Spent { calls: 0.0, millis: 0.0 });
        spent.calls += row.try_get::<_, f64>(2)?;
        spent.millis += row.try_get::<_, f64>(3)?;
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
        // Many more of the slow one: as before. A statement that was not there before says nothing.
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
        // Calls that lie far back are not shown as if they were of now.
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
        // After a reset of the statistics too.
        comparison.learn(at, spent(&[(1, 10.0, 13.0)]));
        assert!((comparison.baseline[&(10, 1)] - 1.3).abs() < 1e-9);
        // And what came at the end of the work is not what is usual.
        comparison.compare(at, spent(&[(1, 110.0, 1013.0)]));
        comparison.learn(at, spent(&[(1, 210.0, 2013.0)]));
        assert!((comparison.baseline[&(10, 1)] - 1.3).abs() < 1e-9);
    }
}
