//! Detects statements of the daemon that block another session for too long. The code that runs
//! such a statement then cancels it.
//!
//! A batch normally takes milliseconds, and a session that waits for the batch's locks waits no
//! longer than the batch runs. If a batch runs for half of `max_victim_wait_ms`, the guard uses a
//! session of its own to check which sessions wait for the batch. The guard follows the whole tree
//! of waits: if two sessions wait for the same row, the second session waits for the first one and
//! not for the batch. Each session in this tree is a victim. When a victim has waited for
//! `max_victim_wait_ms`, the batch is cancelled and retried with fewer rows. A batch of one row is
//! retried a few times, and then the row is deferred. A check costs the server about 1 ms, so the
//! guard makes no check as long as every batch finishes within half of `max_victim_wait_ms`.
//!
//! From the checks the guard also knows for how long the server answered while a statement ran. If
//! a statement reaches its time limit, this time distinguishes a slow statement from a server that
//! was suspended or did not answer.
//!
//! The guard also watches:
//!
//! - statements that skip a single row or retry deferred rows;
//! - the planning of jobs and leaves;
//! - the daemon's own vacuum.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};
use crate::metrics;
use crate::pg::connect::{Session, within};
use crate::pg::pooler;
use crate::pg::pools::Logins;
use crate::pg::row::Columns;

/// Minimum time until the next check of a statement for which another session waits. A check reads
/// the server's lock table, which is already busy while many sessions wait.
const MIN_INTERVAL: Duration = Duration::from_millis(2);
/// Maximum duration of a check. The result of a slower check would be out of date. Also the time
/// from the report of a statement's victims to the next check of this statement.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// A longer time between two checks, or a check that takes longer, does not count as time in which
/// the server answered, because the server may have been suspended.
const KNOWN: Duration = Duration::from_millis(500);
/// Time between two attempts to connect.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// For each session in `$1` (process IDs), returns the number of its victims and the longest of
/// their waits in seconds. A victim waits for the session directly or behind another victim. A wait
/// that has just begun has no `waitstart` yet and counts as 0 s. A session in `$1` that waits for
/// another session in `$1` is not a victim.
const WAITING_SESSIONS: &str = "
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

/// Watches the statements of one database's executors. All clones share one state.
#[derive(Debug, Clone)]
pub struct Guard {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    database: String,
    flights: Mutex<Flights>,
    /// Tells the guard that a statement has started, because the check of this statement may be due
    /// before all others.
    took_off: Notify,
    /// Whether the server responds but refuses the checks of the guard, for example because all
    /// connections are in use.
    refused: AtomicBool,
}

#[derive(Debug, Default)]
struct Flights {
    next: u64,
    in_flight: BTreeMap<u64, Flight>,
}

/// A watched statement, or several consecutive statements of one session.
#[derive(Debug)]
struct Flight {
    pid: i32,
    since: Instant,
    /// Maximum time that another session may wait for the statement.
    patience: Duration,
    /// Time from one check to the next, if no session waits for the statement.
    interval: Duration,
    look_at: Instant,
    /// End of the last check, or `since` before the first check.
    seen_at: Instant,
    /// The part of the time since `since` during which the server answered.
    answering: Duration,
    tell: Option<oneshot::Sender<Victims>>,
}

impl Flight {
    /// Counts the time since the last check, and the time of this check, as time in which the
    /// server answered.
    fn count_answer(&mut self, asked_at: Instant, now: Instant) {
        let asked_at = asked_at.max(self.since);
        let spans = [asked_at.saturating_duration_since(self.seen_at), now.saturating_duration_since(asked_at)];
        self.answering += spans.into_iter().filter(|span| *span <= KNOWN).sum::<Duration>();
        self.seen_at = now;
    }
}

/// The sessions that wait for a statement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Victims {
    /// The number of sessions.
    pub sessions: u64,
    /// The longest time that one of these sessions has waited.
    pub waited: Duration,
}

