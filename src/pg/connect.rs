//! Opens a session: a client, and the task that drives its connection. The task ends with the
//! session.
//!
//! This module tries the hosts and addresses itself and does not leave them to the driver, so that
//! it knows which server a session is connected to. A cancel request must go to the same server,
//! and over TLS if the session uses TLS.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_postgres::config::{SslMode as DriverMode, SslNegotiation, TargetSessionAttrs};
use tokio_postgres::tls::TlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, SimpleQueryMessage};
use tokio_util::either::Either;

use crate::config::secret::Login;
use crate::error::{Error, Kind, Result};
use crate::pg::cancel::{self, Cancelled};
use crate::pg::conninfo::{self, ConnInfo, Host, Place};
use crate::pg::frames::Framed;
use crate::pg::peer::{Address, Peer};
use crate::pg::pins::Pins;
use crate::pg::tls::connector::Connector;
use crate::pg::tls::failure;
use crate::pg::tls::stream::Stream;
use crate::pg::tls::terms::{SslMode, Terms};
use crate::pg::wire::{self, Asked, Wire};

/// A connection with one owner. Dropping the session closes the connection.
#[derive(Debug)]
pub struct Session {
    pub client: Client,
    peer: Peer,
    /// The connection information with which the session was opened. It contains only one place (a
    /// host and a port): the place that responded.
    pub(super) info: ConnInfo,
    driver: JoinHandle<()>,
    /// The ID of the session's server process, set if [`Session::bounded`] may have to terminate
    /// the session.
    pub pid: Option<i32>,
    /// The settings of an executor's session. None for the other sessions.
    pub(super) pins: Option<Pins>,
    /// The duration of a round trip to the server, in milliseconds.
    pub(super) round_trip: AtomicU64,
}

impl Session {
    /// Records the duration of a round trip. After a slow round trip, the stored value decreases by
    /// at most half per round trip, because the next round trip may be just as slow.
    pub(super) fn round_trip_took(&self, took: Duration) {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let before = self.round_trip.load(Ordering::Relaxed);
        self.round_trip.store(millis.max(before / 2), Ordering::Relaxed);
    }

    /// Cancels the statement that runs on this session.
    pub async fn cancel(&self) -> Cancelled {
        cancel::cancel(&self.client.cancel_token(), &self.peer).await
    }

