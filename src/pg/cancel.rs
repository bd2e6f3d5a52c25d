//! Cancelling what a connection is doing, so that the cancel can't hit what it does next.
//!
//! The server takes a cancel request on a connection of its own, and closes that once it has signalled the session.
//! A request that is sent and not waited for may arrive after the statement has ended, and kill the following one
//! (P7). So: nothing is sent on the session until the request's stream has reached its end.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::{CancelToken, NoTls};

use crate::error::{Error, Kind, Result};
use crate::pg::peer::{Address, Peer};
use crate::pg::tls::connector::Connector;
use crate::pg::tls::terms::SslMode;

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

/// Cancels what the session behind `token` is doing, which is connected to `peer`.
pub async fn cancel(token: &CancelToken, peer: &Peer) -> Cancelled {
    match tokio::time::timeout(LIMIT, request(token, peer)).await {
        Ok(Ok(())) => Cancelled::Settled,
        Ok(Err(error)) => {
            tracing::warn!(error = %error.message, "a cancel request failed");
            Cancelled::Unsettled
        }
        Err(_) => Cancelled::Unsettled,
    }
}

async fn request(token: &CancelToken, peer: &Peer) -> Result<()> {
    let mut stream = match &peer.address {
        Address::Unix(path) => {
            let mut stream = UnixStream::connect(path).await.map_err(network)?;
            token.cancel_query_raw(&mut stream, NoTls).await?;
            return until_end(stream).await;
        }
        Address::Tcp(address) => TcpStream::connect(address).await.map_err(network)?,
    };
    if peer.terms.mode == SslMode::Disable {
        token.cancel_query_raw(&mut stream, NoTls).await?;
    } else {
        // The token knows whether the session is encrypted; its key must not travel in the open if that is.
        let handshake = Connector::new(&peer.terms)?.handshake(&peer.host);
        token.cancel_query_raw(&mut stream, handshake).await?;
    }
    until_end(stream).await
}

/// Until the server has closed its side. Over TLS what still comes are its own last words.
async fn until_end(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    let mut rest = [0; 256];
    loop {
        match stream.read(&mut rest).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // Closed with our own last words unread, and so done with the request.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(network(error)),
        }
    }
}

fn network(error: std::io::Error) -> Error {
    Error::new(Kind::ConnectionLost, error.to_string())
}
