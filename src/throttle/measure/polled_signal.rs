//! Polls one signal and converts its samples to readings.

use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;

use crate::config::signal::SignalRule;
use crate::error::{Error, Kind, Result};
use crate::job::waiting::Waiting;
use crate::pg::pooler;
use crate::pg::pools::close;
use crate::throttle::measure::ask::no_connection;
use crate::throttle::measure::poll::{Poll, PollElsewhere, SERVER, Sample};
use crate::throttle::measure::readings::Reading;
use crate::throttle::measure::signal::{Signal, SignalKind};

/// Polling interval of a built-in signal while no job runs. If the signal has a longer polling
/// interval while a job runs, that longer interval also applies while no job runs.
/// [`PolledSignal::also_at_rest`] can set another interval. The samples that are taken while no job
/// runs appear in the view `backfill.signals`. Baselines are computed from these samples.
const AT_REST: Duration = Duration::from_secs(30);

/// The source from which a signal is read.
pub enum Place {
    Server(Lane, Box<dyn Poll>),
    Elsewhere(Box<dyn PollElsewhere>),
}

/// The connection that a group of signals shares.
#[derive(Debug, Clone, Copy)]
pub enum Lane {
    BuiltIn,
    Custom,
}

/// Default settings of a built-in signal. They apply unless a rule sets other values.
pub struct Defaults {
    pub limit: Option<f64>,
    pub interval: Duration,
}

/// One signal and how it is polled.
pub struct PolledSignal {
    pub signal: Signal,
    /// The reading shows this name as its source while the signal cannot be read.
    pub source: String,
    /// The kind of the signal's samples, if they have a limit. Samples without a limit are of the
    /// kind [`SignalKind::Shown`].
    kind: SignalKind,
    /// None if no sample has a limit.
    pub limit: Option<f64>,
    pub interval: Duration,
    /// Polling interval while no job runs. None if the signal is polled only while a job runs.
    at_rest: Option<Duration>,
    timeout: Duration,
    place: tokio::sync::Mutex<Place>,
}

