//! Gauges of load: sessions of others that wait for locks, and the user's own, each a query that gives a number.
//!
//! They are read by a task of their own, so that a query that takes long keeps no budget from being read. One that can't be
//! read now says nothing: the pace stays as it is, and `backfill.signals` shows why.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool_postgres::{Client, Pool};
use tokio::sync::watch;
use tokio::time::Instant;

use super::reading::{Kind, Reading, Signal};
use super::sampler::ask;
use crate::config::SignalRule;
use crate::error::{Error, Result};

/// Sessions of others that wait for a lock, of this database. It takes no right to see them, nor whose they are.
const LOCK_WAITS: &str = "
select pg_catalog.count(distinct l.pid)::pg_catalog.float8
  from pg_catalog.pg_locks l join pg_catalog.pg_stat_activity a on a.pid = l.pid
 where not l.granted and a.datname = pg_catalog.current_database() and a.application_name not like 'backfilld%'";
/// What is looked for with each turn.
const TURN: Duration = Duration::from_millis(250);
/// A gauge that was not read for so many of its intervals says nothing.
const STALE: u32 = 3;

/// The gauges of one database; a clone is the same.
#[derive(Debug, Clone)]
pub struct Loads {
    gauges: Arc<Vec<Gauge>>,
    heard: Arc<Mutex<Vec<Option<Reading>>>>,
}

#[derive(Debug)]
struct Gauge {
    signal: Signal,
    source: String,
    sql: String,
    limit: f64,
    interval: Duration,
}

impl Loads {
    /// The built-in ones, with other limits where a rule goes by their name, and one for each other rule with a query.
    pub fn of_rules(rules: &[SignalRule]) -> Self {
        let own = rules.iter().find(|rule| rule.name == Signal::LockWaits.as_str() && rule.sql.is_none());
        let lock_waits = Gauge {
            signal: Signal::LockWaits,
            source: "server".to_owned(),
            sql: LOCK_WAITS.to_owned(),
            limit: own.map_or(SignalRule::LOCK_WAITS, |rule| rule.limit),
            interval: own.map_or(SignalRule::LOCK_WAITS_INTERVAL, |rule| rule.interval),
        };
        let users = rules.iter().filter_map(|rule| {
            Some(Gauge {
                signal: Signal::User,
                source: rule.name.clone(),
                sql: rule.sql.clone()?,
                limit: rule.limit,
                interval: rule.interval,
            })
        });
        let gauges: Vec<Gauge> = std::iter::once(lock_waits).chain(users).collect();
        let heard = Arc::new(Mutex::new(vec![None; gauges.len()]));
        Self { gauges: Arc::new(gauges), heard }
    }

    /// What the gauges said last. One that is too old can't be read.
    pub fn heard(&self, now: Instant) -> Vec<Reading> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |(gauge, reading): (&Gauge, &Option<Reading>)| {
            let reading = reading.clone()?;
            let stale = reading.age(now) > gauge.interval * STALE;
            Some(if stale { Reading { value: None, ..reading } } else { reading })
        };
        self.gauges.iter().zip(heard.iter()).filter_map(fresh).collect()
    }

    /// Reads each gauge at its interval while `working`, for ever.
    pub async fn keep_reading(self, pool: Pool, mut working: watch::Receiver<bool>) {
        let mut due: Vec<Instant> = vec![Instant::now(); self.gauges.len()];
        loop {
            if working.wait_for(|working| *working).await.is_err() {
                return;
            }
            for (n, gauge) in self.gauges.iter().enumerate() {
                if due[n] > Instant::now() {
                    continue;
                }
                due[n] = Instant::now() + gauge.interval;
                let answer = ask(&pool, async |client| number(client, &gauge.sql).await).await;
                let at = Instant::now();
                let reading = match answer {
                    Ok(value) => Reading {
                        kind: Kind::Load,
                        ..Reading::budget(gauge.signal, &gauge.source, value, gauge.limit, at)
                    },
                    Err(error) => Reading {
                        kind: Kind::Load,
                        holding: false,
                        ..Reading::unreadable(gauge.signal, &gauge.source, gauge.limit, at, error.message)
                    },
                };
                self.heard.lock().unwrap_or_else(PoisonError::into_inner)[n] = Some(reading);
            }
            tokio::time::sleep(TURN).await;
        }
    }
}

/// The one number of a query, whatever its type.
async fn number(client: &Client, sql: &str) -> Result<f64> {
    let sql = format!("select (\n{sql}\n)::pg_catalog.float8");
    let statement = client.prepare_cached(&sql).await?;
    let value: Option<f64> = client.query_one(&statement, &[]).await?.try_get(0)?;
    value.ok_or_else(|| Error::new(crate::error::Kind::Data, "the query gave null"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str, sql: Option<&str>, limit: f64) -> SignalRule {
        SignalRule { name: name.to_owned(), sql: sql.map(str::to_owned), limit, ..SignalRule::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_gauge_that_was_not_read_for_long_says_nothing() {
        let loads = Loads::of_rules(&[rule("lock_waits", None, 4.0), rule("depth", Some("select 1"), 9.0)]);
        assert!(loads.heard(Instant::now()).is_empty());
        let reading = Reading { kind: Kind::Load, ..Reading::budget(Signal::User, "depth", 3.0, 9.0, Instant::now()) };
        loads.heard.lock().expect("not poisoned")[1] = Some(reading);
        assert_eq!(loads.heard(Instant::now())[0].value, Some(3.0));
        tokio::time::advance(SignalRule::default().interval * 4).await;
        assert_eq!(loads.heard(Instant::now())[0].value, None);
        assert_eq!((loads.gauges[0].limit, loads.gauges.len()), (4.0, 2));
    }
}
