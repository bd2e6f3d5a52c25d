//! Opens sessions of the two kinds of logins. The control login owns schema `backfill`. Executors
//! evaluate the expressions of jobs, with one login for each role that jobs run as. If the
//! configuration has only one url, the control login is also the executor. Otherwise the control
//! login never evaluates an expression of a job.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::{Connect, Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::config::database::Database;
use crate::config::secret::Login;
use crate::error::{Error, Kind, Result};
use crate::pg::connect::{self, Session};
use crate::pg::conninfo::{ConnInfo, Place};
use crate::pg::row::Columns;

/// The settings of the control login's sessions. `synchronous_commit` is on, so that a crash cannot
/// undo a claim, a plan or the outcome of a job. `transaction_timeout` exists only in PostgreSQL 17
/// and later.
pub const CONTROL_RECIPE: &str = "
set exit_on_error = off;
set search_path = pg_catalog, pg_temp;
select set_config(s.name, '0', false) from pg_settings s where s.name = 'transaction_timeout';
set synchronous_commit = on;
set statement_timeout = '10s';
set lock_timeout = '5s';
set idle_in_transaction_session_timeout = '5s';
set idle_session_timeout = 0;
set default_transaction_isolation = 'read committed';
set default_transaction_read_only = off;
set jit = off;
";

/// Maximum duration of a control statement. Control statements are short, so if the server has not
/// responded within this time, the connection counts as lost.
pub const CONTROL_LIMIT: Duration = Duration::from_secs(10);
/// Maximum time to open a session of the pool, in total for all hosts of the connection string. In
/// addition, `connect_timeout` limits the time for each host.
const ALL_HOSTS: Duration = Duration::from_secs(30);

/// The logins of one database. Each new connection reads the urls, passwords and certificates
/// again, so that a rotated secret takes effect without a restart.
#[derive(Debug, Clone)]
pub struct Logins {
    database: Database,
    /// Whether a connection has succeeded before.
    proven: Arc<AtomicBool>,
    /// Locked while a session that queries the state of other sessions is open.
    probing: Arc<tokio::sync::Mutex<()>>,
}

impl Logins {
    pub fn new(database: Database) -> Self {
        Self { database, proven: Arc::default(), probing: Arc::default() }
    }

    /// Locks `probing`. Waits while another task of this daemon queries the state of other sessions
    /// of the login.
    pub async fn probing(&self) -> OwnedMutexGuard<()> {
        self.probing.clone().lock_owned().await
    }

    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Returns the connection information of the control login, as it is configured now.
    pub fn control(&self, application_name: &str) -> Result<ConnInfo> {
        connect::parse(&self.database.login()?, application_name)
    }

    /// Connects with the connection information that `read` returns. If a connection has succeeded
    /// before and the connection information is now invalid or cannot be read, the secrets are
    /// probably being replaced at this moment. The error then has [`Kind::Authentication`], so the
    /// daemon tries again and no job fails.
    async fn open(
        &self,
        read: impl Fn() -> Result<ConnInfo>,
        on_message: impl Fn(tokio_postgres::AsyncMessage) + Send + 'static,
    ) -> Result<Session> {
        let opened = match read() {
            Ok(info) => connect::open(&info, on_message).await,
            Err(error) => Err(error),
        };
        self.judged(opened)
    }

    /// Changes the error of a connection attempt as described at [`Self::open`]. If no connection
    /// is free, adds to the error how many connections the daemon needs.
    fn judged<T>(&self, opened: Result<T>) -> Result<T> {
        match opened {
            Ok(opened) => {
                self.proven.store(true, Ordering::Relaxed);
                Ok(opened)
            }
            Err(error) if error.kind == Kind::Config && self.proven.load(Ordering::Relaxed) => {
                Err(Error { kind: Kind::Authentication, ..error })
            }
            Err(error) if error.kind == Kind::TooManyConnections => {
                let more = format!(
                    "the daemon uses up to {} connections as its control login, and needs at least {}",
                    self.database.connections(),
                    self.database.least_connections()
                );
                Err(Error { message: format!("{}; {more}", error.message), ..error })
            }
            Err(error) => Err(error),
        }
    }

    /// Opens a control session outside the pool, for LISTEN, heartbeats and the command line.
    pub async fn open_control(
        &self,
        application_name: &str,
        on_message: impl Fn(tokio_postgres::AsyncMessage) + Send + 'static,
    ) -> Result<Session> {
        let session = self.open_plain(application_name, on_message).await?;
        connect::within(CONTROL_LIMIT, session.client.batch_execute(CONTROL_RECIPE)).await?;
        Ok(session)
    }

    /// Opens a session of the control login without [`CONTROL_RECIPE`], so the session has the
    /// login's own settings.
    pub async fn open_plain(
        &self,
        application_name: &str,
        on_message: impl Fn(tokio_postgres::AsyncMessage) + Send + 'static,
    ) -> Result<Session> {
        self.open(|| self.control(application_name), on_message).await
    }

