//! Two kinds of logins. The control login owns schema `backfill` and never evaluates a user's expression; executors
//! run them, one login for each role that jobs run as. With one url in the configuration the control login is both.

use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::{Config, NoTls};

use crate::config::{Database, SecretUrl};
use crate::error::{Error, Kind, Result};
use crate::pg::connect::{self, CONNECT_TIMEOUT, Session};
use crate::pg::session::CONTROL_RECIPE;

/// Control statements are short; one that is not answered in this time is not going to be.
pub const CONTROL_LIMIT: Duration = Duration::from_secs(10);

/// The logins of one database.
#[derive(Debug, Clone)]
pub struct Logins {
    database: Database,
}

impl Logins {
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The control login's configuration; its url is read anew, so that a rotated secret works.
    pub fn control(&self, application_name: &str) -> Result<Config> {
        connect::parse(&self.database.resolve_url()?, application_name)
    }

    /// A control connection of its own, outside of the pool: for LISTEN, heartbeats and the command line.
    pub async fn open_control(
        &self,
        application_name: &str,
        on_message: impl Fn(tokio_postgres::AsyncMessage) + Send + 'static,
    ) -> Result<Session> {
        let session = connect::open(&self.control(application_name)?, on_message).await?;
        connect::within(CONTROL_LIMIT, session.client.batch_execute(CONTROL_RECIPE)).await?;
        Ok(session)
    }

    /// A pool of control connections. Its recipe is set once a connection, for recycling does not reset it.
    pub fn control_pool(&self, size: usize) -> Result<Pool> {
        let manager = Manager::from_config(
            self.control("backfilld control")?,
            NoTls,
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        Pool::builder(manager)
            .max_size(size)
            .runtime(Runtime::Tokio1)
            .create_timeout(Some(CONNECT_TIMEOUT))
            .wait_timeout(Some(CONTROL_LIMIT))
            .post_create(Hook::async_fn(|client, _| {
                Box::pin(async move {
                    client.batch_execute(CONTROL_RECIPE).await.map_err(HookError::Backend)?;
                    Ok(())
                })
            }))
            .build()
            .map_err(|error| Error::new(Kind::Internal, error.to_string()))
    }

    /// Where jobs of `run_as` run: the executor's url, and whether it is the control login itself.
    pub fn executor(&self, run_as: &str) -> Result<(SecretUrl, bool)> {
        match self.database.executors.iter().find(|executor| executor.run_as == run_as) {
            Some(executor) => Ok((executor.resolve_url()?, false)),
            None => Ok((self.database.resolve_url()?, true)),
        }
    }

    /// Opens an executor connection whose role is `run_as`.
    pub async fn open_executor(&self, run_as: &str, application_name: &str) -> Result<Session> {
        let (url, is_control) = self.executor(run_as)?;
        let mut config = connect::parse(&url, application_name)?;
        if !is_control {
            // Of the session itself, so that RESET ROLE comes back to it.
            let role = run_as.replace('\\', "\\\\").replace(' ', "\\ ");
            let options = config.get_options().map_or(String::new(), |given| format!("{given} "));
            config.options(format!("{options}-c role={role}"));
        }
        let mut session = connect::open(&config, |_| {}).await?;
        const WHO: &str = "select current_user::pg_catalog.text, pg_catalog.pg_backend_pid()";
        let row = connect::within(CONTROL_LIMIT, session.client.query_one(WHO, &[])).await?;
        let user: String = row.get(0);
        session.pid = Some(row.get(1));
        if user != run_as {
            return Err(Error::new(
                Kind::Permission,
                format!("the executor for role \"{run_as}\" is connected as \"{user}\""),
            )
            .hint(format!("As an administrator: alter role ... in database ... set role = '{run_as}';")));
        }
        Ok(session)
    }
}

/// A pooled control connection.
///
/// # Errors
/// [`Kind::ConnectionLost`] and its like, from the pool's own error.
pub async fn control(pool: &Pool) -> Result<deadpool_postgres::Client> {
    pool.get().await.map_err(|error| match error {
        deadpool_postgres::PoolError::Backend(error) => Error::from(error),
        deadpool_postgres::PoolError::PostCreateHook(HookError::Backend(error)) => Error::from(error),
        other => Error::new(Kind::ConnectionLost, other.to_string()),
    })
}
