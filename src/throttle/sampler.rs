//! The loop that listens: looks at the signals, publishes readings to the gates, the view and the metrics.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use deadpool_postgres::{Client, Object, Pool, PoolError};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};
use uuid::Uuid;

use super::Throttle;
use super::controller::{Circumstances, Controller};
use super::reading::{Reading, Readings};
use super::signals::replica_lag::standby::{Heard, Standby};
use super::signals::replica_lag::{ReplicaLag, walsender};
use super::vacuum::{self, Vacuums};
use crate::config::ReplicaRule;
use crate::error::{Error, Kind, Result};

const LOOK_WORKING: Duration = Duration::from_millis(200);
const LOOK_AT_REST: Duration = Duration::from_secs(1);
/// Also what moves a standby on while a budget holds: without new WAL it does not tell how far it has come, and the
/// hold would keep itself up for the ten seconds of `wal_receiver_status_interval`.
const TELL_WORKING: Duration = Duration::from_secs(1);
const TELL_AT_REST: Duration = Duration::from_secs(5);
/// Where nothing can hold the work, and nobody works: each time is WAL on a database that may be idle.
const TELL_SELDOM: Duration = Duration::from_secs(60);
/// No answer for this long is no answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// From one look to the next.
pub(super) fn interval(working: bool) -> Duration {
    if working { LOOK_WORKING } else { LOOK_AT_REST }
}

pub(super) struct Sampler {
    throttle: Throttle,
    pool: Pool,
    /// Which daemon this is among those on the database, and the mean duty that budgets leave the others.
    worker: Uuid,
    others: Option<f64>,
    working: watch::Receiver<bool>,
    /// Those that are asked themselves.
    standbys: Vec<Standby>,
    replica_lag: ReplicaLag,
    vacuums: Vacuums,
    vacuums_at: Option<Instant>,
    controller: Controller,
    looking: Regime,
    telling: Regime,
    told_at: Option<Instant>,
    /// What was told last: what is gone since is told too.
    told: BTreeSet<Name>,
    /// Gauges of load that were over their limit, and are not well below it yet.
    over: BTreeSet<Name>,
}

