//! Runs the tasks of one database, from the first connection to the release of the last lease.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::types::Json;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use super::gauges;
use super::options::Options;
use crate::config::database::Database;
use crate::config::{Config, Lease};
use crate::error::{Error, Kind, Result};
use crate::execute::guard::Guard;
use crate::http::health::Health;
use crate::http::status::board::Board;
use crate::metrics::handle::Handle;
use crate::pg::clock::ServerClock;
use crate::pg::connect::{self, within};
use crate::pg::conninfo::ConnInfo;
use crate::pg::control::Control;
use crate::pg::pooler;
use crate::pg::pools::{CONTROL_LIMIT, Logins};
use crate::pg::row::Columns;
use crate::pg::schema::{install, state};
use crate::queue::daemon as queue;
use crate::queue::lease::{Heartbeat, Leases};
use crate::queue::{retention, wakeup};
use crate::rollout::{self, Held, Rollouts};
use crate::shutdown::Shutdown;
use crate::throttle::handle::Throttle;
use crate::worker::connection_losses::ConnectionLosses;
use crate::worker::context::{Context, WorkerSettings};
use crate::worker::error_policy::{Action, action, backoff};
use crate::worker::interrupted::Interrupted;
use crate::worker::log_limiter::LogLimiter;
use crate::{window, worker};

/// Interval at which the daemon runs housekeeping, updates the gauges, and checks whether all work
/// is done.
const TURN: Duration = Duration::from_millis(500);
/// Number of turns after which the daemon measures the server's clock, and checks whether it is
/// still registered.
const CHECKS: u64 = 10;

/// Maximum time that the workers have after a hard stop to cancel their batches and release their
/// slices.
const CANCEL_GRACE: Duration = Duration::from_secs(3);

/// Maximum time that the heartbeat and the other helper tasks may take to stop.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The settings of one database from the configuration.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    database: Database,
    lease: Lease,
    defaults: Value,
    /// The number of days for which the slices, events and row errors of finished jobs are kept.
    retention: u32,
}

impl Settings {
    pub fn of(config: &Config, database: &Database) -> Self {
        Self {
            database: database.clone(),
            lease: config.lease,
            defaults: Value::Object(config.defaults.clone()),
            retention: config.retention.days,
        }
    }

    pub fn name(&self) -> &str {
        &self.database.name
    }
}

/// Resources that the services of all databases share.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub options: Options,
    pub health: Arc<Health>,
    pub metrics: Handle,
    pub board: Board,
    /// Marked as changed after each reload of the configuration.
    pub reloads: watch::Receiver<()>,
}

/// The reason why the tasks of a database ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Drained,
    Idle { failed: i64, waiting: i64 },
}

/// The time at which the daemon began to serve a database, by the clock of the database server. A
/// job that failed after this time failed during this run.
pub(super) type Since = Arc<OnceLock<String>>;

pub(super) struct Service {
    name: String,
    logins: Logins,
    lease: Lease,
    defaults: Value,
    retention: u32,
    since: Since,
    surroundings: Surroundings,
}

/// The result of a successful start.
pub(super) struct Started {
    control: Control,
    /// The size of the throttle's pool.
    throttle_size: usize,
    clock: ServerClock,
    roles: Vec<String>,
    since: String,
}

impl Service {
    pub fn new(settings: Settings, since: Since, surroundings: Surroundings) -> Self {
        let Settings { database, lease, defaults, retention } = settings;
        let (name, logins) = (database.name.clone(), Logins::new(database));
        Self { name, logins, lease, defaults, retention, since, surroundings }
    }

