//! Load: sessions of others that run a statement; and whether anybody else is at work at all ([`COMPANY`]), which says
//! how carefully a batch has to go.
//!
//! Sessions of other databases count: they share the server. Those that only sleep in `pg_sleep`, as
//! `backfill.wait` does, and ours don't. Where the statements of others may not be seen (no `pg_read_all_stats`),
//! a session counts while it is within a transaction, which `pg_locks` tells everybody.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::error::Result;
use crate::throttle::measure::poll::{Poll, Sample};
use crate::throttle::measure::readings::OTHER_SESSIONS_ACTIVE;

/// Somebody who was not seen for so long has gone.
const GONE_AFTER: Duration = Duration::from_secs(10);
/// Sample this often within [`GONE_AFTER`], each session at each look, it is company. A monitor that looks by once in a
/// while is none.
const COMPANY_FROM: u64 = 3;

/// How many run a statement now, and how many have begun one within the last second.
const OTHERS: &str = "
select pg_catalog.count(*) filter (where s.active), pg_catalog.count(*) filter (where s.active or s.recent)
  from (select case when a.state is not null
                    then a.state = 'active' and a.wait_event is distinct from 'PgSleep'
                    else a.pid in (select l.pid from pg_catalog.pg_locks l where l.locktype = 'virtualxid' and l.granted)
               end as active,
               coalesce(a.query_start > pg_catalog.clock_timestamp() - interval '1 second'
                        and a.wait_event is distinct from 'PgSleep', false) as recent
          from pg_catalog.pg_stat_activity a
         where a.datid is not null and a.usesysid is not null
           and coalesce(a.backend_type, 'client backend') = 'client backend'
           and a.application_name not like 'backfilld%') s";

pub struct ActiveSessions {
    /// Of sessions, at once.
    limit: Option<f64>,
    seen: Company,
}

/// Who was seen of late. Pure.
#[derive(Debug, Default)]
struct Company {
    seen: VecDeque<(Instant, u64)>,
}

impl Company {
    /// Whether there is company, now that so many were seen.
    fn meets(&mut self, at: Instant, sessions: u64) -> bool {
        self.seen.push_back((at, sessions));
        while self.seen.front().is_some_and(|(then, _)| at.saturating_duration_since(*then) >= GONE_AFTER) {
            self.seen.pop_front();
        }
        self.seen.iter().map(|(_, sessions)| sessions).sum::<u64>() >= COMPANY_FROM
    }
}

impl ActiveSessions {
    /// With `cores` the limit is for each of them.
    pub fn new(limit: Option<f64>, cores: Option<u32>) -> Self {
        let limit = limit.map(|limit| limit * f64::from(cores.unwrap_or(1)));
        Self { limit, seen: Company::default() }
    }
}

impl Poll for ActiveSessions {
    fn poll<'a>(&'a mut self, client: &'a Client, _working: bool) -> BoxFuture<'a, Result<Vec<Sample>>> {
        Box::pin(async move {
            let rows = client.query_typed(OTHERS, &[]).await?;
            let (mut active, mut recent) = (0, 0);
            if let Some(row) = rows.first() {
                (active, recent) = (row.try_get::<_, i64>(0)?, row.try_get::<_, i64>(1)?);
            }
            let company = self.seen.meets(Instant::now(), recent.unsigned_abs());
            let company = Sample {
                source: OTHER_SESSIONS_ACTIVE.to_owned(),
                ..Sample::of_server(f64::from(u8::from(company)), None)
            };
            Ok(vec![Sample::of_server(active as f64, self.limit), company])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_looks_by_once_in_a_while_is_no_company_and_who_works_is() {
        let mut company = Company::default();
        let mut meets = async |sessions: u64| {
            tokio::time::advance(Duration::from_secs(1)).await;
            company.meets(Instant::now(), sessions)
        };
        for second in 0..60 {
            let sessions = u64::from(second % 15 == 0) * 2;
            assert!(!meets(sessions).await, "{second}");
        }
        // Several at once are met at once, one that goes on after a few seconds.
        assert!(meets(3).await);
        for _ in 0..9 {
            assert!(meets(0).await, "it may come back");
        }
        assert!(!meets(0).await);
        assert_eq!((meets(1).await, meets(1).await, meets(1).await), (false, false, true));
    }
}