    /// Returns the sizes of the control pool and of the throttle's pool. If `limit`, the connection
    /// limit of the control login, is too low for the full sizes, the pools are smaller. A daemon
    /// with one worker then needs 6 connections, or 5 if it uses executors.
    pub fn pool_sizes(&self, limit: Option<i32>) -> (usize, usize) {
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let workers = count(self.database.workers);
        let missing = limit
            .map_or(0, |limit| count(self.database.connections()).saturating_sub(usize::try_from(limit).unwrap_or(0)));
        let most_fewer = 2; // The throttle then has one connection.
        (
            workers.saturating_add(3).saturating_sub(missing.saturating_sub(most_fewer)).max(1),
            3_usize.saturating_sub(missing).max(1),
        )
    }

    /// Creates a pool of control sessions. [`CONTROL_RECIPE`] is applied once to each session,
    /// because recycling a session does not reset its settings.
    pub fn control_pool(&self, size: usize) -> Result<Pool> {
        let manager = Manager::from_connect(
            // This configuration is not used, because `Anew` reads the connection information for
            // each connection.
            tokio_postgres::Config::new(),
            Anew(self.clone()),
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        Pool::builder(manager)
            .max_size(size)
            .runtime(Runtime::Tokio1)
            .create_timeout(Some(ALL_HOSTS))
            .wait_timeout(Some(CONTROL_LIMIT))
            .post_create(Hook::async_fn(|client, _| {
                Box::pin(async move {
                    let prepared = tokio::time::timeout(CONTROL_LIMIT, client.batch_execute(CONTROL_RECIPE)).await;
                    prepared.map_err(|_| HookError::message("the server did not respond"))?.map_err(HookError::Backend)
                })
            }))
            .build()
            .map_err(|error| Error::new(Kind::Internal, error.to_string()))
    }

    /// Returns the login that runs the jobs of role `run_as`, and whether this is the control
    /// login.
    fn executor(&self, run_as: &str) -> Result<(Login, bool)> {
        match self.database.executors.iter().find(|executor| executor.run_as == run_as) {
            Some(executor) => Ok((executor.login()?, false)),
            None => Ok((self.database.login()?, true)),
        }
    }

    /// Opens an executor session whose role is `run_as`.
    pub async fn open_executor(&self, run_as: &str, application_name: &str) -> Result<Session> {
        self.open_executor_at(None, run_as, application_name).await
    }

    /// Like [`Self::open_executor`], but connects to `place` (a host and a port) if it is given.
    pub async fn open_executor_at(
        &self,
        place: Option<&Place>,
        run_as: &str,
        application_name: &str,
    ) -> Result<Session> {
        let read = || {
            let (login, is_control) = self.executor(run_as)?;
            let mut info = connect::parse(&login, application_name)?;
            if !is_control {
                // The name of an executor's login may differ from the name of the role that runs
                // the job.
                info.set_role(run_as);
            }
            if let Some(place) = place {
                info.move_to(vec![place.clone()]);
            }
            Ok(info)
        };
        let opened = match self.open(read, |_| {}).await {
            Err(error) if error.kind == Kind::TooManyConnections && !self.executor(run_as)?.1 => Err(Error {
                message: format!(
                    "no connection is free for the executor of role \"{run_as}\", which needs one connection for each slice that is being processed; raise the connection limit of its login, or lower \"workers\""
                ),
                ..error
            }),
            opened => opened,
        };
        let mut session = opened?;
        const WHO: &str = "select current_user::pg_catalog.text, pg_catalog.pg_backend_pid()";
        let started = Instant::now();
        let row = connect::within(CONTROL_LIMIT, session.client.query_one(WHO, &[])).await?;
        // The driver sends the query in two round trips: one to prepare it, and one to run it.
        session.round_trip_took(started.elapsed() / 2);
        let user: String = row.read(0)?;
        session.pid = Some(row.read(1)?);
        if user != run_as {
            return Err(Error::new(
                Kind::Permission,
                format!("the executor for role \"{run_as}\" is connected as \"{user}\""),
            )
            .hint(format!("As an administrator, run this statement. Replace LOGIN with the login of this executor, and DATABASE with its database: alter role LOGIN in database DATABASE set role = '{run_as}';")));
        }
        Ok(session)
    }
}

/// Connects for the pool. Reads the connection information again for each connection.
struct Anew(Logins);

/// Closes a session of the pool. Also closes the idle sessions, because the same network failure
/// may affect them, or because the same pooler may have exchanged their server sessions.
pub fn close(pool: &Pool, session: deadpool_postgres::Client) {
    drop(Object::take(session));
    pool.retain(|_, _| false);
}

impl Connect for Anew {
    fn connect(
        &self,
        _: &tokio_postgres::Config,
    ) -> Pin<Box<dyn Future<Output = std::result::Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + '_>>
    {
        Box::pin(async move {
            let dialled = match self.0.control("backfilld control") {
                Ok(info) => Box::pin(connect::dial(&info)).await,
                Err(error) => Err(error),
            };
            match self.0.judged(dialled) {
                Ok((client, connection, _)) => Ok((
                    client,
                    tokio::spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::debug!(error = %Error::from(error).message, "a control connection was closed");
                        }
                    }),
                )),
                Err(error) => Err(connect::carried(error).await),
            }
        })
    }
}