/// Of a reading: its signal and source.
type Name = (&'static str, String);

/// A gauge that was over its limit is spoken of as such until it is below this share of it, so that one which comes and
/// goes there is not told of each time.
const NO_LONGER_OVER: f64 = 0.7;

fn name(reading: &Reading) -> Name {
    (reading.signal.as_str(), reading.source.clone())
}

impl Sampler {
    pub fn new(
        throttle: Throttle,
        worker: Uuid,
        rules: Vec<ReplicaRule>,
        standbys: Vec<Standby>,
        pool: Pool,
        working: watch::Receiver<bool>,
    ) -> Self {
        let replica_lag = ReplicaLag::new(rules);
        let (looking, telling) = (Regime::new("read the signals"), Regime::new("publish the signals"));
        let controller = Controller::default();
        Self {
            throttle,
            pool,
            worker,
            others: None,
            working,
            standbys,
            replica_lag,
            vacuums: Vacuums::new(),
            vacuums_at: None,
            controller,
            looking,
            telling,
            told_at: None,
            told: BTreeSet::new(),
            over: BTreeSet::new(),
        }
    }

    pub async fn run(mut self) {
        // Not to cry at the start that those have not answered who are being asked.
        join_all(self.standbys.iter().map(Standby::first_word)).await;
        loop {
            let started = Instant::now();
            let was_holding = holds(&self.throttle.readings());
            self.look().await;
            let holding = holds(&self.throttle.readings());
            self.tell_if_due(holding, holding != was_holding).await;
            self.rest(started).await;
        }
    }

    /// Until the next look; work that begins or ends is a reason to look at once.
    async fn rest(&mut self, started: Instant) {
        let interval = interval(*self.working.borrow_and_update());
        tokio::select! {
            Ok(()) = self.working.changed() => {}
            () = tokio::time::sleep_until(started + interval) => {}
        }
    }

    /// What can't be seen here keeps nobody waiting.
    async fn look_for_vacuums(&mut self) {
        let now = Instant::now();
        let due = self.vacuums_at.is_none_or(|at| now - at >= vacuum::LOOK_AGAIN);
        if !due || !*self.working.borrow() {
            return;
        }
        self.vacuums_at = Some(now);
        let seen = ask(&self.pool, async |client| vacuum::look(client).await).await;
        self.vacuums = vacuum::observe(&self.vacuums, now, &seen.unwrap_or_default());
    }

    async fn look(&mut self) {
        self.look_for_vacuums().await;
        let before = self.throttle.readings();
        let heard: Vec<Heard> = self.standbys.iter().map(Standby::heard).collect();
        let sample = ask(&self.pool, async |client| walsender::look(client).await).await;
        self.looking.note(self.throttle.database(), &sample);
        let readings = match sample {
            Ok(sample) => {
                let mut list = self.replica_lag.observe(&sample, &heard);
                let working = *self.working.borrow();
                list.extend(self.throttle.shared.signals.heard(sample.at, working));
                let unread = self.throttle.shared.signals.unread();
                let vacuums = self.vacuums.clone();
                let mut readings = Readings { heard_at: Some(sample.at), list, vacuums, unread, ..Readings::default() };
                let circumstances = Circumstances { now: sample.at, working, others: self.others };
                self.controller.steer(&mut readings, circumstances);
                readings
            }
            // The old readings stay, and age until they hold.
            Err(error) => Readings { trouble: Some(error.message), ..Readings::clone(&before) },
        };
        self.log_changes(&before.list, &readings.list);
        self.note_load(&readings.list);
        self.throttle.publish(readings);
    }

    fn log_changes(&self, before: &[Reading], after: &[Reading]) {
        let holding = |list: &[Reading], reading: &Reading| {
            let same = |r: &&Reading| (r.signal, &r.source) == (reading.signal, &reading.source);
            list.iter().find(same).is_some_and(|reading| reading.holding)
        };
        let database = self.throttle.database();
        for reading in after.iter().filter(|reading| reading.holding && !holding(before, reading)) {
            let reason = reading.reason.as_deref().unwrap_or_default();
            let (signal, source) = (reading.signal.as_str(), &reading.source);
            warn!(
                database.name = database,
                signal.name = signal,
                signal.source = source,
                signal.limit = reading.limit,
                "holding: {reason}"
            );
        }
        for reading in before.iter().filter(|reading| reading.holding && !holding(after, reading)) {
            let (signal, source) = (reading.signal.as_str(), &reading.source);
            info!(
                database.name = database,
                signal.name = signal,
                signal.source = source,
                signal.limit = reading.limit,
                "holding no longer"
            );
        }
    }

    fn note_load(&mut self, list: &[Reading]) {
        let database = self.throttle.database();
        let mut over = BTreeSet::new();
        for reading in list.iter().filter(|reading| reading.kind == super::reading::Kind::Load) {
            let name = name(reading);
            let was = self.over.contains(&name);
            // Not readable: as it was.
            let is = match reading.utilization() {
                Some(utilization) => utilization >= if was { NO_LONGER_OVER } else { 1.0 },
                None => was,
            };
            let (signal, source, limit) = (name.0, &reading.source, reading.limit);
            match (was, is) {
                (false, true) => warn!(
                    database.name = database,
                    signal.name = signal,
                    signal.source = source,
                    signal.limit = limit,
                    "slowing down: {}",
                    reading.describe()
                ),
                (true, false) => info!(
                    database.name = database,
                    signal.name = signal,
                    signal.source = source,
                    signal.limit = limit,
                    "well below its limit again"
                ),
                _ => {}
            }
            if is {
                over.insert(name);
            }
        }
        self.over = over;
    }

    async fn tell_if_due(&mut self, holding: bool, changed: bool) {
        let readings = self.throttle.readings();
        let interval = match (holding || *self.working.borrow(), has_budgets(&readings)) {
            (true, _) => TELL_WORKING,
            (false, true) => TELL_AT_REST,
            (false, false) => TELL_SELDOM,
        };
        let due = self.told_at.is_none_or(|at| at.elapsed() >= interval);
        let names: BTreeSet<Name> = readings.list.iter().map(name).collect();
        if names.is_empty() && self.told.is_empty() || !(due || changed) {
            return;
        }
        self.told_at = Some(Instant::now());
        let told = to_json(&readings, Instant::now(), &self.over, self.told.difference(&names));
        let working = *self.working.borrow();
        let duty = Duty {
            worker: self.worker,
            now: working.then_some(readings.pace.duty),
            by_budgets: readings.budget_duty.filter(|_| working),
        };
        let outcome = ask(&self.pool, async |client| tell(client, &told, &duty).await).await;
        self.telling.note(self.throttle.database(), &outcome);
        if outcome.is_ok() {
            self.told = names;
        }
        self.others = outcome.unwrap_or_default();
    }
}

fn holds(readings: &Readings) -> bool {
    let now = Instant::now();
    readings.list.iter().any(|reading| reading.hold(now).is_some())
}

fn has_budgets(readings: &Readings) -> bool {
    readings.list.iter().any(|reading| reading.kind == super::reading::Kind::Budget)
}

fn to_json<'a>(
    readings: &Readings,
    now: Instant,
    over: &BTreeSet<Name>,
    gone: impl Iterator<Item = &'a Name>,
) -> Value {
    let list = readings.list.iter().map(|reading| {
        let hold = reading.hold(now);
        json!({
            "signal": reading.signal.as_str(),
            "source": reading.source,
            "kind": reading.kind.as_str(),
            "value": reading.value,
            "limit": reading.limit,
            "utilization": reading.utilization(),
            "age_seconds": reading.age(now).as_secs_f64(),
            "holding": hold.is_some(),
            "over": over.contains(&name(reading)),
            // Of a gauge that can't be read too, although it holds nothing.
            "reason": hold.or_else(|| reading.reason.clone().filter(|_| reading.value.is_none())),
        })
    });
    let gone = gone.map(|(signal, source)| json!({"signal": signal, "source": source, "gone": true}));
    Value::Array(list.chain(gone).collect())
}

