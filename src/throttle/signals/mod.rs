//! The signals: one file each, and one place that knows them all ([`registered`]).
//!
//! Replica lag is looked at by the sampler itself, many times a second (`replica_lag.rs`). All others are here: each is
//! read by a loop of its own, at its own interval and with its own timeout, so that one that takes long keeps no other
//! from being read. The server is asked over one connection for ours and one for the user's queries, whatever their number.
//!
//! What was read holds good for some of its intervals. After that it is stale, and stale is not healthy: a budget holds, and so
//! does a signal of the user's own; a built-in gauge of load says nothing, so that the pace stays as it is.

mod active_sessions;
mod archiver;
mod checkpoints;
mod deadlocks;
mod fetch;
mod http;
mod lock_waits;
mod oldest_xmin;
mod probe_latency;
mod prometheus;
mod rate;
pub mod replica_lag;
mod rollbacks;
mod slot;
mod sql;
mod statement_time;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;
use tracing::{info, warn};

use super::batches::Batches;
use super::reading::{Kind, Reading, Reason, Signal};
use super::sampler::no_connection;
use crate::config::SignalRule;
use crate::error::{self, Error, Result};

/// A reading is stale when so many of its intervals have passed.
const STALE: u32 = 3;
/// How often what is read for nobody but the view is read; and baselines, while nobody works.
const AT_REST: Duration = Duration::from_secs(30);
/// How often what the first batch must know is read while nobody works.
const BEFORE_WORK: Duration = Duration::from_secs(5);

/// One look at a signal.
pub(super) trait Look: Send {
    /// What there is to see; nothing at all where there is nothing of the kind. `client` is in a transaction that is
    /// read-only and has the signal's timeout, unless the look goes [`Look::without_transaction`]. `working` says whether any job of this daemon is at work.
    fn look<'a>(&'a mut self, client: &'a Client, working: bool) -> BoxFuture<'a, Result<Vec<Seen>>>;

    /// Of one that rests between its statements.
    fn without_transaction(&self) -> bool {
        false
    }
}

/// The same, elsewhere than on the server.
pub(super) trait LookElsewhere: Send {
    fn look(&mut self) -> BoxFuture<'_, Result<Seen>>;
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    source: String,
    value: f64,
    /// None: it is shown only.
    limit: Option<f64>,
    /// The reason where it holds, if there is a better one than value and limit.
    says: Option<String>,
}

impl Seen {
    fn of_server(value: f64, limit: Option<f64>) -> Self {
        Self { source: SERVER.to_owned(), value, limit, says: None }
    }
}

/// The source of what is one for the whole server, or database.
const SERVER: &str = "server";

enum How {
    Server(Lane, Box<dyn Look>),
    Elsewhere(Box<dyn LookElsewhere>),
}

/// Who shares a connection.
#[derive(Debug, Clone, Copy)]
enum Lane {
    Ours,
    Users,
}

/// One signal, and how it is read.
struct Watch {
    signal: Signal,
    /// What it is called where there is no value.
    source: String,
    /// Of what has a limit.
    kind: Kind,
    /// None: nothing here has one.
    limit: Option<f64>,
    interval: Duration,
    /// None: it is read while there is work, and not at rest.
    at_rest: Option<Duration>,
    timeout: Duration,
    how: tokio::sync::Mutex<How>,
}