    /// Runs the tasks until `shutdown` or, with `until_idle`, until no job can run. `started` is
    /// set if a reload has already started the service to check the configuration.
    pub async fn run(self, started: Option<Started>, shutdown: Shutdown) -> Result<Ended> {
        let started = match started {
            Some(started) => started,
            None => match self.start(&shutdown).await? {
                Some(started) => started,
                None => return Ok(Ended::Drained),
            },
        };
        let worker_id = Uuid::new_v4();
        let leases = Leases::new(worker_id, self.lease.ttl);
        let throttle =
            Throttle::new(self.name.clone(), self.logins.database().replicas.clone(), &self.logins.database().signals);
        // Without this registration, a job that a worker claims before the first heartbeat would be
        // shown as waiting for a daemon.
        if let Err(error) = queue::register_worker(&started.control, worker_id, &started.roles, self.lease.ttl).await {
            tracing::debug!(error = %error.message, "could not register the worker; the first heartbeat will register it");
        }
        let (wake, wakeups) = watch::channel(0);
        let (working, is_working) = watch::channel(false);
        // Stops the helper tasks below. They outlive the workers, because leases must be renewed
        // while a batch finishes.
        let edges = CancellationToken::new();
        let stop = Shutdown { drain: shutdown.drain.child_token(), hard: shutdown.hard.clone() };
        let mut helpers = JoinSet::new();
        let beating = Heartbeat {
            logins: self.logins.clone(),
            control: started.control.clone(),
            roles: started.roles.clone(),
            every: self.lease.heartbeat,
        };
        let heartbeat = leases.clone().heartbeat(beating, edges.clone());
        helpers.spawn(heartbeat.in_current_span());
        helpers.spawn(wakeup::listen(self.logins.clone(), wake, edges.clone()).in_current_span());
        let rollouts = Rollouts {
            logins: self.logins.clone(),
            control: started.control.clone(),
            worker: worker_id,
            roles: started.roles.clone(),
            held: Held::default(),
            window: self.logins.database().window.clone(),
            clock: started.clock.clone(),
        };
        for _ in 0..rollout::AT_ONCE {
            helpers.spawn(rollouts.clone().run(stop.drain.clone()).in_current_span());
        }
        let retention = retention::keep(started.control.clone(), self.retention, edges.clone());
        helpers.spawn(retention.in_current_span());
        let reloads = self.surroundings.reloads.clone();
        let throttling = throttle.run(
            self.logins.control_pool(started.throttle_size)?,
            worker_id,
            is_working,
            reloads,
            edges.clone(),
        );
        helpers.spawn(throttling.in_current_span());
        let status = self.surroundings.board.clone().keep(self.name.clone(), started.control.clone(), edges.clone());
        helpers.spawn(status.in_current_span());
        let guard = Guard::new(self.name.clone());
        helpers.spawn(guard.clone().keep(self.logins.clone(), edges.clone()).in_current_span());

        let context = Context {
            settings: WorkerSettings {
                database: self.name.clone(),
                roles: started.roles.clone(),
                share: self.logins.database().worker_share(),
                poll: self.lease.poll,
                defaults: self.defaults.clone(),
                window: self.logins.database().window.clone(),
                clock: started.clock.clone(),
            },
            logins: self.logins.clone(),
            control: started.control.clone(),
            leases: leases.clone(),
            throttle: throttle.clone(),
            wakeups: wakeups.clone(),
            guard: guard.clone(),
            log_limiter: LogLimiter::default(),
            losses: ConnectionLosses::default(),
            interrupted: Interrupted::default(),
        };
        let mut workers = JoinSet::new();
        for _ in 0..self.logins.database().workers {
            workers.spawn(worker::run(context.clone(), stop.clone()).in_current_span());
        }
        tracing::info!(worker.id = %worker_id, workers = self.logins.database().workers, roles = ?started.roles, "serving the database");

        let ended = tokio::select! {
            biased;
            () = shutdown.drain.cancelled() => Ok(Ended::Drained),
            // A task that ends without a shutdown has panicked. The daemon must not continue with
            // fewer workers than configured, or without its heartbeat or its throttle.
            Some(Err(panic)) = workers.join_next() => Err(Error::new(Kind::Internal, format!("worker task panicked: {panic}"))),
            Some(Err(panic)) = helpers.join_next() => Err(Error::new(Kind::Internal, format!("helper task panicked: {panic}"))),
            ended = self.attend(&started, worker_id, &leases, &throttle, &working) => Ok(ended),
        };
        stop.drain.cancel();
        let mut finished = std::pin::pin!(async { while workers.join_next().await.is_some() {} });
        tokio::select! {
            biased;
            () = &mut finished => {}
            () = shutdown.hard.cancelled() => {
                tracing::warn!("stopping immediately: cancelling the batches in flight");
                if tokio::time::timeout(CANCEL_GRACE, finished).await.is_err() {
                    tracing::warn!("a worker did not stop in time; its lease will expire");
                }
            }
        }
        edges.cancel();
        // Waits for the helper tasks. Otherwise a heartbeat in progress could register the worker
        // again after `deregister_worker`.
        let _ = tokio::time::timeout(LAST_WORDS, async { while helpers.join_next().await.is_some() {} }).await;
        if let Err(error) = queue::deregister_worker(&started.control, worker_id).await {
            tracing::warn!(error = %error.message, "could not deregister the worker; its leases will expire");
        }
        ended
    }

