//! Cancels the running statement of a session, and makes sure that the request cannot cancel the
//! next statement.
//!
//! The server receives a cancel request on a separate connection, and closes that connection once
//! it has signalled the session. If the daemon did not wait until then, the request might arrive
//! after the statement has ended, and cancel the following statement (P7). So the daemon sends
//! nothing on the session until the server has closed the connection of the cancel request.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_postgres::{CancelToken, Config, NoTls};

use crate::error::{Error, Kind, Result};
use crate::pg::peer::Peer;
use crate::pg::tls::connector::Connector;
use crate::pg::wire::{self, Asked, Wire};

/// Maximum duration of a cancel request. A server needs a few milliseconds for a request. A request
/// that takes longer than this limit is [`Cancelled::Unsettled`].
const LIMIT: Duration = Duration::from_secs(2);

/// Whether the session may be used again after a cancel request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// The server has acted on the request. The session's statement is ending now, or has ended.
    Settled,
    /// The request failed, or may still be on its way. The session must be closed.
    Unsettled,
}

/// Cancels the statement that is running in the session of `token`. `peer` is the server of that
/// session.
pub async fn cancel(token: &CancelToken, peer: &Peer) -> Cancelled {
    match tokio::time::timeout(LIMIT, request(token, peer)).await {
        Ok(Ok(())) => Cancelled::Settled,
        Ok(Err(error)) => {
            tracing::warn!(error = %error.message, "cancel request failed");
            Cancelled::Unsettled
        }
        Err(_) => Cancelled::Unsettled,
    }
}

async fn request(token: &CancelToken, peer: &Peer) -> Result<()> {
    let stream = wire::open(&peer.address, &Config::new()).await.map_err(network)?;
    if !peer.is_encrypted {
        let mut wire = Wire::new(stream, Asked::Nothing);
        token.cancel_query_raw(&mut wire, NoTls).await?;
        return until_end(wire).await;
    }
    // The driver's token contains the TLS mode with which the session was opened. With `prefer`,
    // the driver would send the cancel key without TLS if the server now refused TLS.
    // `Asked::Require` ends the connection before the key is sent.
    let mut wire = Wire::new(stream, if peer.terms.direct { Asked::Direct } else { Asked::Require });
    let handshake = Connector::new(&peer.terms)?.handshake(&peer.host);
    token.cancel_query_raw(&mut wire, handshake).await?;
    until_end(wire).await
}

/// Waits until the server has closed its side of the connection. The server sends no response to a
/// cancel request. Any bytes that still arrive belong to the TLS session, and are discarded.
async fn until_end(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    let mut rest = [0; 256];
    loop {
        match stream.read(&mut rest).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // The server handled the request and closed the connection without reading our TLS
            // close message. This resets the connection.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(network(error)),
        }
    }
}

fn network(error: std::io::Error) -> Error {
    Error::new(Kind::ConnectionLost, error.to_string())
}
