//! A replica that is asked itself how far it has come: one that the primary does not show (managed services, a standby
//! behind another), and one whose answer should not wait for the primary's next message.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::config::ReplicaRule;
use crate::error::{Error, Kind, Result};
use crate::pg::connect::{self, Session};

/// No answer for this long is no answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between attempts, while it does not answer.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) const ASK: &str = "select pg_catalog.pg_is_in_recovery(), pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_last_wal_replay_lsn(), '0/0')::pg_catalog.int8";

/// What a replica said last.
#[derive(Debug, Clone)]
pub struct Heard {
    pub rule: ReplicaRule,
    pub at: Instant,
    /// Where it has replayed to, in bytes; or why that is not known.
    pub replayed: std::result::Result<u64, String>,
}

/// One replica and what it said; clones share it.
#[derive(Debug, Clone)]
pub struct Standby {
    database: String,
    rule: ReplicaRule,
    heard: Arc<watch::Sender<Heard>>,
}

impl Standby {
    /// Those of the rules that name one, not asked yet.
    pub fn of_rules(database: &str, rules: &[ReplicaRule]) -> Vec<Self> {
        let asked = rules.iter().filter(|rule| rule.asks_itself());
        asked
            .map(|rule| {
                let heard = Heard {
                    rule: rule.clone(),
                    at: Instant::now(),
                    replayed: Err("it has not answered yet".to_owned()),
                };
                Self { database: database.to_owned(), rule: rule.clone(), heard: Arc::new(watch::Sender::new(heard)) }
            })
            .collect()
    }

    pub fn heard(&self) -> Heard {
        self.heard.borrow().clone()
    }

    /// Until its first word, or for as long as an answer may take.
    pub async fn first_word(&self) {
        let mut heard = self.heard.subscribe();
        // Neither outcome matters: what there is then is what holds.
        let _ = timeout(PATIENCE, heard.changed()).await;
    }

    fn hear(&self, replayed: std::result::Result<u64, String>) {
        let heard = Heard { rule: self.rule.clone(), at: Instant::now(), replayed };
        self.heard.send_replace(heard);
    }

    /// Asks it again and again, as often as the sampler looks; never ends.
    pub async fn keep_asking(self, working: watch::Receiver<bool>, looks: impl Fn(bool) -> Duration) {
        let (database, replica) = (&self.database, &self.rule.pattern);
        let mut session = None;
        let mut failing: Option<Kind> = None;
        loop {
            let asked = self.ask(&mut session).await;
            let pause = match asked {
                Ok(replayed) => {
                    self.hear(Ok(replayed));
                    if failing.take().is_some() {
                        info!(
                            database.name = database,
                            replica.name = replica,
                            "the replica can be asked for its lag again"
                        );
                    }
                    looks(*working.borrow())
                }
                Err(error) => {
                    session = None;
                    if failing != Some(error.kind) {
                        warn!(
                            database.name = database,
                            replica.name = replica,
                            error = &error as &dyn std::error::Error,
                            "the replica can't be asked for its lag"
                        );
                    }
                    failing = Some(error.kind);
                    self.hear(Err(error.message));
                    AGAIN
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

/// Where a standby has replayed to, in bytes.
///
/// # Errors
/// [`Kind::Config`] if the server is no standby; a standby that has replayed nothing yet is an error too.
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
