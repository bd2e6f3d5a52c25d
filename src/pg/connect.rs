//! One connection: a client, and the task that drives it, which ends with the session.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};

use crate::config::SecretUrl;
use crate::error::{Error, Kind, Result};
use crate::pg::cancel::{self, Cancelled};

/// A server that does not answer within this time is not there.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a statement may go on beyond its limit before it is cancelled, and then before its session is ended.
const PATIENCE: Duration = Duration::from_secs(1);

/// A connection of one owner. Dropping it closes it.
#[derive(Debug)]
pub struct Session {
    pub client: Client,
    config: Config,
    driver: JoinHandle<()>,
    /// The server's process, where [`Session::bounded`] may have to end it.
    pub pid: Option<i32>,
}

impl Session {
    /// Cancels the statement that runs on this session.
    pub async fn cancel(&self) -> Cancelled {
        cancel::cancel(&self.client.cancel_token(), &self.config).await
    }

    /// A statement that runs a job's code, whose server has `limit` as its own statement_timeout. That code can lift the
    /// timeout, or catch the error that it raises, and a cancel's too, and hold its locks for as long as it likes. So
    /// here: beyond the limit the statement is cancelled, and what outlives that loses its session, which nothing catches.
    ///
    /// # Errors
    /// As the server says; [`Kind::Overrun`] if the session had to be ended; [`Kind::ConnectionLost`] if the server
    /// can't be reached to do it.
    pub async fn bounded<T>(
        &self,
        limit: Duration,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        let (answer, cancelled) = self.or_cancelled(limit, statement).await?;
        answer.map_err(|error| blame(error.into(), cancelled))
    }

    /// As [`Session::bounded`], for more than one statement: what came of them, and whether they were cancelled, for which
    /// [`blame`] has the error.
    pub async fn or_cancelled<T>(&self, limit: Duration, statements: impl Future<Output = T>) -> Result<(T, bool)> {
        let mut statements = std::pin::pin!(statements);
        if let Ok(answer) = tokio::time::timeout(limit + PATIENCE, &mut statements).await {
            return Ok((answer, false));
        }
        if self.cancel().await == Cancelled::Settled
            && let Ok(answer) = tokio::time::timeout(PATIENCE, &mut statements).await
        {
            return Ok((answer, true));
        }
        if self.terminate().await {
            return Err(overrun("a statement of the job went on for longer than a batch may, and past a cancel"));
        }
        let seconds = limit.as_secs_f32();
        Err(Error::new(Kind::ConnectionLost, format!("the server did not answer within {seconds} s")))
    }

    /// Ends the session from a second one of the same login, which needs no further right for that. Whether the job's
    /// code was to blame for it: not where it waits for a disk or for the server itself.
    async fn terminate(&self) -> bool {
        const END: &str = "
select pg_catalog.pg_terminate_backend(a.pid) and coalesce(a.wait_event_type <> all (array['IO', 'LWLock', 'IPC', 'BufferPin']), true)
from pg_catalog.pg_stat_activity a where a.pid operator(pg_catalog.=) $1 and a.usename operator(pg_catalog.=) session_user";
        let Some(pid) = self.pid else { return false };
        let ended = async {
            let other = open(&self.config, |_| {}).await?;
            within(CONNECT_TIMEOUT, other.client.batch_execute("set role none")).await?;
            within(CONNECT_TIMEOUT, other.client.query_opt(END, &[&pid])).await
        };
        match ended.await {
            Ok(row) => row.is_some_and(|row| row.get(0)),
            Err(error) => {
                tracing::warn!(error = %error.message, "a statement that outlives its cancel could not be ended");
                false
            }
        }
    }
}

/// A statement that only our cancel has ended, and not its own statement_timeout.
pub fn blame(error: Error, cancelled: bool) -> Error {
    if cancelled && error.kind == Kind::Cancelled {
        return overrun(
            "a statement of the job went on for longer than a batch may, and its statement_timeout did not end it",
        );
    }
    error
}

fn overrun(message: &str) -> Error {
    Error::new(Kind::Overrun, message)
        .detail("Its session was ended, and what it had changed is undone.")
        .hint("Look in the job's functions and triggers for code that sets statement_timeout, or catches query_canceled, or loops without looking up.")
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The driver's configuration for a connection string.
///
/// # Errors
/// [`Kind::Config`] if it can't be read, or asks for TLS, which this release does not have.
pub fn parse(url: &SecretUrl, application_name: &str) -> Result<Config> {
    let mut config: Config = url.expose().parse().map_err(|error: tokio_postgres::Error| {
        // The driver's message names the option, never its value.
        let error = Error { kind: Kind::Config, ..Error::from(error) };
        error.context(format!("the database url {url} can't be read"))
    })?;
    if config.get_ssl_mode() == SslMode::Require {
        return Err(Error::new(Kind::Config, format!("the database url {url} asks for TLS, which this release lacks"))
            .hint("Use sslmode=prefer on a trusted network or a Unix socket; TLS comes with a later release."));
    }
    config.application_name(application_name);
    config.connect_timeout(CONNECT_TIMEOUT);
    config.keepalives_idle(Duration::from_secs(10));
    config.keepalives_interval(Duration::from_secs(5));
    config.keepalives_retries(3);
    config.tcp_user_timeout(Duration::from_secs(20));
    Ok(config)
}

/// Connects, and drives the connection until it is dropped; `on_message` sees notices and notifications.
///
/// # Errors
/// As the server or the network says; a silent server is [`Kind::ConnectionLost`] after [`CONNECT_TIMEOUT`].
pub async fn open(config: &Config, on_message: impl Fn(AsyncMessage) + Send + 'static) -> Result<Session> {
    // The driver's own timeout covers the socket alone, not a server that accepts and stays silent.
    let (client, mut connection) = tokio::time::timeout(CONNECT_TIMEOUT, config.connect(NoTls))
        .await
        .map_err(|_| Error::new(Kind::ConnectionLost, "the server accepted a connection and did not answer"))?
        .map_err(Error::from)?;
    let driver = tokio::spawn(async move {
        let mut messages =
            std::pin::pin!(futures_util::stream::poll_fn(move |context| connection.poll_message(context)));
        while let Some(Ok(message)) = futures_util::StreamExt::next(&mut messages).await {
            on_message(message);
        }
    });
    Ok(Session { client, config: config.clone(), driver, pid: None })
}

/// A query that must be answered in time. A connection that went silent is as good as lost.
///
/// # Errors
/// [`Kind::ConnectionLost`] after `limit`.
pub async fn within<T>(limit: Duration, query: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T> {
    match tokio::time::timeout(limit, query).await {
        Ok(answer) => answer.map_err(Error::from),
        Err(_) => {
            Err(Error::new(Kind::ConnectionLost, format!("the server did not answer within {} s", limit.as_secs_f32())))
        }
    }
}