impl PolledSignal {
    /// Creates a built-in signal. If there is a `rule`, the values that it sets replace the default
    /// limit, interval and timeout.
    pub fn built_in(
        signal: Signal,
        kind: SignalKind,
        default: Defaults,
        rule: Option<&SignalRule>,
        poll: Box<dyn Poll>,
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
            place: tokio::sync::Mutex::new(Place::Server(Lane::BuiltIn, poll)),
        }
    }

    /// Sets a different polling interval for the time in which no job runs.
    pub fn also_at_rest(self, interval: Duration) -> Self {
        Self { at_rest: Some(interval), ..self }
    }

    /// Creates a signal that the user defined.
    pub fn custom(rule: &SignalRule, kind: SignalKind, place: Place) -> Self {
        Self {
            signal: Signal::User,
            source: rule.name.clone(),
            kind,
            limit: rule.limit.or(Some(1.0)),
            interval: rule.interval.unwrap_or(Duration::from_secs(5)),
            at_rest: None,
            timeout: rule.timeout,
            place: tokio::sync::Mutex::new(place),
        }
    }

    /// Returns whether jobs are held while the signal cannot be read.
    fn holds_unread(&self) -> bool {
        self.limit.is_some() && (self.kind == SignalKind::Budget || self.signal == Signal::User)
    }

    /// Returns whether the first batch waits for the signal's first result, which is a value or a
    /// failure.
    pub fn comes_first(&self) -> bool {
        self.signal == Signal::ActiveSessions || self.holds_unread()
    }

    fn name(&self) -> String {
        if self.signal == Signal::User { format!("signal {}", self.source) } else { self.signal.as_str().to_owned() }
    }

    pub fn interval(&self, working: bool) -> Option<Duration> {
        if working { Some(self.interval) } else { self.at_rest }
    }

    pub fn reading(&self, sample: Sample, at: Instant, max_age: Duration) -> Reading {
        let Sample { source, value, limit, says } = sample;
        let kind = if limit.is_some() { self.kind } else { SignalKind::Shown };
        let limit = limit.unwrap_or(f64::INFINITY);
        let must_hold = says.is_some();
        Reading { kind, max_age, must_hold, note: says, ..Reading::budget(self.signal, &source, value, limit, at) }
    }

    pub fn unreadable(&self, at: Instant, failure: &str) -> Reading {
        let kind = if self.limit.is_some() { self.kind } else { SignalKind::Shown };
        let limit = self.limit.unwrap_or(f64::INFINITY);
        let note = format!("{} could not be read: {failure}", self.name());
        let must_hold = self.holds_unread();
        Reading { kind, must_hold, ..Reading::unreadable(self.signal, &self.source, limit, at, note) }
    }

    /// Returns the reason to show while the first batch waits for this signal's first result.
    pub fn unread(&self) -> Waiting {
        Waiting::new(self.signal.waiting_reason(), format!("{} has not been read yet", self.name()))
    }

    pub async fn poll(&self, pool: &Pool, lanes: &Lanes, working: bool) -> Result<Vec<Sample>> {
        match &mut *self.place.lock().await {
            Place::Elsewhere(poll) => {
                let sample = timeout(self.timeout, poll.poll()).await.map_err(|_| late(self.timeout))??;
                Ok(vec![Sample { limit: self.limit, ..sample }])
            }
            Place::Server(lane, poll) => {
                let _turn = lanes.turn(*lane).await;
                let mut session = None;
                let answer = timeout(self.timeout, async {
                    let client = session.insert(pool.get().await.map_err(no_connection)?);
                    if poll.without_transaction() {
                        return poll.poll(client, working).await;
                    }
                    within_transaction(client, self.timeout, working, poll.as_mut()).await
                });
                // After a timeout, the query still runs on this connection, so the connection is
                // closed. Otherwise the next user of the connection would wait for the query.
                let answer = match answer.await {
                    Ok(answer) => answer.map_err(pooler::recognized),
                    Err(_elapsed) => Err(late(self.timeout)),
                };
                match (answer.as_ref().err().map(|error| error.kind), session) {
                    (Some(Kind::Timeout), Some(session)) => drop(Object::take(session)),
                    (Some(Kind::Pooled), Some(session)) => close(pool, session),
                    _ => {}
                }
                answer
            }
        }
    }

    /// Polls the signal once. A signal that is read from the database server uses the open session
    /// `client`.
    pub async fn poll_once(self, client: &Client) -> Result<Vec<Sample>> {
        match self.place.into_inner() {
            Place::Elsewhere(mut poll) => {
                let sample = timeout(self.timeout, poll.poll()).await.map_err(|_| late(self.timeout))??;
                Ok(vec![sample])
            }
            Place::Server(_, mut poll) => within_transaction(client, self.timeout, false, poll.as_mut()).await,
        }
    }
}

fn late(limit: Duration) -> Error {
    Error::new(Kind::Timeout, format!("no response within {} s", limit.as_secs_f64()))
}

async fn within_transaction(
    client: &Client,
    limit: Duration,
    working: bool,
    poll: &mut dyn Poll,
) -> Result<Vec<Sample>> {
    client
        .batch_execute(&format!(
            "begin transaction read only; set local statement_timeout = {0}; set local lock_timeout = {0}",
            limit.as_millis()
        ))
        .await?;
    let samples = poll.poll(client, working).await;
    // After a success, the transaction commits, because a rollback would count in the signal
    // `rollbacks` like a rollback of the application.
    client.batch_execute(if samples.is_ok() { "commit" } else { "rollback" }).await?;
    samples
}

/// Limits each lane to one connection of the pool for polling.
pub struct Lanes {
    built_in: Semaphore,
    custom: Semaphore,
}

impl Lanes {
    pub fn new() -> Self {
        Self { built_in: Semaphore::new(1), custom: Semaphore::new(1) }
    }

    /// Waits until the lane is free. The semaphores are never closed, so each caller gets a permit
    /// eventually.
    async fn turn(&self, lane: Lane) -> Option<tokio::sync::SemaphorePermit<'_>> {
        match lane {
            Lane::BuiltIn => self.built_in.acquire().await.ok(),
            Lane::Custom => self.custom.acquire().await.ok(),
        }
    }
}