    /// Returns the ID of the server process, if it is known.
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Reads the connection information of a login, with the `PG*` variables of this process.
///
/// # Errors
/// [`Kind::Config`], with the name of the parameter.
pub fn parse(login: &Login, application_name: &str) -> Result<ConnInfo> {
    conninfo::read(login, application_name, &|name| std::env::var(name).ok())
        .map_err(|error| error.context(format!("the database url {} is not usable", login.url)))
}

/// Connects, and drives the connection until the session is dropped. `on_message` receives notices
/// and notifications.
///
/// # Errors
/// The error of the server or of the network; [`Kind::ConnectionLost`] if no server responds within
/// `connect_timeout`.
pub async fn open(info: &ConnInfo, on_message: impl Fn(AsyncMessage) + Send + 'static) -> Result<Session> {
    let (client, mut connection, peer) = Box::pin(dial(info)).await?;
    let driver = tokio::spawn(async move {
        let mut messages =
            std::pin::pin!(futures_util::stream::poll_fn(move |context| connection.poll_message(context)));
        while let Some(Ok(message)) = futures_util::StreamExt::next(&mut messages).await {
            on_message(message);
        }
    });
    let mut info = info.clone();
    info.places = vec![peer.place()];
    Ok(Session { client, peer, info, driver, pid: None, pins: None, round_trip: AtomicU64::new(0) })
}

/// The network connection below TLS, and the driver that uses it.
type Below = Wire<Either<TcpStream, UnixStream>>;
type Driver = Connection<Below, Framed<Stream<Below>>>;

pub(super) type Dialled = (Client, Driver, Peer);

/// Tries the places one after the other. As in libpq, the search ends at the first server that
/// accepts the login or reports an error, for example a rejected login. An invalid configuration
/// also ends the search. The search continues after a server that:
/// - cannot be reached
/// - fails the TLS handshake
/// - does not match `target_session_attrs`
/// - is starting or stopping
pub(super) async fn dial(info: &ConnInfo) -> Result<Dialled> {
    let mut places: Vec<&Place> = info.places.iter().collect();
    if info.shuffled {
        // A random order spreads the daemons over the servers.
        places.sort_by_key(|_| uuid::Uuid::new_v4());
    }
    let mut failed: Option<Error> = None;
    for place in places {
        let tried = tokio::time::timeout(info.timeout, dial_place(info, place)).await;
        let error = match tried {
            Ok(Ok(dialled)) => return Ok(dialled),
            Ok(Err(error)) => error,
            Err(_) => Error::new(
                Kind::ConnectionLost,
                format!("could not connect: the server did not respond within {} s", info.timeout.as_secs_f32()),
            ),
        };
        // SQLSTATE 57P03 means that the server is starting or stopping. Another server may be
        // available.
        let final_word = match &error.sqlstate {
            Some(sqlstate) => sqlstate != "57P03",
            None => matches!(error.kind, Kind::Config | Kind::Authentication),
        };
        let error = if info.places.len() > 1 { error.context(shown(place)) } else { error };
        failed = Some(match failed {
            Some(first) => Error { message: format!("{}; {}", first.message, error.message), ..error },
            None => error,
        });
        if final_word {
            break;
        }
    }
    Err(failed.unwrap_or_else(|| Error::new(Kind::Config, "the connection string has no host")))
}

fn shown(place: &Place) -> String {
    match &place.host {
        Host::Tcp { name, .. } => format!("{name}:{}", place.port),
        Host::Unix(folder) => folder.join(format!(".s.PGSQL.{}", place.port)).display().to_string(),
    }
}

async fn dial_place(info: &ConnInfo, place: &Place) -> Result<Dialled> {
    let mut config = info.config(place)?;
    config.port(place.port).connect_timeout(info.timeout);
    let (name, given) = match &place.host {
        Host::Unix(folder) => {
            let address = Address::Unix(folder.join(format!(".s.PGSQL.{}", place.port)));
            // PostgreSQL never uses TLS on a Unix socket. As in libpq, sslmode has no effect here.
            let socket = Target { address: &address, host: "", place };
            let (client, connection, _) = attempt(&mut config, DriverMode::Disable, &info.terms, socket).await?;
            let peer = Peer { address, host: String::new(), terms: info.terms.clone(), is_encrypted: false };
            return Ok((client, connection, peer));
        }
        Host::Tcp { name, address } => (name, *address),
    };
    let addresses: Vec<IpAddr> = match given {
        Some(address) => vec![address],
        None => {
            let found = tokio::net::lookup_host((name.as_str(), place.port)).await.map_err(|error| {
                Error::new(Kind::ConnectionLost, format!("could not resolve host name \"{name}\": {error}"))
            })?;
            let mut found: Vec<IpAddr> = found.map(|address| address.ip()).collect();
            found.dedup();
            found
        }
    };
    let mut failed = Error::new(Kind::ConnectionLost, format!("the host name \"{name}\" has no address"));
    for address in addresses {
        let address = Address::Tcp(SocketAddr::new(address, place.port));
        match dial_address(info, &mut config, Target { address: &address, host: name, place }).await {
            Ok((client, connection, is_encrypted)) => {
                let peer = Peer { address, host: name.clone(), terms: info.terms.clone(), is_encrypted };
                return Ok((client, connection, peer));
            }
            // Try the next address only if no server responded at this address, or if the server
            // does not allow writes although `target_session_attrs=read-write` is set.
            Err(error) if error.kind == Kind::ConnectionLost && error.sqlstate.is_none() => failed = error,
            Err(error) => return Err(error),
        }
    }
    Err(failed)
}

/// Connects as `sslmode` requires. If the server refuses the first attempt, mode `allow` makes a
/// second attempt with TLS, and mode `prefer` makes one without TLS.
async fn dial_address(info: &ConnInfo, config: &mut Config, target: Target<'_>) -> Result<(Client, Driver, bool)> {
    let (first, second) = match info.terms.mode {
        SslMode::Disable => (DriverMode::Disable, None),
        SslMode::Allow => (DriverMode::Disable, Some(DriverMode::Require)),
        SslMode::Prefer => (DriverMode::Prefer, Some(DriverMode::Disable)),
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => (DriverMode::Require, None),
    };
    let error = match attempt(config, first, &info.terms, target).await {
        Ok(connected) => return Ok(connected),
        Err(error) => error,
    };
    // SQLSTATE 28000 usually means that pg_hba.conf has no line for such a connection. After a
    // wrong password (28P01), a second attempt would fail in the same way.
    let other_way = error.kind == Kind::Tls || error.sqlstate.as_deref() == Some("28000");
    let Some(second) = second.filter(|_| other_way) else { return Err(error) };
    tracing::debug!(error = %error.message, sslmode = info.terms.mode.name(), "connection rejected; trying the other TLS mode");
    let how = if second == DriverMode::Disable { "without TLS" } else { "with TLS" };
    attempt(config, second, &info.terms, target).await.map_err(|other| {
        let detail =
            error.detail.clone().unwrap_or_else(|| format!("The attempt {how} also failed: {}.", other.message));
        error.detail(detail)
    })
}

/// The server to which an attempt connects.
#[derive(Clone, Copy)]
struct Target<'a> {
    address: &'a Address,
    /// The host name or address from the connection string; empty for a Unix socket.
    host: &'a str,
    place: &'a Place,
}