impl Victims {
    /// Returns the error for work that was cancelled because these sessions waited for it. `what`
    /// names the work, for example "the batch".
    pub fn error(self, what: &str) -> Error {
        let (sessions, waited) = (self.sessions, self.waited.as_millis());
        let who = if sessions == 1 { "a session".to_owned() } else { format!("{sessions} sessions") };
        Error::new(Kind::Yielded, format!("{who} waited {waited} ms for {what}"))
    }
}

/// A statement that the guard watches until this value is dropped.
#[derive(Debug)]
pub struct Watched {
    guard: Guard,
    number: u64,
    told: oneshot::Receiver<Victims>,
}

impl Watched {
    /// Returns the victims once one of them has waited too long for the statement. Otherwise never
    /// returns.
    pub async fn in_the_way(&mut self) -> Victims {
        match (&mut self.told).await {
            Ok(victims) => victims,
            Err(_) => std::future::pending().await,
        }
    }

    /// Returns for how long the server has answered since the statement began. Returns none if the
    /// server refuses the checks of the guard.
    pub fn answering(&self) -> Option<Duration> {
        if self.guard.shared.refused.load(Ordering::Relaxed) {
            return None;
        }
        self.guard.flights().in_flight.get(&self.number).map(|flight| flight.answering)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.guard.flights().in_flight.remove(&self.number);
    }
}

impl Guard {
    /// Creates the guard. `database` is the database's name in the configuration, for logs and
    /// labels.
    pub fn new(database: String) -> Self {
        let refused = AtomicBool::new(false);
        Self { shared: Arc::new(Shared { database, flights: Mutex::default(), took_off: Notify::new(), refused }) }
    }

    /// Watches the statement that the session with process ID `pid` starts now. `patience` is the
    /// maximum time that another session may wait for the statement. `limit` is the time limit of
    /// the statement.
    pub fn watch(&self, pid: i32, patience: Duration, limit: Duration) -> Watched {
        let (tell, told) = oneshot::channel();
        let since = Instant::now();
        let interval = (patience / 2).min(limit / 4);
        let (look_at, tell) = (since + interval, Some(tell));
        let flight =
            Flight { pid, since, patience, interval, look_at, seen_at: since, answering: Duration::ZERO, tell };
        let mut flights = self.flights();
        flights.next += 1;
        let number = flights.next;
        flights.in_flight.insert(number, flight);
        drop(flights);
        self.shared.took_off.notify_one();
        Watched { guard: self.clone(), number, told }
    }

    /// Runs the guard until `stop` is cancelled.
    pub async fn keep(self, logins: Logins, stop: CancellationToken) {
        let _ = stop.run_until_cancelled(self.work(logins)).await;
    }

    async fn work(self, logins: Logins) {
        let mut failing = None;
        loop {
            let blind: Result<()> = match logins.open_control("backfilld guard", |_| {}).await {
                Ok(session) => self.look_out(&session, &mut failing).await,
                Err(error) => Err(error),
            };
            if let Err(error) = blind.map_err(pooler::recognized) {
                if failing != Some(error.kind) {
                    tracing::warn!(error = %error.message, "could not read which sessions wait for a batch; statement_timeout still limits each batch");
                }
                failing = Some(error.kind);
                self.shared.refused.store(error.sqlstate.is_some(), Ordering::Relaxed);
            }
            sleep(RETRY_AFTER).await;
        }
    }

