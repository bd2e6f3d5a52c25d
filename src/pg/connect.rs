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

/// A connection of one owner. Dropping it closes it.
#[derive(Debug)]
pub struct Session {
    pub client: Client,
    config: Config,
    driver: JoinHandle<()>,
}

impl Session {
    /// Cancels the statement that runs on this session.
    pub async fn cancel(&self) -> Cancelled {
        cancel::cancel(&self.client.cancel_token(), &self.config).await
    }
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
    Ok(Session { client, config: config.clone(), driver })
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