/// Connects once. Also returns whether the session is encrypted.
async fn attempt(
    config: &mut Config,
    mode: DriverMode,
    terms: &Terms,
    target: Target<'_>,
) -> Result<(Client, Driver, bool)> {
    config.ssl_mode(mode);
    let asked = match mode {
        DriverMode::Disable => Asked::Nothing,
        _ if terms.direct => Asked::Direct,
        DriverMode::Require => Asked::Require,
        _ => Asked::Offer,
    };
    // Without TLS the certificate files are not read, so that a connection without TLS does not
    // fail because of a bad file.
    let connector = if asked == Asked::Nothing { Connector::new(&Terms::open())? } else { Connector::new(terms)? };
    let opened = wire::open(target.address, config).await;
    let stream =
        opened.map_err(|error| Error::new(Kind::ConnectionLost, format!("error connecting to server: {error}")))?;
    let below = Wire::new(stream, asked);
    let is_encrypted = below.is_encrypted();
    let connected = config.connect_raw(below, connector.handshake(target.host)).await;
    let (client, mut connection) = connected.map_err(|error| explained(Error::from(error), terms, target.place))?;
    if config.get_target_session_attrs() == TargetSessionAttrs::ReadWrite {
        refuse_read_only(&client, &mut connection).await?;
    }
    Ok((client, connection, is_encrypted.load(Ordering::Relaxed)))
}

/// Refuses a server that does not satisfy `target_session_attrs=read-write`. The next address or
/// host is then tried.
async fn refuse_read_only(client: &Client, connection: &mut Driver) -> Result<()> {
    let mut asked = std::pin::pin!(client.simple_query("show transaction_read_only"));
    let mut driven = std::pin::pin!(async {
        while let Some(Ok(_)) = std::future::poll_fn(|context| connection.poll_message(context)).await {}
    });
    let answer = tokio::select! {
        answer = &mut asked => answer?,
        () = &mut driven => return Err(Error::new(Kind::ConnectionLost, "the server closed the connection")),
    };
    let is_read_only = answer.iter().any(|message| {
        matches!(message, SimpleQueryMessage::Row(row) if row.try_get(0).is_ok_and(|value| value == Some("on")))
    });
    if is_read_only {
        return Err(Error::new(Kind::ConnectionLost, "error connecting to server: database does not allow writes"));
    }
    Ok(())
}

