//! One connection: a client, and the task that drives it, which ends with the session.
//!
//! Hosts and addresses are tried here and not by the driver, so that it is known which one a session is connected to:
//! its cancel request must go there and to no other, over TLS if the session does.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode as DriverMode;
use tokio_postgres::config::SslNegotiation;
use tokio_postgres::tls::TlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Socket};

use crate::config::secret::Login;
use crate::error::{Error, Kind, Result};
use crate::pg::cancel::{self, Cancelled};
use crate::pg::conninfo::{self, CONNECT_TIMEOUT, ConnInfo, Host, Place};
use crate::pg::peer::{Address, Peer};
use crate::pg::tls::connector::Connector;
use crate::pg::tls::failure;
use crate::pg::tls::stream::Stream;
use crate::pg::tls::terms::{SslMode, Terms};

/// How long a statement may go on beyond its limit before it is cancelled, and then before its session is ended.
const PATIENCE: Duration = Duration::from_secs(1);

/// A connection of one owner. Dropping it closes it.
#[derive(Debug)]
pub struct Session {
    pub client: Client,
    peer: Peer,
    /// What it was opened with, and of the places the one that answered.
    info: ConnInfo,
    driver: JoinHandle<()>,
    /// The server's process, where [`Session::bounded`] may have to end it.
    pub pid: Option<i32>,
}

impl Session {
    /// Cancels the statement that runs on this session.
    pub async fn cancel(&self) -> Cancelled {
        cancel::cancel(&self.client.cancel_token(), &self.peer).await
    }

    /// The server's process, where it is known.
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    pub fn peer(&self) -> &Peer {
        &self.peer
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
            let other = Box::pin(open(&self.info, |_| {})).await?;
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

/// What a login asks for, with the `PG*` variables of this process.
///
/// # Errors
/// [`Kind::Config`], naming the parameter.
pub fn parse(login: &Login, application_name: &str) -> Result<ConnInfo> {
    conninfo::read(login, application_name, &|name| std::env::var(name).ok())
        .map_err(|error| error.context(format!("the database url {} can't be used", login.url)))
}

/// Connects, and drives the connection until it is dropped; `on_message` sees notices and notifications.
///
/// # Errors
/// As the server or the network says; a silent server is [`Kind::ConnectionLost`] after [`CONNECT_TIMEOUT`].
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
    Ok(Session { client, peer, info, driver, pid: None })
}

pub(super) type Dialled = (Client, Connection<Socket, Stream<Socket>>, Peer);

/// Tries each place in turn. A server that is there and says no ends the search, as in libpq: it has been found.
pub(super) async fn dial(info: &ConnInfo) -> Result<Dialled> {
    let mut places: Vec<&Place> = info.places.iter().collect();
    if info.shuffled {
        // Random enough to spread daemons.
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
                format!("no connection within {} s: the server did not answer", info.timeout.as_secs_f32()),
            ),
        };
        // 57P03 is a server that is starting or stopping: another may be up.
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
    Err(failed.unwrap_or_else(|| Error::new(Kind::Config, "the connection string names no host")))
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
            config.host_path(folder);
            let address = Address::Unix(folder.join(format!(".s.PGSQL.{}", place.port)));
            let peer = Peer { address, host: String::new(), terms: info.terms.clone() };
            // Nobody is in between, and no server speaks TLS there: libpq heeds no sslmode either.
            let (client, connection) = attempt(&mut config, DriverMode::Disable, &info.terms, place).await?;
            return Ok((client, connection, peer));
        }
        Host::Tcp { name, address } => (name, *address),
    };
    let addresses: Vec<IpAddr> = match given {
        Some(address) => vec![address],
        None => {
            let found = tokio::net::lookup_host((name.as_str(), place.port)).await.map_err(|error| {
                Error::new(Kind::ConnectionLost, format!("the host name \"{name}\" can't be looked up: {error}"))
            })?;
            let mut found: Vec<IpAddr> = found.map(|address| address.ip()).collect();
            found.dedup();
            found
        }
    };
    let mut failed = Error::new(Kind::ConnectionLost, format!("the host name \"{name}\" has no address"));
    for address in addresses {
        let mut config = config.clone();
        config.host(name).hostaddr(address);
        match dial_address(info, place, &mut config).await {
            Ok((client, connection)) => {
                let address = Address::Tcp(SocketAddr::new(address, place.port));
                return Ok((client, connection, Peer { address, host: name.clone(), terms: info.terms.clone() }));
            }
            // Only where nobody is may another address have somebody.
            Err(error) if error.kind == Kind::ConnectionLost && error.sqlstate.is_none() => failed = error,
            Err(error) => return Err(error),
        }
    }
    Err(failed)
}