    /// Repeats [`Self::try_start`] until it succeeds or its error is permanent. With `until_idle`,
    /// the fourth failure is final. Returns none if the shutdown begins first.
    async fn start(&self, shutdown: &Shutdown) -> Result<Option<Started>> {
        let mut attempt = 0;
        loop {
            let error = match Box::pin(self.try_start(false)).await {
                Ok(started) => {
                    self.surroundings.health.ready_now(&self.name);
                    return Ok(Some(started));
                }
                Err(error) => error,
            };
            self.surroundings.health.not_ready(&self.name, error.message.clone());
            let passing = matches!(action(error.kind).0, Action::Reconnect | Action::Again | Action::GoAround);
            if !passing || (self.surroundings.options.until_idle && attempt >= 3) {
                return Err(error.context(format!("database \"{}\"", self.name)));
            }
            attempt += 1;
            if attempt == 1 {
                tracing::warn!(error = %error.message, "could not start serving the database; retrying");
            }
            if shutdown.drain.run_until_cancelled(tokio::time::sleep(backoff(attempt + 3))).await.is_none() {
                return Ok(None);
            }
        }
    }

    /// Makes one attempt to start: connects, migrates the schema if this is enabled, runs all
    /// checks, and registers the executors. With `strict`, an executor that cannot connect is an
    /// error. Does not report the result to the health check.
    pub async fn try_start(&self, strict: bool) -> Result<Started> {
        let first = self.logins.open_plain("backfilld start", |_| {}).await?;
        let second = self.logins.open_plain("backfilld start", |_| {}).await?;
        if pooler::is_pooled(&first, &second).await? {
            return Err(pooler::error(Kind::Config));
        }
        drop((first, second));
        let mut session = self.logins.open_control("backfilld start", |_| {}).await?;
        if self.surroundings.options.migrate {
            let applied = install::migrate(&mut session.client, false).await?;
            if !applied.is_empty() {
                tracing::info!(schema.version = applied.last(), "schema backfill installed");
            }
        }
        state::check(&session.client).await?;
        let row = within(CONTROL_LIMIT, session.client.query_one(
            "select session_user::text, clock_timestamp()::text, (select rolsuper from pg_roles where rolname = session_user), pg_is_in_recovery(), current_setting('session_replication_role')", &[])).await?;
        if row.read::<&str>(4)? == "replica" {
            return Err(Error::new(Kind::Config, "session_replication_role is \"replica\" in the sessions of the login, so the triggers of schema backfill do not fire")
                .hint("As a superuser, remove this setting from the role and from the database: alter role LOGIN reset session_replication_role; alter database DATABASE reset session_replication_role;"));
        }
        let login: String = row.read(0)?;
        if row.read::<bool>(3)? {
            return Err(Error::new(Kind::ReadOnly, "the server is a standby").hint("Use the url of the primary."));
        }
        if row.read::<Option<bool>>(2)? == Some(true) {
            tracing::warn!(
                login,
                "the login is a superuser: if its role has no executor, the functions that a job calls, and the triggers that it fires, run with all privileges; connect as the table owner, or configure executors"
            );
        }
        within(
            CONTROL_LIMIT,
            // The defaults apply to jobs with and without a filter. A rule that concerns only one
            // of these two kinds of jobs is checked when a job is enqueued.
            session.client.query("select backfill._check_options($1, 'true', true)", &[&Json(&self.defaults)]),
        )
        .await
        .map_err(|error| match error.kind {
            Kind::Refused => Error { kind: Kind::Config, ..error.context("defaults in the configuration") },
            _ => error,
        })?;
        let mut roles = Vec::new();
        for executor in &self.logins.database().executors {
            let info = connect::parse(&executor.login()?, "backfilld start")?;
            let direct = Box::pin(direct(&info)).await;
            if let Err(error) = direct {
                let error = error.context(format!("executor for \"{}\"", executor.run_as));
                if strict || error.kind == Kind::Config {
                    return Err(error);
                }
                // The code of a job can change settings of its login role so that the role cannot
                // connect. The jobs of the other roles must not wait for this role.
                tracing::warn!(error = %error.message, "the jobs of role {} wait until its executor can connect", executor.run_as);
            }
            roles.push(executor.run_as.clone());
        }
        const LIMIT: &str = "
select least(nullif((select r.rolconnlimit from pg_roles r where r.rolname = session_user and not r.rolsuper), -1),
             nullif((select d.datconnlimit from pg_database d where d.datname = current_database()), -1))";
        let limit = within(CONTROL_LIMIT, session.client.query_one(LIMIT, &[])).await?.read(0)?;
        let (size, throttle_size) = self.logins.pool_sizes(limit);
        let control = Control::new(&self.logins, size)?;
        control.connect().await?;
        self.register_executors(&control).await?;
        if roles.is_empty() {
            warn_of_authors(&session.client, &login).await?;
            roles.push(login);
        }
        let now: String = row.read(1)?;
        let since = self.since.get_or_init(|| now).clone();
        let clock = ServerClock::default();
        clock.measure(&control).await?;
        Ok(Started { control, throttle_size, clock, roles, since })
    }