/// Not to wait for a synchronous standby, which may be the very one that is gone; but flushed here, so that its WAL
/// goes out at once.
const TELL: &str = "
select pg_catalog.set_config('synchronous_commit', 'local', true), backfill._publish_signals($1), backfill._share_duty_cycle($2, $3, $4)";

/// Of one daemon; none at rest.
struct Duty {
    worker: Uuid,
    now: Option<f64>,
    /// None without budgets.
    by_budgets: Option<f64>,
}

/// Tells the readings and the duty that budgets leave this daemon; answers with the mean of the others that are at work.
/// What its own ears say of load is left out: it is in the others' already, if it is there, and nothing that a budget asks of them.
async fn tell(client: &Client, told: &Value, duty: &Duty) -> Result<Option<f64>> {
    let statement = client.prepare_cached(TELL).await?;
    Ok(client.query_one(&statement, &[told, &duty.worker, &duty.now, &duty.by_budgets]).await?.get(2))
}

/// One question with a connection of the pool, or the reason why there is no answer in time.
async fn ask<T>(pool: &Pool, question: impl AsyncFnOnce(&Client) -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    let late = |what: &str| Error::new(Kind::Timeout, format!("no {what} within {} s", PATIENCE.as_secs()));
    let client = match timeout_at(deadline, pool.get()).await {
        Ok(client) => client.map_err(no_connection)?,
        Err(_elapsed) => return Err(late("connection")),
    };
    match timeout_at(deadline, question(&client)).await {
        Ok(answer) => answer,
        Err(_elapsed) => {
            // The question still waits on this connection, and whoever got it next would wait behind it.
            drop(Object::take(client));
            Err(late("answer"))
        }
    }
}

