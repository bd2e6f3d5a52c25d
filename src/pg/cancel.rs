//! Cancelling what a connection is doing, so that the cancel can't hit what it does next.
//!
//! The server takes a cancel request on a connection of its own, and closes that once it has signalled the session.
//! A request that is sent and not waited for may arrive after the statement has ended, and kill the following one
//! (P7). So: nothing is sent on the session until the request's stream has reached its end.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::Host;
use tokio_postgres::{CancelToken, Config, NoTls};

use crate::error::{Error, Kind, Result};

/// A server takes some milliseconds; one that takes this long is not reached.
const LIMIT: Duration = Duration::from_secs(2);

/// Whether the session may be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// The server has acted on the request; the session's statement ends now, or has ended.
    Settled,
    /// The request may still be on its way: the session must be closed.
    Unsettled,
}

/// Cancels what the session behind `token` is doing, which was opened with `config`.
pub async fn cancel(token: &CancelToken, config: &Config) -> Cancelled {
    match tokio::time::timeout(LIMIT, request(token, config)).await {
        Ok(Ok(())) => Cancelled::Settled,
        Ok(Err(error)) => {
            tracing::warn!(error = %error.message, "a cancel request failed");
            Cancelled::Unsettled
        }
        Err(_) => Cancelled::Unsettled,
    }
}

async fn request(token: &CancelToken, config: &Config) -> Result<()> {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match (config.get_hosts(), config.get_hostaddrs()) {
        ([_], [address]) => send(token, TcpStream::connect((*address, port)).await.map_err(network)?).await,
        ([Host::Tcp(host)], _) => send(token, TcpStream::connect((host.as_str(), port)).await.map_err(network)?).await,
        ([Host::Unix(folder)], _) => {
            let path = folder.join(format!(".s.PGSQL.{port}"));
            send(token, UnixStream::connect(path).await.map_err(network)?).await
        }
        // Of several hosts only the driver knows which one it is connected to, and it does not wait for the end.
        _ => {
            token.cancel_query(NoTls).await?;
            Err(Error::new(
                Kind::ConnectionLost,
                "sent, and the server's answer can't be waited for with several hosts",
            ))
        }
    }
}

async fn send(token: &CancelToken, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    token.cancel_query_raw(&mut stream, NoTls).await?;
    let mut rest = [0; 16];
    while stream.read(&mut rest).await.map_err(network)? > 0 {}
    Ok(())
}

fn network(error: std::io::Error) -> Error {
    Error::new(Kind::ConnectionLost, error.to_string())
}