    /// In a loop, runs housekeeping and updates the gauges. With `until_idle`, returns when no job
    /// can run. Without `until_idle`, never returns.
    async fn attend(
        &self,
        started: &Started,
        worker: Uuid,
        leases: &Leases,
        throttle: &Throttle,
        working: &watch::Sender<bool>,
    ) -> Ended {
        let pulse = self.surroundings.health.pulse(self.name.clone());
        let mut turns = tokio::time::interval(TURN);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut idle_turns = 0;
        let mut progress = gauges::Progress::default();
        for number in 1_u64.. {
            turns.tick().await;
            if number % CHECKS == 0
                && let Err(error) = self.check_again(started, worker).await
            {
                tracing::debug!(error = %error.message, "could not measure the server's clock or check the registration of the daemon");
            }
            pulse.beat();
            working.send_if_modified(|was| std::mem::replace(was, !leases.is_empty()) == leases.is_empty());
            match self.turn(started, worker, throttle, &mut progress).await {
                Ok(Ended::Drained) => idle_turns = 0,
                // The daemon exits only after two consecutive idle turns, because a single turn can
                // observe a new job in the middle of a state change.
                Ok(idle) => {
                    idle_turns += 1;
                    if self.surroundings.options.until_idle && idle_turns >= 2 && leases.is_empty() {
                        return idle;
                    }
                }
                Err(error) => {
                    idle_turns = 0;
                    self.surroundings.health.not_ready(&self.name, error.message);
                    continue;
                }
            }
            self.surroundings.health.ready_now(&self.name);
        }
        Ended::Drained
    }

    /// Measures the server's clock again. Registers the daemon again if the schema was dropped and
    /// installed again.
    async fn check_again(&self, started: &Started, worker: Uuid) -> Result<()> {
        started.clock.measure(&started.control).await?;
        if queue::is_registered(&started.control, worker, &started.roles).await? {
            return Ok(());
        }
        tracing::warn!("schema backfill no longer contains the registration of this daemon; registering again");
        self.register_executors(&started.control).await?;
        queue::register_worker(&started.control, worker, &started.roles, self.lease.ttl).await
    }

