//! Implements the driver's traits for the handshake and the encrypted stream, with errors that an
//! operator can act on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

use super::connector::{Connector, PROTOCOL};
use super::terms::SslMode;
use super::{certificate, failure};
use crate::error::{Error, Kind};
use crate::pg::frames::Framed;

/// A handshake that has not started.
#[derive(Debug)]
pub struct Handshake {
    connector: Connector,
    host: String,
    name: Option<ServerName<'static>>,
}

impl Connector {
    /// Prepares a handshake. `host` is the name from the connection string, or an address.
    pub fn handshake(&self, host: &str) -> Handshake {
        // Some host names cannot be in any certificate, for example an unusual alias of a
        // container. Such a name is an error only with `verify-full`. The other modes do not
        // compare the name, so any address can replace it here.
        let name = ServerName::try_from(host.to_owned()).ok().or_else(|| {
            (self.terms.mode < SslMode::VerifyFull).then(|| ServerName::from(std::net::Ipv4Addr::UNSPECIFIED))
        });
        Handshake { connector: self.clone(), host: host.to_owned(), name }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> MakeTlsConnect<S> for Connector {
    type Stream = Framed<Stream<S>>;
    type TlsConnect = Handshake;
    type Error = Error;

    fn make_tls_connect(&mut self, host: &str) -> Result<Handshake, Error> {
        Ok(self.handshake(host))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsConnect<S> for Handshake {
    type Stream = Framed<Stream<S>>;
    type Error = Error;
    type Future = Handshaking<S>;

    fn connect(self, stream: S) -> Handshaking<S> {
        let Self { connector, host, name } = self;
        let inner = name.map(|name| Box::new(TlsConnector::from(connector.config.clone()).connect(name, stream)));
        Handshaking { inner, connector, host }
    }
}

/// A handshake in progress.
pub struct Handshaking<S> {
    /// `None` if `sslmode` is `verify-full` and no certificate can contain the host.
    inner: Option<Box<tokio_rustls::Connect<S>>>,
    connector: Connector,
    host: String,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Handshaking<S> {
    type Output = Result<Framed<Stream<S>>, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(Err(Error::new(
                Kind::Config,
                format!("host \"{}\" is neither a name that a certificate can contain nor an address", self.host),
            )
            .hint("Set host to the server's DNS name. If DNS does not resolve this name, also set hostaddr.")));
        };
        Poll::Ready(match ready!(Pin::new(inner.as_mut()).poll(context)) {
            Ok(inner) if self.connector.terms.direct && inner.get_ref().1.alpn_protocol() != Some(PROTOCOL) => {
                Err(failure::without_protocol(&self.host))
            }
            Ok(inner) => {
                let (connector, host) = (self.connector.clone(), std::mem::take(&mut self.host));
                Ok(Framed::new(Stream { inner, connector, host, answered: false }))
            }
            Err(error) => Err(failure::of_handshake(&error, &self.host, &self.connector.terms)),
        })
    }
}

/// An encrypted connection.
pub struct Stream<S> {
    inner: tokio_rustls::client::TlsStream<S>,
    connector: Connector,
    host: String,
    /// Whether the server has sent data since the handshake.
    answered: bool,
}

impl<S> Stream<S> {
    /// Explains an error that occurs before the server's first response. With TLS 1.3 the client
    /// finishes the handshake before the server has checked the client's certificate. So a refusal
    /// arrives as an alert in place of the first response, or as a closed connection.
    fn explained(&self, error: io::Error) -> io::Error {
        if self.answered {
            return error;
        }
        let asked = self.connector.was_asked_for_certificate();
        let presented = self.connector.has_certificate();
        match failure::of_first_answer(&error, &self.host, &self.connector.terms, asked, presented) {
            Some(explained) => io::Error::new(error.kind(), explained),
            None => error,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Framed<Stream<S>> {
    fn channel_binding(&self) -> ChannelBinding {
        let (_, session) = self.get_ref().inner.get_ref();
        let end_point = session.peer_certificates().and_then(<[_]>::first).and_then(|der| certificate::end_point(der));
        end_point.map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match ready!(Pin::new(&mut self.inner).poll_read(context, buffer)) {
            Ok(()) if buffer.filled().len() > before => {
                self.answered = true;
                Poll::Ready(Ok(()))
            }
            // The server closed the stream before its first response, possibly because it refused
            // the client certificate.
            Ok(()) if !self.answered => {
                let end = io::Error::from(io::ErrorKind::UnexpectedEof);
                let explained = self.explained(end);
                Poll::Ready(if explained.get_ref().is_some() { Err(explained) } else { Ok(()) })
            }
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(self.explained(error))),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = ready!(Pin::new(&mut self.inner).poll_write(context, bytes));
        Poll::Ready(wrote.map_err(|error| self.explained(error)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.inner).poll_flush(context));
        Poll::Ready(flushed.map_err(|error| self.explained(error)))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
