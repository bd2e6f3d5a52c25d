//! The guard: notices that a batch is in somebody's way, and has it undone.
//!
//! A batch takes milliseconds, and whoever meets it waits no longer. One that takes longer than it should is looked at
//! from a connection of the guard's own: who waits, and for whom, as a whole tree, since a second waiter on a row waits
//! for the first and not for us. When one of them has waited for `max_victim_wait_ms` the batch is cancelled, and what
//! it did is tried again in smaller pieces. A look costs the server about a millisecond, so batches that end in time
//! are never looked at.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};
use crate::metrics;
use crate::pg::connect::{Session, within};
use crate::pg::pools::Logins;

/// No look comes sooner after another: where many wait, the lock table is busy enough.
const BREATH: Duration = Duration::from_millis(2);
/// A look that takes longer than this tells nothing of now.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between attempts to connect.
const AGAIN: Duration = Duration::from_secs(1);

/// Who waits behind these sessions, and how long the longest has. `$1`: their pids. A wait that has just begun has no
/// `waitstart` yet. Sessions of `$1` among themselves are no victims.
const LOOK: &str = "
with recursive waits as materialized (
  select l.pid, pg_catalog.max(extract(epoch from pg_catalog.clock_timestamp() operator(pg_catalog.-) l.waitstart))::pg_catalog.float8 as seconds
  from pg_catalog.pg_locks l where not l.granted and l.pid operator(pg_catalog.<>) all ($1::pg_catalog.int4[]) group by l.pid),
behind as materialized (
  select w.pid, w.seconds, b.pid as before from waits w cross join lateral pg_catalog.unnest(pg_catalog.pg_blocking_pids(w.pid)) b (pid)),
tree (pid, seconds, root) as (
  select pid, seconds, before from behind where before operator(pg_catalog.=) any ($1::pg_catalog.int4[])
  union
  select b.pid, b.seconds, t.root from behind b join tree t on t.pid operator(pg_catalog.=) b.before)
select root, pg_catalog.count(distinct pid), coalesce(pg_catalog.max(seconds), 0) from tree group by root";

/// The guard of one database; a clone is the same guard.
#[derive(Debug, Clone)]
pub struct Guard {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    database: String,
    flights: Mutex<Flights>,
    /// A statement has taken off, and may be the next to be looked at.
    took_off: Notify,
}

#[derive(Debug, Default)]
struct Flights {
    next: u64,
    in_flight: BTreeMap<u64, Flight>,
}

/// A statement that runs, or several of one session.
#[derive(Debug)]
struct Flight {
    pid: i32,
    since: Instant,
    /// The longest that anybody may wait behind it.
    patience: Duration,
    look_at: Instant,
    tell: Option<oneshot::Sender<Victims>>,
}

/// Who waited too long behind a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Victims {
    pub sessions: u64,
    pub waited: Duration,
}

impl Victims {
    /// The error of what was undone for them, `what` being "the batch".
    pub fn error(self, what: &str) -> Error {
        let (sessions, waited) = (self.sessions, self.waited.as_millis());
        let who = if sessions == 1 { "a session".to_owned() } else { format!("{sessions} sessions") };
        Error::new(Kind::Yielded, format!("{who} waited {waited} ms behind {what}"))
    }
}

/// A statement that is being watched; until it is dropped.
#[derive(Debug)]
pub struct Watched {
    guard: Guard,
    number: u64,
    told: oneshot::Receiver<Victims>,
}

impl Watched {
    /// When somebody has waited too long; else never.
    pub async fn in_the_way(&mut self) -> Victims {
        match (&mut self.told).await {
            Ok(victims) => victims,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.guard.flights().in_flight.remove(&self.number);
    }
}

impl Guard {
    /// `database` is the name in the configuration, for logs and labels.
    pub fn new(database: String) -> Self {
        Self { shared: Arc::new(Shared { database, flights: Mutex::default(), took_off: Notify::new() }) }
    }

    /// Watches the statement that the session with this process id begins now. Nobody may wait behind it for longer than
    /// `patience`.
    pub fn watch(&self, pid: i32, patience: Duration) -> Watched {
        let (tell, told) = oneshot::channel();
        let since = Instant::now();
        let flight = Flight { pid, since, patience, look_at: since + patience / 2, tell: Some(tell) };
        let mut flights = self.flights();
        flights.next += 1;
        let number = flights.next;
        flights.in_flight.insert(number, flight);
        drop(flights);
        self.shared.took_off.notify_one();
        Watched { guard: self.clone(), number, told }
    }

