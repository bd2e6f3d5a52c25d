//! One signal: what it is called, how often it is read, and one look at it.

use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;

use super::registry::{Defaults, users_own};
use super::{Look, LookElsewhere, SERVER, Seen};
use crate::config::SignalRule;
use crate::error::{self, Error, Result};
use crate::throttle::reading::{Kind, Reading, Signal};
use crate::throttle::sampler::no_connection;

/// How often what is read for nobody but the view is read; and baselines, while nobody works.
const AT_REST: Duration = Duration::from_secs(30);

pub enum How {
    Server(Lane, Box<dyn Look>),
    Elsewhere(Box<dyn LookElsewhere>),
}

/// Who shares a connection.
#[derive(Debug, Clone, Copy)]
pub enum Lane {
    Ours,
    Users,
}

/// One signal, and how it is read.
pub struct Watch {
    pub signal: Signal,
    /// What it is called where there is no value.
    pub source: String,
    /// Of what has a limit.
    kind: Kind,
    /// None: nothing here has one.
    pub limit: Option<f64>,
    pub interval: Duration,
    /// None: it is read while there is work, and not at rest.
    at_rest: Option<Duration>,
    timeout: Duration,
    how: tokio::sync::Mutex<How>,
}

impl Watch {
    /// A built-in signal, as `rule` has it, if one does.
    pub fn built_in(
        signal: Signal,
        kind: Kind,
        default: Defaults,
        rule: Option<&SignalRule>,
        look: impl Look + 'static,
    ) -> Self {
        let interval = rule.and_then(|rule| rule.interval).unwrap_or(default.interval);
        Self {
            signal,
            source: SERVER.to_owned(),
            kind,
            limit: rule.and_then(|rule| rule.limit).or(default.limit),
            interval,
            at_rest: Some(AT_REST.max(interval)),
            timeout: rule.map_or(SignalRule::TIMEOUT, |rule| rule.timeout),
            how: tokio::sync::Mutex::new(How::Server(Lane::Ours, Box::new(look))),
        }
    }

    /// Read so often while nobody works.
    pub fn also_at_rest(self, interval: Duration) -> Self {
        Self { at_rest: Some(interval), ..self }
    }

    /// One of the user's own.
    pub fn users(rule: &SignalRule, kind: Kind, how: How) -> Self {
        Self {
            signal: Signal::User,
            source: rule.name.clone(),
            kind,
            limit: rule.limit.or(Some(1.0)),
            interval: rule.interval.unwrap_or(Duration::from_secs(5)),
            at_rest: None,
            timeout: rule.timeout,
            how: tokio::sync::Mutex::new(how),
        }
    }

    /// Whether the work holds while it can't be read.
    fn holds_unread(&self) -> bool {
        self.limit.is_some() && (self.kind == Kind::Budget || self.signal == Signal::User)
    }

    /// Whether the first batch waits for its first word, whatever that is.
    pub fn comes_first(&self) -> bool {
        self.signal == Signal::ActiveSessions || self.holds_unread()
    }

    pub fn name(&self) -> String {
        if self.signal == Signal::User { format!("signal {}", self.source) } else { self.signal.as_str().to_owned() }
    }

    pub fn interval(&self, working: bool) -> Option<Duration> {
        if working { Some(self.interval) } else { self.at_rest }
    }

    pub fn reading(&self, seen: Seen, at: Instant, max_age: Duration) -> Reading {
        let Seen { source, value, limit, says } = seen;
        let kind = if limit.is_some() { self.kind } else { Kind::Shown };
        let limit = limit.unwrap_or(f64::INFINITY);
        let holding = says.is_some();
        Reading { kind, max_age, holding, reason: says, ..Reading::budget(self.signal, &source, value, limit, at) }
    }

    pub fn unreadable(&self, at: Instant, trouble: &str) -> Reading {
        let kind = if self.limit.is_some() { self.kind } else { Kind::Shown };
        let limit = self.limit.unwrap_or(f64::INFINITY);
        let reason = format!("{} can't be read: {trouble}", self.name());
        let holding = self.holds_unread();
        Reading { kind, holding, ..Reading::unreadable(self.signal, &self.source, limit, at, reason) }
    }

    pub async fn look(&self, pool: &Pool, lanes: &Lanes, working: bool) -> Result<Vec<Seen>> {
        let late = |_| Error::new(error::Kind::Timeout, format!("no answer within {} s", self.timeout.as_secs_f64()));
        match &mut *self.how.lock().await {
            How::Elsewhere(look) => {
                let seen = timeout(self.timeout, look.look()).await.map_err(late)??;
                Ok(vec![Seen { limit: self.limit, ..seen }])
            }
            How::Server(lane, look) => {
                let _turn = lanes.turn(*lane).await;
                let mut session = None;
                let answer = timeout(self.timeout, async {
                    let client = session.insert(pool.get().await.map_err(no_connection)?);
                    if look.without_transaction() {
                        return look.look(client, working).await;
                    }
                    within_transaction(client, self.timeout, working, look.as_mut()).await
                });
                match answer.await {
                    Ok(answer) => answer,
                    Err(elapsed) => {
                        // The question still waits on this connection, and whoever got it next would wait behind it.
                        if let Some(session) = session {
                            drop(Object::take(session));
                        }
                        Err(late(elapsed))
                    }
                }
            }
        }
    }
}

async fn within_transaction(client: &Client, limit: Duration, working: bool, look: &mut dyn Look) -> Result<Vec<Seen>> {
    client
        .batch_execute(&format!(
            "begin transaction read only; set local statement_timeout = {0}; set local lock_timeout = {0}",
            limit.as_millis()
        ))
        .await?;
    let seen = look.look(client, working).await;
    // A rollback where none is needed would be counted among the application's.
    client.batch_execute(if seen.is_ok() { "commit" } else { "rollback" }).await?;
    seen
}

/// A connection of the pool for each.
pub struct Lanes {
    ours: Semaphore,
    users: Semaphore,
}

impl Lanes {
    pub fn new() -> Self {
        Self { ours: Semaphore::new(1), users: Semaphore::new(1) }
    }

    /// Never closed, so there is always one to come; without it two would share what one may use.
    async fn turn(&self, lane: Lane) -> Option<tokio::sync::SemaphorePermit<'_>> {
        match lane {
            Lane::Ours => self.ours.acquire().await.ok(),
            Lane::Users => self.users.acquire().await.ok(),
        }
    }
}

/// What one of the rules gives when it is asked now, in words; for `doctor`. None for a built-in one.
///
/// # Errors
/// Why it can't be read.
pub async fn try_once(rule: &SignalRule, client: &Client) -> Option<Result<String>> {
    let watch = users_own(rule)?;
    let late = |_| Error::new(error::Kind::Timeout, format!("no answer within {} s", rule.timeout.as_secs_f64()));
    let seen = match watch.how.into_inner() {
        How::Elsewhere(mut look) => {
            timeout(rule.timeout, look.look()).await.map_err(late).and_then(|seen| seen).map(|seen| vec![seen])
        }
        How::Server(_, mut look) => within_transaction(client, rule.timeout, false, look.as_mut()).await,
    };
    Some(seen.map(|seen| {
        seen.first().map_or_else(String::new, |seen| seen.says.clone().unwrap_or_else(|| format!("is {}", seen.value)))
    }))
}