pub(super) fn no_connection(error: PoolError) -> Error {
    match error {
        PoolError::Backend(error) => error.into(),
        PoolError::Timeout(_) => Error::new(Kind::Timeout, "no connection is free"),
        error => Error::new(Kind::Internal, format!("no connection: {error}")),
    }
}

/// Says once that something begins to fail, or fails in another way, or works again.
struct Regime {
    what: &'static str,
    failing: Option<Kind>,
}

impl Regime {
    fn new(what: &'static str) -> Self {
        Self { what, failing: None }
    }

    fn note<T>(&mut self, database: &str, outcome: &Result<T>) {
        let what = self.what;
        match (self.failing, outcome) {
            (None, Ok(_)) => {}
            (Some(_), Ok(_)) => info!(database.name = database, "can {what} again"),
            (was, Err(error)) if was == Some(error.kind) => {}
            (_, Err(error)) => warn!(database.name = database, error = error as &dyn std::error::Error, "can't {what}"),
        }
        self.failing = outcome.as_ref().err().map(|error| error.kind);
    }
}

impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampler").field("database", &self.throttle.database()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use deadpool_postgres::Manager;
    use tokio_postgres::NoTls;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::throttle::controller::{Decision, decide};

    /// A server that takes connections and never says a word, or none at all.
    async fn deaf(listening: bool) -> (tokio::net::TcpListener, Pool) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = if listening { listener.local_addr().expect("addr").port() } else { 1 };
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(port).user("nobody");
        let pool = Pool::builder(Manager::new(config, NoTls)).max_size(1).build().expect("pool");
        (listener, pool)
    }

    async fn first_trouble(listening: bool) -> (Throttle, String) {
        let (_listener, pool) = deaf(listening).await;
        let throttle = Throttle::new("main".to_owned(), vec![], &[]);
        let mut heard = throttle.shared.readings.subscribe();
        let stop = CancellationToken::new();
        let (_working, working) = watch::channel(false);
        let task = tokio::spawn(throttle.sampler(pool, Uuid::nil(), working, stop.clone()));
        heard.changed().await.expect("published");
        stop.cancel();
        task.await.expect("stops");
        let trouble = throttle.readings().trouble.clone().expect("trouble");
        (throttle, trouble)
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_or_does_not_answer_holds_with_the_cause() {
        let (throttle, trouble) = first_trouble(false).await;
        assert!(trouble.contains("refused"), "{trouble}");
        let Decision::Hold { text, .. } = decide(&throttle.readings(), Instant::now()) else { panic!("went on") };
        assert!(text.starts_with("replica lag has not been read yet: "), "{text}");

        let (_, trouble) = first_trouble(true).await;
        assert_eq!(trouble, "no connection within 2 s");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_told_is_what_the_gates_go_by() {
        let at = Instant::now();
        let list = vec![Reading::budget(crate::throttle::reading::Signal::ReplicaLagSeconds, "s1", 0.25, 0.5, at)];
        let readings = Readings { heard_at: Some(at), list, ..Readings::default() };
        assert_eq!(
            to_json(&readings, at, &BTreeSet::new(), [("slot", "s2".to_owned())].iter()),
            json!([{"signal": "replica_lag_seconds", "source": "s1", "kind": "budget", "value": 0.25, "limit": 0.5,
                "utilization": 0.5, "age_seconds": 0.0, "holding": false, "over": false, "reason": null},
                {"signal": "slot", "source": "s2", "gone": true}])
        );
        let stale = to_json(&readings, at + Duration::from_secs(4), &BTreeSet::new(), [].iter());
        assert_eq!(stale[0]["holding"], true);
        assert_eq!(stale[0]["reason"], "replica_lag_seconds of s1 has not been read for 4.0 s");
    }
}