    /// Keeps watch until `stop`.
    pub async fn keep(self, logins: Logins, stop: CancellationToken) {
        let _ = stop.run_until_cancelled(self.work(logins)).await;
    }

    async fn work(self, logins: Logins) {
        let mut failing = None;
        loop {
            let blind: Result<()> = match logins.open_control("backfilld guard", |_| {}).await {
                Ok(session) => {
                    if failing.take().is_some() {
                        tracing::info!("the guard can see again who waits behind a batch");
                    }
                    self.look_out(&session).await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = blind {
                if failing != Some(error.kind) {
                    tracing::warn!(error = %error.message, "the guard can't see who waits behind a batch; batches are still bounded by their time");
                }
                failing = Some(error.kind);
            }
            sleep(AGAIN).await;
        }
    }

    /// Looks whenever a statement has run for long enough; returns when the connection fails.
    async fn look_out(&self, session: &Session) -> Result<()> {
        let look = within(PATIENCE, session.client.prepare(LOOK)).await?;
        loop {
            let next = self.flights().in_flight.values().map(|flight| flight.look_at).min();
            tokio::select! {
                () = self.shared.took_off.notified() => continue,
                () = async { match next { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {}
            }
            let pids: Vec<i32> = self.flights().in_flight.values().map(|flight| flight.pid).collect();
            if pids.is_empty() {
                continue;
            }
            let rows = within(PATIENCE, session.client.query(&look, &[&pids])).await?;
            let seen = rows.iter().map(|row| {
                let waited = Duration::try_from_secs_f64(row.get::<_, f64>(2)).unwrap_or_default();
                (row.get(0), Victims { sessions: u64::try_from(row.get::<_, i64>(1)).unwrap_or(0), waited })
            });
            self.judge(&seen.collect(), Instant::now());
        }
    }

    /// Tells those that are in the way, and when to look at the others again.
    fn judge(&self, seen: &BTreeMap<i32, Victims>, now: Instant) {
        for flight in self.flights().in_flight.values_mut() {
            // A session may have waited for others before us, and a pid of ours may be on its next statement already.
            let age = now.saturating_duration_since(flight.since);
            let behind = seen.get(&flight.pid).map(|victims| Victims { waited: victims.waited.min(age), ..*victims });
            let Some(victims) = behind else {
                // Whoever comes now has waited for half of it when we look again.
                flight.look_at = flight.look_at.max(now + flight.patience / 2);
                continue;
            };
            flight.look_at = now + flight.patience.saturating_sub(victims.waited).max(BREATH);
            if victims.waited < flight.patience {
                continue;
            }
            if let Some(tell) = flight.tell.take() {
                metrics::victim_waited(&self.shared.database, victims.waited);
                metrics::guard_yielded(&self.shared.database);
                // It may have ended just now.
                let _ = tell.send(victims);
            }
            flight.look_at = now + PATIENCE;
        }
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.shared.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn victims(millis: u32) -> Victims {
        Victims { sessions: 1, waited: MS * millis }
    }

    fn due(guard: &Guard, since: Instant) -> Vec<u128> {
        guard.flights().in_flight.values().map(|flight| (flight.look_at - since).as_millis()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_statement_is_looked_at_when_half_of_the_patience_is_over_and_then_when_somebody_may_have_waited_too_long()
     {
        let guard = Guard::new("main".to_owned());
        let start = Instant::now();
        let mut watched = guard.watch(7, MS * 50);
        let other = guard.watch(8, MS * 50);
        assert_eq!(due(&guard, start), [25, 25]);
        tokio::time::advance(MS * 25).await;
        // One waits since 5 ms.
        guard.judge(&BTreeMap::from([(7, victims(5))]), Instant::now());
        assert_eq!(due(&guard, start), [70, 50]);
        tokio::time::advance(MS * 45).await;
        guard.judge(&BTreeMap::from([(7, victims(50))]), Instant::now());
        assert_eq!(watched.in_the_way().await, victims(50));
        drop(watched);
        drop(other);
        assert!(guard.flights().in_flight.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_waited_for_others_before_has_waited_behind_us_for_no_longer_than_we_run() {
        let guard = Guard::new("main".to_owned());
        let mut watched = guard.watch(7, MS * 50);
        tokio::time::advance(MS * 25).await;
        guard.judge(&BTreeMap::from([(7, victims(60_000))]), Instant::now());
        assert!(tokio::time::timeout(MS, watched.in_the_way()).await.is_err(), "cancelled at once");
        tokio::time::advance(MS * 25).await;
        guard.judge(&BTreeMap::from([(7, victims(60_025))]), Instant::now());
        assert_eq!(watched.in_the_way().await, victims(51));
    }
}