impl Watch {
    /// A built-in signal, as `rule` has it, if one does.
    fn built_in(
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

    /// One of the user's own.
    fn users(rule: &SignalRule, kind: Kind, how: How) -> Self {
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
    fn comes_first(&self) -> bool {
        self.signal == Signal::ActiveSessions || self.holds_unread()
    }

    fn name(&self) -> String {
        if self.signal == Signal::User { format!("signal {}", self.source) } else { self.signal.as_str().to_owned() }
    }

    fn interval(&self, working: bool) -> Option<Duration> {
        if working { Some(self.interval) } else { self.at_rest }
    }

    fn reading(&self, seen: Seen, at: Instant, max_age: Duration) -> Reading {
        let Seen { source, value, limit, says } = seen;
        let kind = if limit.is_some() { self.kind } else { Kind::Shown };
        let limit = limit.unwrap_or(f64::INFINITY);
        let holding = says.is_some();
        Reading { kind, max_age, holding, reason: says, ..Reading::budget(self.signal, &source, value, limit, at) }
    }

    fn unreadable(&self, at: Instant, trouble: &str) -> Reading {
        let kind = if self.limit.is_some() { self.kind } else { Kind::Shown };
        let limit = self.limit.unwrap_or(f64::INFINITY);
        let reason = format!("{} can't be read: {trouble}", self.name());
        let holding = self.holds_unread();
        Reading { kind, holding, ..Reading::unreadable(self.signal, &self.source, limit, at, reason) }
    }

    async fn look(&self, pool: &Pool, lanes: &Lanes, working: bool) -> Result<Vec<Seen>> {
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

/// The one number of a query, whatever its type.
async fn number(client: &Client, sql: &str) -> Result<f64> {
    let rows = client.query_typed(&format!("select (\n{sql}\n)::pg_catalog.float8"), &[]).await?;
    let value = rows.first().map(|row| row.try_get::<_, Option<f64>>(0)).transpose()?.flatten();
    value
        .filter(|value| value.is_finite())
        .ok_or_else(|| Error::new(error::Kind::Data, "the query gave no number (null, not a number, or infinity)"))
}

/// What a built-in signal has unless a rule says otherwise.
struct Defaults {
    limit: Option<f64>,
    interval: Duration,
}

const fn default(limit: Option<f64>, seconds: u64) -> Defaults {
    Defaults { limit, interval: Duration::from_secs(seconds) }
}

/// Every signal of a database but replica lag.
fn registered(rules: &[SignalRule], batches: &Batches) -> Vec<Watch> {
    let rule = |signal: Signal| rules.iter().find(|rule| rule.name == signal.as_str());
    let built_in = |signal, kind, defaults: Defaults, look: fn(Option<f64>) -> Box<dyn Look>| {
        let rule = rule(signal);
        let limit = rule.and_then(|rule| rule.limit).or(defaults.limit);
        Watch::built_in(signal, kind, defaults, rule, look(limit))
    };
    let slots: Vec<SignalRule> = rules.iter().filter(|rule| rule.name == Signal::Slot.as_str()).cloned().collect();
    let mut watches = vec![
        Watch::built_in(Signal::Slot, Kind::Budget, default(None, 5), slots.first(), slot::Slots::new(slots.clone())),
        built_in(Signal::Archiver, Kind::Budget, default(None, 5), |limit| Box::new(archiver::Archiver { limit })),
        built_in(Signal::LockWaits, Kind::Load, default(Some(10.0), 1), |limit| {
            Box::new(lock_waits::LockWaits { limit })
        }),
        {
            let rule = rule(Signal::ActiveSessions);
            let look = active_sessions::ActiveSessions::new(
                rule.and_then(|rule| rule.limit),
                rule.and_then(|rule| rule.cores),
            );
            // Who begins to work must know who else is there.
            let at_rest = Some(BEFORE_WORK);
            Watch { at_rest, ..Watch::built_in(Signal::ActiveSessions, Kind::Load, default(None, 1), rule, look) }
        },
        {
            let (rule, default) = (rule(Signal::ProbeLatency), default(Some(0.15), 1));
            let limit = rule.and_then(|rule| rule.limit).or(default.limit);
            let look = probe_latency::ProbeLatency::new(limit, batches.clone());
            Watch::built_in(Signal::ProbeLatency, Kind::Load, default, rule, look)
        },
        built_in(Signal::OldestXmin, Kind::Load, default(None, 5), |limit| Box::new(oldest_xmin::OldestXmin { limit })),
        built_in(Signal::Checkpoints, Kind::Load, default(None, 10), |limit| {
            Box::new(checkpoints::Checkpoints::new(limit))
        }),
        built_in(Signal::StatementTime, Kind::Load, default(Some(3.0), 5), |limit| {
            Box::new(statement_time::StatementTime::new(limit))
        }),
        built_in(Signal::Rollbacks, Kind::Load, default(None, 5), |limit| Box::new(rollbacks::Rollbacks::new(limit))),
        built_in(Signal::Deadlocks, Kind::Load, default(Some(10.0), 5), |limit| {
            Box::new(deadlocks::Deadlocks::new(limit))
        }),
    ];
    watches.extend(rules.iter().filter_map(users_own));
    watches
}

/// None for a built-in one.
fn users_own(rule: &SignalRule) -> Option<Watch> {
    if let Some(query) = &rule.sql {
        let look = sql::Sql::new(&rule.name, query, rule.limit);
        return Some(Watch::users(rule, Kind::Load, How::Server(Lane::Users, Box::new(look))));
    }
    if let Some(url) = &rule.http {
        return Some(Watch::users(rule, Kind::Budget, How::Elsewhere(Box::new(http::Check::new(rule, url)))));
    }
    let query = rule.prometheus.as_ref()?;
    Some(Watch::users(rule, Kind::Load, How::Elsewhere(Box::new(prometheus::Query::new(rule, query)))))
}

/// A connection of the pool for each.
struct Lanes {
    ours: Semaphore,
    users: Semaphore,
}

impl Lanes {
    /// Never closed, so there is always one to come; without it two would share what one may use.
    async fn turn(&self, lane: Lane) -> Option<tokio::sync::SemaphorePermit<'_>> {
        match lane {
            Lane::Ours => self.ours.acquire().await.ok(),
            Lane::Users => self.users.acquire().await.ok(),
        }
    }
}

/// The signals of one database beside replica lag, and what they said last; a clone is the same.
#[derive(Clone)]
pub struct Signals {
    watches: Arc<Vec<Watch>>,
    heard: Arc<Mutex<Vec<Heard>>>,
}

/// What one signal said.
#[derive(Debug, Clone, Default)]
struct Heard {
    /// None before its first answer, and once it was forgotten.
    answer: Option<Answer>,
    /// Of the last look, if that failed.
    trouble: Option<Error>,
}

#[derive(Debug, Clone)]
struct Answer {
    at: Instant,
    max_age: Duration,
    readings: Vec<Reading>,
}

impl Signals {
    /// The built-in ones, with other limits where a rule goes by their name, and one for each other rule.
    /// `batches` are those at work on the database.
    pub fn of_rules(rules: &[SignalRule], batches: &Batches) -> Self {
        let watches = registered(rules, batches);
        let heard = Arc::new(Mutex::new(vec![Heard::default(); watches.len()]));
        Self { watches: Arc::new(watches), heard }
    }

    /// What they said last. What is too old can't be read.
    pub fn heard(&self, now: Instant, working: bool) -> Vec<Reading> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs = self.watches.iter().zip(heard.iter());
        let awake = pairs.filter(|(watch, _)| watch.interval(working).is_some());
        awake.flat_map(|(watch, heard)| heard.readings(watch, now)).collect()
    }

    /// What the first batch waits for, and was not read yet since the work began.
    pub fn unread(&self) -> Option<(Reason, String)> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pairs = self.watches.iter().zip(heard.iter());
        let (watch, _) =
            pairs.find(|(watch, heard)| watch.comes_first() && heard.answer.is_none() && heard.trouble.is_none())?;
        Some((watch.signal.reason(), format!("{} has not been read yet", watch.name())))
    }

    /// Reads each at its interval, for ever.
    pub async fn keep_reading(self, database: String, pool: Pool, working: watch::Receiver<bool>) {
        let lanes = Lanes { ours: Semaphore::new(1), users: Semaphore::new(1) };
        let each = (0..self.watches.len())
            .map(|index| self.keep_reading_one(index, &database, &pool, &lanes, working.clone()));
        join_all(each).await;
    }

    async fn keep_reading_one(
        &self,
        index: usize,
        database: &str,
        pool: &Pool,
        lanes: &Lanes,
        mut working: watch::Receiver<bool>,
    ) {
        let watch = &self.watches[index];
        let mut last: Option<Instant> = None;
        loop {
            let at_work = *working.borrow_and_update();
            let due = watch.interval(at_work).map(|interval| last.map_or_else(Instant::now, |last| last + interval));
            if due.is_none() {
                // The first batch waits for the next answer, so it is asked for as soon as there is one.
                last = None;
                self.note(index, |heard| *heard = Heard::default());
            }
            tokio::select! {
                changed = working.changed() => if changed.is_err() { return } else { continue },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
            let started = Instant::now();
            last = Some(started);
            let answer = watch.look(pool, lanes, at_work).await;
            let max_age = watch.interval(at_work).unwrap_or(watch.interval) * STALE;
            self.hear(index, database, answer, max_age);
        }
    }

    /// A failed look leaves what was read before, which holds good until it is stale.
    fn hear(&self, index: usize, database: &str, answer: Result<Vec<Seen>>, max_age: Duration) {
        let watch = &self.watches[index];
        let (signal, source) = (watch.signal.as_str(), watch.source.as_str());
        self.note(index, |heard| match answer {
            Ok(seen) => {
                if heard.trouble.take().is_some() {
                    info!(
                        database.name = database,
                        signal.name = signal,
                        signal.source = source,
                        "the signal can be read again"
                    );
                }
                let at = Instant::now();
                let readings = seen.into_iter().map(|seen| watch.reading(seen, at, max_age)).collect();
                heard.answer = Some(Answer { at, max_age, readings });
            }
            Err(error) => {
                if heard.trouble.as_ref().map(|trouble| trouble.kind) != Some(error.kind) {
                    warn!(
                        database.name = database,
                        signal.name = signal,
                        signal.source = source,
                        error = &error as &dyn std::error::Error,
                        "the signal can't be read"
                    );
                }
                heard.trouble = Some(error);
            }
        });
    }

    fn note(&self, index: usize, how: impl FnOnce(&mut Heard)) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        how(&mut heard[index]);
    }
}

impl Heard {
    fn readings(&self, watch: &Watch, now: Instant) -> Vec<Reading> {
        match (&self.answer, &self.trouble) {
            (Some(answer), _) if now.saturating_duration_since(answer.at) <= answer.max_age => answer.readings.clone(),
            (None, None) => Vec::new(),
            (_, Some(trouble)) => vec![watch.unreadable(now, &told(trouble))],
            (Some(answer), None) => {
                let age = now.saturating_duration_since(answer.at).as_secs_f64();
                vec![watch.unreadable(now, &format!("no answer for {age:.0} s"))]
            }
        }
    }
}

fn told(error: &Error) -> String {
    match &error.hint {
        Some(hint) => format!("{}; {hint}", error.message),
        None => error.message.clone(),
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

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").field("heard", &self.heard).finish_non_exhaustive()
    }
}

impl Look for Box<dyn Look> {
    fn look<'a>(&'a mut self, client: &'a Client, working: bool) -> BoxFuture<'a, Result<Vec<Seen>>> {
        self.as_mut().look(client, working)
    }

    fn without_transaction(&self) -> bool {
        self.as_ref().without_transaction()
    }
}
