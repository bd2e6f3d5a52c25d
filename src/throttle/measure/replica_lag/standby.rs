//! Queries a replica directly for its replayed position. The daemon does so for each replica rule
//! that has a URL. Such a rule is useful for a replica that does not appear in pg_stat_replication
//! on the primary (a replica in a managed service, or a standby behind another standby). It is also
//! useful for a replica that reports its position to the primary too rarely.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::config::replica::ReplicaRule;
use crate::error::{Error, Kind, Result};
use crate::pg::connect::{self, Session};
use crate::pg::row::Columns;

/// Time limit for a result.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failed query.
const RETRY: Duration = Duration::from_secs(1);

pub const ASK: &str = "select pg_catalog.pg_is_in_recovery(), pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_last_wal_replay_lsn(), '0/0')::pg_catalog.int8";

/// The result of the last query to a replica.
#[derive(Debug, Clone)]
pub struct LastAnswer {
    pub rule: ReplicaRule,
    pub at: Instant,
    /// Replayed position in bytes, or the reason why the position is not known.
    pub replayed: std::result::Result<u64, String>,
}

/// One replica and its last result. All clones share this result.
#[derive(Debug, Clone)]
pub struct Standby {
    rule: ReplicaRule,
    last: Arc<watch::Sender<LastAnswer>>,
}

impl Standby {
    /// Returns one replica for each rule that has a URL. No replica has been queried yet.
    pub fn of_rules(rules: &[ReplicaRule]) -> Vec<Self> {
        let asked = rules.iter().filter(|rule| rule.asks_itself());
        asked
            .map(|rule| {
                let last =
                    LastAnswer { rule: rule.clone(), at: Instant::now(), replayed: Err("no response yet".to_owned()) };
                Self { rule: rule.clone(), last: Arc::new(watch::Sender::new(last)) }
            })
            .collect()
    }

    pub fn last_answer(&self) -> LastAnswer {
        self.last.borrow().clone()
    }

    /// Waits for the replica's first result, but not longer than [`TIMEOUT`].
    pub async fn first_answer(&self) {
        let mut last = self.last.subscribe();
        // A timeout is not an error here, because the caller uses the last result with or without a
        // timeout.
        let _ = timeout(TIMEOUT, last.changed()).await;
    }

    fn record(&self, replayed: std::result::Result<u64, String>) {
        let answer = LastAnswer { rule: self.rule.clone(), at: Instant::now(), replayed };
        self.last.send_replace(answer);
    }

    /// Queries the replica repeatedly, with a pause of `interval(true)` while a job runs,
    /// `interval(false)` otherwise, and [`RETRY`] after a failure. Runs forever.
    pub async fn keep_asking(self, working: watch::Receiver<bool>, interval: impl Fn(bool) -> Duration) {
        let replica = &self.rule.pattern;
        let mut session = None;
        let mut failing: Option<Kind> = None;
        loop {
            let asked = self.ask(&mut session).await;
            let pause = match asked {
                Ok(replayed) => {
                    self.record(Ok(replayed));
                    if failing.take().is_some() {
                        info!(replica.name = replica, "the lag of the replica can be read again");
                    }
                    interval(*working.borrow())
                }
                Err(error) => {
                    session = None;
                    if failing != Some(error.kind) {
                        warn!(
                            replica.name = replica,
                            error = %error.message,
                            hint = error.hint,
                            "could not read the lag of a replica"
                        );
                    }
                    failing = Some(error.kind);
                    self.record(Err(error.message));
                    RETRY
                }
            };
            sleep(pause).await;
        }
    }

    async fn ask(&self, open: &mut Option<Session>) -> Result<u64> {
        let session = match open.take() {
            Some(session) => session,
            None => connect::open(&connect::parse(&self.rule.login()?, "backfilld replica")?, |_| {}).await?,
        };
        let replayed = replayed(&session).await?;
        *open = Some(session);
        Ok(replayed)
    }
}

/// Returns the replayed position of a standby, in bytes.
///
/// # Errors
/// Returns [`Kind::Config`] if the server is not a standby. Returns another error if the standby
/// has not replayed any WAL yet or cannot be queried.
pub async fn replayed(session: &Session) -> Result<u64> {
    let late = |_| Error::new(Kind::Timeout, format!("no response within {} s", TIMEOUT.as_secs()));
    let row = timeout(TIMEOUT, session.client.query_one(ASK, &[])).await.map_err(late)??;
    if !row.read::<bool>(0)? {
        return Err(Error::new(Kind::Config, "this server is not a standby")
            .hint("The server may have been promoted. Correct the url of the replica, or remove its rule."));
    }
    let lsn: Option<i64> = row.read(1)?;
    lsn.and_then(|lsn| u64::try_from(lsn).ok())
        .ok_or_else(|| Error::new(Kind::ServerUnavailable, "this standby has not replayed any WAL yet"))
}