/// Adds hints to errors, and replaces the driver's terse errors with errors that an operator can
/// act on.
fn explained(error: Error, terms: &Terms, place: &Place) -> Error {
    let says = |text: &str| error.message.contains(text);
    if error.sqlstate.is_some() {
        let wants_certificate =
            error.kind == Kind::Authentication && says("client certificate") && error.hint.is_none();
        return if wants_certificate {
            error.hint("Set sslcert to a certificate issued by a CA in the server's ssl_ca_file, and sslkey to the key of this certificate.")
        } else {
            error
        };
    }
    if says("server does not support TLS") {
        return failure::not_offered(&shown(place), terms.mode);
    }
    if says("password missing") {
        return Error::new(Kind::Authentication, "the server requires a password, but none is configured").hint(
            "Put the password into the url (user:password@host), into the file that password_file names, into the variable that \
             password_env names, into PGPASSWORD, or into ~/.pgpass.",
        );
    }
    if says("server did not use channel binding") {
        return Error::new(Kind::Tls, "channel_binding=require is set, but the server did not use channel binding")
            .hint(
                "Channel binding requires TLS and a scram-sha-256 password. Check pg_hba.conf and password_encryption, \
                 and check that no proxy terminates TLS.",
            );
    }
    if says("unsupported authentication method") || says("unsupported SASL mechanism") {
        return Error { kind: Kind::Authentication, ..error }.hint(
            "Use scram-sha-256, cert or peer for this login in pg_hba.conf; GSSAPI, SSPI and OAuth are not built in.",
        );
    }
    if says("authentication error") {
        return Error { kind: Kind::Authentication, ..error }.hint(
            "The server could not prove that it knows the password. Check that the url leads to the right server.",
        );
    }
    error
}

/// Wraps one of our errors in the driver's error type, because the pool can return no other error
/// type. [`Error::from`] unwraps the error again.
pub(super) async fn carried(error: Error) -> tokio_postgres::Error {
    struct Failing(Error);
    impl TlsConnect<tokio::io::DuplexStream> for Failing {
        type Stream = <NoTls as TlsConnect<tokio::io::DuplexStream>>::Stream;
        type Error = Error;
        type Future = std::future::Ready<Result<Self::Stream, Error>>;

        fn connect(self, _: tokio::io::DuplexStream) -> Self::Future {
            std::future::ready(Err(self.0))
        }
    }
    let (stream, _other_end) = tokio::io::duplex(1);
    let mut config = Config::new();
    // With direct negotiation no SSLRequest precedes the handshake, so the handshake fails before
    // the driver sends a byte.
    config.ssl_mode(DriverMode::Require).ssl_negotiation(SslNegotiation::Direct);
    match config.connect_raw(stream, Failing(error)).await {
        Err(error) => error,
        Ok(_) => unreachable!("a handshake that always fails"),
    }
}

/// Waits for the result of a query. If the server does not respond within `limit`, the connection
/// counts as lost.
///
/// # Errors
/// [`Kind::ConnectionLost`] after `limit`.
pub async fn within<T>(limit: Duration, query: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T> {
    match tokio::time::timeout(limit, query).await {
        Ok(answer) => answer.map_err(Error::from),
        Err(_) => Err(Error::new(
            Kind::ConnectionLost,
            format!("the server did not respond within {} s", limit.as_secs_f32()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_of_our_errors_passes_through_the_drivers_unchanged() {
        let error = Error { sqlstate: Some("28P01".to_owned()), ..Error::new(Kind::Tls, "what").hint("why") };
        let back = Error::from(carried(error.clone()).await);
        assert_eq!(
            (back.kind, back.message, back.hint, back.sqlstate),
            (error.kind, error.message, error.hint, error.sqlstate)
        );
    }
}