/// As `sslmode` says: once, or the other way too where the first is not let in.
async fn dial_address(
    info: &ConnInfo,
    place: &Place,
    config: &mut Config,
) -> Result<(Client, Connection<Socket, Stream<Socket>>)> {
    let (first, second) = match info.terms.mode {
        SslMode::Disable => (DriverMode::Disable, None),
        SslMode::Allow => (DriverMode::Disable, Some(DriverMode::Require)),
        SslMode::Prefer => (DriverMode::Prefer, Some(DriverMode::Disable)),
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => (DriverMode::Require, None),
    };
    let error = match attempt(config, first, &info.terms, place).await {
        Ok(connected) => return Ok(connected),
        Err(error) => error,
    };
    // 28000: pg_hba.conf has no line for such a connection. A wrong password is as wrong the other way.
    let other_way = error.kind == Kind::Tls || error.sqlstate.as_deref() == Some("28000");
    let Some(second) = second.filter(|_| other_way) else { return Err(error) };
    tracing::debug!(error = %error.message, sslmode = info.terms.mode.name(), "not let in; trying the other way");
    let how = if second == DriverMode::Disable { "without TLS" } else { "with TLS" };
    attempt(config, second, &info.terms, place).await.map_err(|other| {
        let detail = error.detail.clone().unwrap_or_else(|| format!("And {how}: {}.", other.message));
        error.detail(detail)
    })
}

async fn attempt(
    config: &mut Config,
    mode: DriverMode,
    terms: &Terms,
    place: &Place,
) -> Result<(Client, Connection<Socket, Stream<Socket>>)> {
    config.ssl_mode(mode);
    // Files are not read where they are not used.
    let connector = if mode == DriverMode::Disable { Connector::new(&Terms::open())? } else { Connector::new(terms)? };
    config.connect(connector).await.map_err(|error| explained(Error::from(error), terms, place))
}

/// The driver's few words of its own, for people.
fn explained(error: Error, terms: &Terms, place: &Place) -> Error {
    let says = |text: &str| error.message.contains(text);
    if error.sqlstate.is_some() {
        let wants_certificate =
            error.kind == Kind::Authentication && says("client certificate") && error.hint.is_none();
        return if wants_certificate {
            error.hint("Give a certificate of the server's CA as sslcert, with its key as sslkey.")
        } else {
            error
        };
    }
    if says("server does not support TLS") {
        return failure::not_offered(&shown(place), terms.mode);
    }
    if says("password missing") {
        return Error::new(Kind::Authentication, "the server asks for a password, and there is none").hint(
            "Put it into the url after the user and a colon, or keep it apart: password_file or password_env of the \
             configuration, PGPASSWORD, or ~/.pgpass.",
        );
    }
    if says("server did not use channel binding") {
        return Error::new(Kind::Tls, "channel_binding=require, and the server's login does not bind the channel")
            .hint(
                "It takes TLS and a scram-sha-256 password: see pg_hba.conf, password_encryption, and that nothing in \
             between takes TLS apart.",
            );
    }
    if says("unsupported authentication method") || says("unsupported SASL mechanism") {
        return Error { kind: Kind::Authentication, ..error }.hint(
            "Use scram-sha-256, cert or peer for this login in pg_hba.conf; GSSAPI, SSPI and OAuth are not built in.",
        );
    }
    if says("authentication error") {
        return Error { kind: Kind::Authentication, ..error }
            .hint("The other side does not know the password either: is this the right server?");
    }
    error
}

/// An error of ours in the shape of the driver's, for the pool knows no other; [`Error::from`] takes it out again.
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
    // A handshake without a question before it fails without a byte being sent.
    config.ssl_mode(DriverMode::Require).ssl_negotiation(SslNegotiation::Direct);
    match config.connect_raw(stream, Failing(error)).await {
        Err(error) => error,
        Ok(_) => unreachable!("a handshake that always fails"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_error_of_ours_comes_through_the_drivers_unchanged() {
        let error = Error { sqlstate: Some("28P01".to_owned()), ..Error::new(Kind::Tls, "what").hint("why") };
        let back = Error::from(carried(error.clone()).await);
        assert_eq!(
            (back.kind, back.message, back.hint, back.sqlstate),
            (error.kind, error.message, error.hint, error.sqlstate)
        );
    }
}