    /// Registers the login of each executor. Without executors in the configuration, the daemon's
    /// own login is the only executor.
    async fn register_executors(&self, control: &Control) -> Result<()> {
        let database = self.logins.database();
        let one_url = database.executors.is_empty();
        if one_url {
            let login: String = control.query_one("select session_user::text", &[]).await?.read(0)?;
            return queue::register_executor(control, &login, &login, true, database.trust_table_owners).await;
        }
        for executor in &database.executors {
            let info = connect::parse(&executor.login()?, "backfilld start")?;
            queue::register_executor(control, info.user(), &executor.run_as, false, false).await?;
        }
        Ok(())
    }

    /// Runs one turn. Returns [`Ended::Idle`] if `until_idle` is set and no job or rollout can run,
    /// and [`Ended::Drained`] in every other case.
    async fn turn(
        &self,
        started: &Started,
        worker: Uuid,
        throttle: &Throttle,
        progress: &mut gauges::Progress,
    ) -> Result<Ended> {
        const BUSY: &str = "
select count(*) filter (where state in ('queued', 'running', 'verifying')
                          and coalesce(waiting_reason, '') <> all (array['approval', 'window', 'executor', 'run_at', 'paused_all'])),
       count(*) filter (where state in ('queued', 'running', 'verifying', 'paused')),
       count(*) filter (where state = 'failed' and finished_at >= $1::text::timestamptz),
       (select count(*) from backfill.rollouts r where r.state in ('running', 'rolling_back') and r.desired_state = 'running'
                          and coalesce(r.waiting_reason, '') <> all (array['executor', 'paused_all']))
from backfill.jobs where state in ('queued', 'running', 'verifying', 'paused') or finished_at >= $1::text::timestamptz";
        queue::run_housekeeping(&started.control).await?;
        let window = &self.logins.database().window;
        if window.is_some() {
            let closed = window::closed_until(window, started.clock.now());
            queue::set_worker_window(&started.control, worker, closed).await?;
        }
        let seen = gauges::paint(&self.surroundings.metrics, &self.name, &started.control, throttle, progress).await?;
        self.surroundings.board.observe(&self.name, seen);
        if !self.surroundings.options.until_idle {
            return Ok(Ended::Drained);
        }
        let row = started.control.query_one(BUSY, &[&started.since]).await?;
        let (busy, waiting, failed): (i64, i64, i64) = (row.read(0)?, row.read(1)?, row.read(2)?);
        let rollouts: i64 = row.read(3)?;
        Ok(if busy > 0 || rollouts > 0 { Ended::Drained } else { Ended::Idle { failed, waiting } })
    }
}

/// Checks that an executor can connect, and that its connection does not go through a pooler in
/// transaction or statement mode.
async fn direct(info: &ConnInfo) -> Result<()> {
    let (first, second) = (connect::open(info, |_| {}).await?, connect::open(info, |_| {}).await?);
    if pooler::is_pooled(&first, &second).await? { Err(pooler::error(Kind::Config)) } else { Ok(()) }
}

/// Warns if unfinished jobs run code of other roles with the privileges of the daemon's only login.
async fn warn_of_authors(client: &tokio_postgres::Client, login: &str) -> Result<()> {
    const SQL: &str = "
select array_agg(distinct j.target order by j.target), array_agg(distinct r.role::text order by r.role::text)
  from backfill._unfinished_jobs() j cross join lateral unnest(backfill._untrusted_roles(j.relation, $1::text::name)) r(role)
 where j.run_as = $1::text::name having count(*) > 0";
    if let Some(row) = within(CONTROL_LIMIT, client.query_opt(SQL, &[&login])).await? {
        let (tables, roles): (Vec<String>, Vec<String>) = (row.read(0)?, row.read(1)?);
        tracing::warn!(
            ?tables,
            ?roles,
            login,
            "code of other roles runs with the privileges of the login; configure executors"
        );
    }
    Ok(())
}
