//! Load signal without a default limit. The value is the number of other sessions that run a
//! statement. This number slows jobs down only if a rule sets a limit. The signal also reports
//! whether there is other load ([`OTHER_SESSIONS_ACTIVE`]). If there is other load, batches are
//! smaller and the maximum duty cycle is lower than on an otherwise idle server.
//!
//! Sessions of other databases are included, because they share the server. Sessions of backfilld
//! are not included, and neither are sessions that only sleep in `pg_sleep`, as `backfill.wait`
//! does. A role without `pg_read_all_stats` cannot see the statements of other roles. For such a
//! role, a session of another role is included while that session is in a transaction. Each role
//! can see in `pg_locks` which sessions are in a transaction.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::error::Result;
use crate::pg::row::Columns;
use crate::throttle::measure::poll::{Poll, Sample};
use crate::throttle::measure::readings::OTHER_SESSIONS_ACTIVE;

/// Time over which the numbers of active sessions are added up, in order to detect other load.
const WINDOW: Duration = Duration::from_secs(10);
/// If the active sessions of all polls within [`WINDOW`] add up to at least this number, there is
/// other load. An occasional monitoring query stays below this number.
const LOAD_FROM: u64 = 3;

/// The first column is the number of sessions that run a statement now. The second column also
/// counts the sessions that have begun a statement within the last second.
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
    /// Limit for the number of active sessions.
    limit: Option<f64>,
    other_load: OtherLoad,
}

/// Holds the number of active sessions at each of the last polls. Does no I/O and reads no clock.
#[derive(Debug, Default)]
struct OtherLoad {
    polls: VecDeque<(Instant, u64)>,
}

impl OtherLoad {
    /// Records the number of active sessions, and returns whether there is other load.
    fn observe(&mut self, at: Instant, sessions: u64) -> bool {
        self.polls.push_back((at, sessions));
        while self.polls.front().is_some_and(|(then, _)| at.saturating_duration_since(*then) >= WINDOW) {
            self.polls.pop_front();
        }
        self.polls.iter().map(|(_, sessions)| sessions).sum::<u64>() >= LOAD_FROM
    }
}

impl ActiveSessions {
    /// Creates the signal. If `cores` is given, `limit` is the limit per core.
    pub fn new(limit: Option<f64>, cores: Option<u32>) -> Self {
        let limit = limit.map(|limit| limit * f64::from(cores.unwrap_or(1)));
        Self { limit, other_load: OtherLoad::default() }
    }
}

impl Poll for ActiveSessions {
    fn poll<'a>(&'a mut self, client: &'a Client, _working: bool) -> BoxFuture<'a, Result<Vec<Sample>>> {
        Box::pin(async move {
            let rows = client.query_typed(OTHERS, &[]).await?;
            let (mut active, mut recent) = (0, 0);
            if let Some(row) = rows.first() {
                (active, recent) = (row.read::<i64>(0)?, row.read::<i64>(1)?);
            }
            let other_load = self.other_load.observe(Instant::now(), recent.unsigned_abs());
            let other_load = Sample {
                source: OTHER_SESSIONS_ACTIVE.to_owned(),
                ..Sample::of_server(f64::from(u8::from(other_load)), None)
            };
            Ok(vec![Sample::of_server(active as f64, self.limit), other_load])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_occasional_monitoring_query_is_not_other_load_and_a_steady_session_is() {
        let mut other_load = OtherLoad::default();
        let mut observe = async |sessions: u64| {
            tokio::time::advance(Duration::from_secs(1)).await;
            other_load.observe(Instant::now(), sessions)
        };
        for second in 0..60 {
            let sessions = u64::from(second % 15 == 0) * 2;
            assert!(!observe(sessions).await, "{second}");
        }
        // Three concurrent sessions count as load immediately. A single session counts from its
        // third poll on.
        assert!(observe(3).await);
        for _ in 0..9 {
            assert!(observe(0).await, "the other load may return");
        }
        assert!(!observe(0).await);
        assert_eq!((observe(1).await, observe(1).await, observe(1).await), (false, false, true));
    }
}
