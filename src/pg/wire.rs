//! Opens the network connection of a session, and watches how the server answers the request for
//! TLS.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::Config;
use tokio_util::either::Either;

use crate::pg::frames::Framed;
use crate::pg::peer::Address;

/// Connects to the server, with the keepalives of the configuration.
pub(super) async fn open(address: &Address, config: &Config) -> io::Result<Either<TcpStream, UnixStream>> {
    let stream = match address {
        Address::Unix(path) => return UnixStream::connect(path).await.map(Either::Right),
        Address::Tcp(address) => TcpStream::connect(address).await?,
    };
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    #[cfg(target_os = "linux")]
    if let Some(timeout) = config.get_tcp_user_timeout() {
        socket.set_tcp_user_timeout(Some(*timeout))?;
    }
    if config.get_keepalives() {
        let mut keepalive = TcpKeepalive::new().with_time(config.get_keepalives_idle());
        if let Some(interval) = config.get_keepalives_interval() {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(retries) = config.get_keepalives_retries() {
            keepalive = keepalive.with_retries(retries);
        }
        socket.set_tcp_keepalive(&keepalive)?;
    }
    Ok(Either::Left(stream))
}

/// Whether the client requests TLS before it sends the first message of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// No TLS.
    Nothing,
    /// TLS if the server offers it.
    Offer,
    /// TLS, or no connection.
    Require,
    /// TLS from the first byte, without a request for TLS (`sslnegotiation=direct`).
    Direct,
}

/// A connection below TLS.
#[derive(Debug)]
pub struct Wire<S> {
    framed: Framed<S>,
    state: State,
    is_encrypted: Arc<AtomicBool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The next byte is the server's answer to the request for TLS.
    Answer { must_be_tls: bool },
    /// The server sends messages without TLS.
    Messages,
    /// The bytes belong to TLS.
    Tls,
}

impl<S> Wire<S> {
    pub(super) fn new(stream: S, asked: Asked) -> Self {
        let state = match asked {
            Asked::Nothing => State::Messages,
            Asked::Offer => State::Answer { must_be_tls: false },
            Asked::Require => State::Answer { must_be_tls: true },
            Asked::Direct => State::Tls,
        };
        let is_encrypted = Arc::new(AtomicBool::new(state == State::Tls));
        Self { framed: Framed::new(stream), state, is_encrypted }
    }

    /// Returns a flag that tells whether the server has accepted the request for TLS. The flag is
    /// updated when the answer arrives.
    pub(super) fn is_encrypted(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_encrypted)
    }
}

impl<S: AsyncRead + Unpin> Wire<S> {
    /// Reads the answer to the request for TLS. As in libpq, an error in place of the answer ends
    /// the attempt. The text of the error is not used, because an attacker could have forged it.
    fn poll_answer(
        &mut self,
        must_be_tls: bool,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut byte = [0];
        let mut read = ReadBuf::new(&mut byte);
        ready!(Pin::new(self.framed.get_mut()).poll_read(context, &mut read))?;
        self.state = match read.filled() {
            [] => return Poll::Ready(Ok(())),
            b"S" => State::Tls,
            b"N" if must_be_tls => return Poll::Ready(Err(io::Error::other("server does not support TLS"))),
            b"N" => State::Messages,
            _ => return Poll::Ready(Err(io::Error::other("the server answered the request for TLS with an error"))),
        };
        self.is_encrypted.store(self.state == State::Tls, Ordering::Relaxed);
        buffer.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.state {
            State::Answer { must_be_tls } => self.poll_answer(must_be_tls, context, buffer),
            State::Messages => Pin::new(&mut self.framed).poll_read(context, buffer),
            State::Tls => Pin::new(self.framed.get_mut()).poll_read(context, buffer),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.framed).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.framed).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.framed).poll_shutdown(context)
    }
}
