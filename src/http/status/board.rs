//! Keeps the latest snapshot of each database for the pages. A database is read only when a client
//! requests a page, and at most once per second, regardless of the number of requests. While a
//! database does not respond, the pages show its last snapshot.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::database_state::{self, DatabaseState};
use super::history::{Charts, History, Observation};
use crate::pg::control::Control;

/// A snapshot younger than this is not read again.
const FRESH: Duration = Duration::from_secs(1);
/// Maximum time that a page waits for a new snapshot before it shows the last one.
const TIMEOUT: Duration = Duration::from_millis(700);

/// The snapshots of all databases. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Counts the requests for pages.
    looked: watch::Sender<u64>,
    /// Counts the finished reads of databases (successful or failed) and the readers that have
    /// stopped.
    answered: watch::Sender<u64>,
}

#[derive(Debug)]
struct Entry {
    /// The number of tasks that read this database.
    keepers: usize,
    answered_at: Option<Instant>,
    state: Option<(Instant, Arc<DatabaseState>)>,
    failure: Option<String>,
    history: History,
}

/// The last known state of one database.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// The age of the last snapshot, and the snapshot.
    pub state: Option<(Duration, Arc<DatabaseState>)>,
    /// The reason why the last read failed, without secrets. None if the last read succeeded.
    pub failure: Option<String>,
    pub charts: Charts,
}

impl Board {
    /// Records, for the charts, what the daemon's loop observed.
    pub fn observe(&self, database: &str, observation: Observation) {
        let now = Instant::now();
        self.entry(database, now, |entry| entry.history.observe(now, observation));
    }

    /// Reads the database when a client requests a page, at most once per second, until `stop` is
    /// cancelled.
    pub async fn keep(self, database: String, control: Control, stop: CancellationToken) {
        let _keeper = Keeper::begin(&self, &database);
        let mut looked = self.0.looked.subscribe();
        let asking = async {
            while looked.changed().await.is_ok() {
                let outcome = database_state::read(&control).await;
                if let Err(error) = &outcome {
                    tracing::debug!(error = %error.message, "could not read the data for the status page");
                }
                self.answer(&database, outcome.map_err(|error| error.message));
                tokio::time::sleep(FRESH).await;
            }
        };
        let _ = stop.run_until_cancelled(asking).await;
    }

    fn answer(&self, database: &str, outcome: Result<DatabaseState, String>) {
        let now = Instant::now();
        self.entry(database, now, |entry| {
            entry.answered_at = Some(now);
            match outcome {
                Ok(state) => (entry.state, entry.failure) = (Some((now, Arc::new(state))), None),
                Err(failure) => entry.failure = Some(failure),
            }
        });
        self.0.answered.send_modify(|count| *count += 1);
    }

    /// Requests a new snapshot of each database that has an old snapshot, and waits at most
    /// [`TIMEOUT`] for the new snapshots.
    pub(super) async fn look(&self) {
        let now = Instant::now();
        let mut answered = self.0.answered.subscribe();
        self.0.looked.send_modify(|count| *count += 1);
        let all_fresh = async { while !self.is_fresh(now) && answered.changed().await.is_ok() {} };
        let _ = timeout(TIMEOUT, all_fresh).await;
    }

    fn is_fresh(&self, now: Instant) -> bool {
        let fresh = |at: Instant| at + FRESH >= now;
        self.entries().values().all(|entry| entry.keepers == 0 || entry.answered_at.is_some_and(fresh))
    }

    pub(super) fn known(&self, database: &str) -> Known {
        let now = Instant::now();
        self.entry(database, now, |entry| Known {
            state: entry.state.as_ref().map(|(at, state)| (now - *at, Arc::clone(state))),
            failure: entry.failure.clone(),
            charts: entry.history.charts(now),
        })
    }

    fn entry<T>(&self, database: &str, now: Instant, change: impl FnOnce(&mut Entry) -> T) -> T {
        let new = || Entry { keepers: 0, answered_at: None, state: None, failure: None, history: History::new(now) };
        change(self.entries().entry(database.to_owned()).or_insert_with(new))
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one task that reads the database, until this `Keeper` is dropped. Without this count, a
/// page would wait for a database that no task reads any more.
struct Keeper<'a> {
    board: &'a Board,
    database: &'a str,
}

impl<'a> Keeper<'a> {
    fn begin(board: &'a Board, database: &'a str) -> Self {
        board.entry(database, Instant::now(), |entry| entry.keepers += 1);
        Self { board, database }
    }
}

impl Drop for Keeper<'_> {
    fn drop(&mut self) {
        self.board.entry(self.database, Instant::now(), |entry| entry.keepers -= 1);
        self.board.0.answered.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_unresponsive_database_delays_the_page_briefly_and_its_last_snapshot_is_shown() {
        let board = Board::default();
        let start = Instant::now();
        board.look().await;
        assert_eq!(start.elapsed(), Duration::ZERO, "no database is read");
        let keeper = Keeper::begin(&board, "main");
        board.answer("main", Ok(DatabaseState { read_at: "then".to_owned(), ..DatabaseState::default() }));
        board.look().await;
        assert_eq!(start.elapsed(), Duration::ZERO, "the snapshot is fresh");
        tokio::time::advance(Duration::from_secs(60)).await;
        let before = Instant::now();
        board.look().await;
        assert_eq!(before.elapsed(), TIMEOUT);
        board.answer("main", Err("connection refused".to_owned()));
        let known = board.known("main");
        let (age, state) = known.state.unwrap();
        assert_eq!((age, state.read_at.as_str()), (Duration::from_secs(60) + TIMEOUT, "then"));
        assert_eq!(known.failure.as_deref(), Some("connection refused"));
        tokio::time::advance(Duration::from_secs(60)).await;
        drop(keeper);
        let before = Instant::now();
        board.look().await;
        assert_eq!(before.elapsed(), Duration::ZERO, "the database is no longer read");
    }

    #[tokio::test(start_paused = true)]
    async fn a_viewer_gets_the_answer_as_soon_as_it_arrives() {
        let board = Board::default();
        let _keeper = Keeper::begin(&board, "main");
        let answer = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            board.answer("main", Ok(DatabaseState::default()));
        };
        let before = Instant::now();
        tokio::join!(board.look(), answer);
        assert_eq!(before.elapsed(), Duration::from_millis(20));
    }
}