    /// Checks all watched statements whenever the check of one of them is due. `failing` is the
    /// kind of the last error, and becomes none when the session is ready. Returns the error when a
    /// query fails.
    async fn look_out(&self, session: &Session, failing: &mut Option<Kind>) -> Result<()> {
        let look = within(CHECK_TIMEOUT, session.client.prepare(WAITING_SESSIONS)).await?;
        if failing.take().is_some() {
            tracing::info!("backfilld can again read which sessions are waiting for a batch");
        }
        self.shared.refused.store(false, Ordering::Relaxed);
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
            let asked_at = Instant::now();
            let rows = within(CHECK_TIMEOUT, session.client.query(&look, &[&pids])).await?;
            let seen = rows.iter().map(|row| {
                let waited = Duration::try_from_secs_f64(row.read::<f64>(2)?).unwrap_or_default();
                Ok((row.read(0)?, Victims { sessions: u64::try_from(row.read::<i64>(1)?).unwrap_or(0), waited }))
            });
            self.judge(&seen.collect::<Result<_>>()?, asked_at, Instant::now());
        }
    }

    /// Reports the victims of each statement that has blocked another session for too long, and
    /// sets the time of the next check of each statement. The check was sent at `asked_at`, and its
    /// answer arrived at `now`.
    fn judge(&self, seen: &BTreeMap<i32, Victims>, asked_at: Instant, now: Instant) {
        for flight in self.flights().in_flight.values_mut() {
            flight.count_answer(asked_at, now);
            // The wait may have begun before this statement. The victim may have waited for other
            // sessions first, or for an earlier statement of our session. So a wait counts only
            // from the start of this statement.
            let age = now.saturating_duration_since(flight.since);
            let behind = seen.get(&flight.pid).map(|victims| Victims { waited: victims.waited.min(age), ..*victims });
            let Some(victims) = behind else {
                // The interval is at most half of `patience`. A session that starts to wait before
                // the next check has waited for at most half of `patience` when that check runs.
                flight.look_at = flight.look_at.max(now + flight.interval);
                continue;
            };
            flight.look_at = now + flight.patience.saturating_sub(victims.waited).max(MIN_INTERVAL);
            if victims.waited < flight.patience {
                continue;
            }
            if let Some(tell) = flight.tell.take() {
                metrics::victim_waited(&self.shared.database, victims.waited);
                metrics::guard_yielded(&self.shared.database);
                // If the statement has just finished, nothing receives this report of the victims.
                let _ = tell.send(victims);
            }
            flight.look_at = now + CHECK_TIMEOUT;
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
    async fn a_statement_is_checked_after_half_of_the_limit_and_when_a_wait_may_exceed_it() {
        let guard = Guard::new("main".to_owned());
        let start = Instant::now();
        let mut watched = guard.watch(7, MS * 50, MS * 700);
        let other = guard.watch(8, MS * 50, MS * 700);
        assert_eq!(due(&guard, start), [25, 25]);
        tokio::time::advance(MS * 25).await;
        // One session has waited for 5 ms.
        guard.judge(&BTreeMap::from([(7, victims(5))]), Instant::now(), Instant::now());
        assert_eq!(due(&guard, start), [70, 50]);
        tokio::time::advance(MS * 45).await;
        guard.judge(&BTreeMap::from([(7, victims(50))]), Instant::now(), Instant::now());
        assert_eq!(watched.in_the_way().await, victims(50));
        drop(watched);
        drop(other);
        assert!(guard.flights().in_flight.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_wait_counts_only_from_the_start_of_our_statement() {
        let guard = Guard::new("main".to_owned());
        let mut watched = guard.watch(7, MS * 50, MS * 700);
        tokio::time::advance(MS * 25).await;
        guard.judge(&BTreeMap::from([(7, victims(60_000))]), Instant::now(), Instant::now());
        assert!(tokio::time::timeout(MS, watched.in_the_way()).await.is_err(), "cancelled at once");
        tokio::time::advance(MS * 25).await;
        guard.judge(&BTreeMap::from([(7, victims(60_025))]), Instant::now(), Instant::now());
        assert_eq!(watched.in_the_way().await, victims(51));
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_the_server_does_not_answer_does_not_count() {
        let guard = Guard::new("main".to_owned());
        let watched = guard.watch(7, MS * 50, MS * 2000);
        // The second check takes 1,900 ms, because the server is suspended.
        for (pause, check) in [(25, 1), (25, 1900), (25, 1)] {
            tokio::time::advance(MS * pause).await;
            let asked_at = Instant::now();
            tokio::time::advance(MS * check).await;
            guard.judge(&BTreeMap::new(), asked_at, Instant::now());
        }
        assert_eq!(watched.answering(), Some(MS * 77));
        // No check was made for 900 ms.
        tokio::time::advance(MS * 900).await;
        guard.judge(&BTreeMap::new(), Instant::now(), Instant::now());
        assert_eq!(watched.answering(), Some(MS * 77));
        guard.shared.refused.store(true, Ordering::Relaxed);
        assert_eq!(watched.answering(), None);
    }
}
