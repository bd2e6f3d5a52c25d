//! A replica that is asked itself how far it has replayed: one that the primary does not show (a
//! managed service, a standby behind another), or one whose answer should not wait for its next
//! message to the primary.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::config::replica::ReplicaRule;
use crate::error::{Error, Kind, Result};
use crate::pg::connect::{self, Session};

/// No answer for this long is no answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts, while it does not answer.
const RETRY: Duration = Duration::from_secs(1);

pub const ASK: &str = "select pg_catalog.pg_is_in_recovery(), pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_last_wal_replay_lsn(), '0/0')::pg_catalog.int8";

/// The last answer of a replica.
#[derive(Debug, Clone)]
pub struct LastAnswer {
    pub rule: ReplicaRule,
    pub at: Instant,
    /// Up to where it has replayed, in bytes; or why that is not known.
    pub replayed: std::result::Result<u64, String>,
}

/// One replica and its last answer; clones share it.
#[derive(Debug, Clone)]
pub struct Standby {
    rule: ReplicaRule,
    last: Arc<watch::Sender<LastAnswer>>,
}

impl Standby {
    /// The replicas that rules name; none has been asked yet.
    pub fn of_rules(rules: &[ReplicaRule]) -> Vec<Self> {
        let asked = rules.iter().filter(|rule| rule.asks_itself());
        asked
            .map(|rule| {
                let last = LastAnswer {
                    rule: rule.clone(),
                    at: Instant::now(),
                    replayed: Err("it has not answered yet".to_owned()),
                };
                Self { rule: rule.clone(), last: Arc::new(watch::Sender::new(last)) }
            })
            .collect()
    }

    pub fn last_answer(&self) -> LastAnswer {
        self.last.borrow().clone()
    }

    /// Waits for its first answer, or for as long as an answer may take.
    pub async fn first_answer(&self) {
        let mut last = self.last.subscribe();
        // Neither outcome matters: the caller uses what there is by then.
        let _ = timeout(PATIENCE, last.changed()).await;
    }

    fn record(&self, replayed: std::result::Result<u64, String>) {
        let answer = LastAnswer { rule: self.rule.clone(), at: Instant::now(), replayed };
        self.last.send_replace(answer);
    }

    /// Asks it again and again, with a pause of `interval` at work and at rest; never ends.
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
                        info!(replica.name = replica, "the replica can be asked for its lag again");
                    }
                    interval(*working.borrow())
                }
                Err(error) => {
                    session = None;
                    if failing != Some(error.kind) {
                        warn!(
                            replica.name = replica,
                            error = &error as &dyn std::error::Error,
                            "the replica can't be asked for its lag"
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

/// Up to where a standby has replayed, in bytes.
///
/// # Errors
/// [`Kind::Config`] if the server is not a standby; a standby that has replayed nothing yet is an
/// error too.
pub async fn replayed(session: &Session) -> Result<u64> {
    let late = |_| Error::new(Kind::Timeout, format!("no answer within {} s", PATIENCE.as_secs()));
    let row = timeout(PATIENCE, session.client.query_one(ASK, &[])).await.map_err(late)??;
    if !row.try_get::<_, bool>(0)? {
        return Err(Error::new(Kind::Config, "this server is no standby")
            .hint("Was it promoted? Give the url of the replica, or drop its rule."));
    }
    let lsn: Option<i64> = row.try_get(1)?;
    lsn.and_then(|lsn| u64::try_from(lsn).ok())
        .ok_or_else(|| Error::new(Kind::ServerUnavailable, "this standby has not replayed anything yet"))
}
