//! Checks the server: its version, its settings, the number of free connections, and the encryption
//! of the connection. Also detects a transaction pooler.

use tokio_postgres::SimpleQueryMessage;

use super::findings::Findings;
use super::query::{cell, one};
use crate::cli::session;
use crate::config::database::Database;
use crate::error::Result;
use crate::pg::connect::{Session, within};
use crate::pg::peer::{Address, Peer};
use crate::pg::pools::CONTROL_LIMIT;
use crate::pg::tls::terms::{Roots, SslMode};

/// Major versions of PostgreSQL on which the tests run.
const SUPPORTED: std::ops::RangeInclusive<i32> = 14..=18;
/// Number of connections that a daemon uses in addition to those of its workers: three of the
/// control pool (housekeeping, metrics, status page), three of the throttle, and one each for the
/// heartbeat, LISTEN and the guard.
const OWN_CONNECTIONS: i32 = 9;
/// Number of connections of one worker: its executor session, and one connection of the control
/// pool.
const CONNECTIONS_OF_A_WORKER: i32 = 2;
/// The check warns if `deadlock_timeout` is below this number of milliseconds. A batch takes at
/// most 70 % of `deadlock_timeout` (P16), so a smaller value makes the batches small.
const SHORT_DEADLOCK_TIMEOUT_MS: i32 = 200;

const SERVER: &str = "
select current_setting('server_version') as version, current_setting('server_version_num')::int4 as version_num,
       pg_is_in_recovery() as is_standby, getdatabaseencoding()::text as encoding, current_setting('transaction_read_only')::bool as is_read_only,
       current_setting('wal_level') as wal_level, current_setting('autovacuum')::bool as autovacuum,
       (select setting::int4 from pg_settings where name = 'deadlock_timeout') as deadlock_timeout_ms,
       current_setting('max_connections')::int4 - current_setting('superuser_reserved_connections')::int4 as connections_for_all,
       (select count(*)::int4 from pg_stat_activity where backend_type in ('client backend', 'walsender')) as connections_in_use,
       (select string_agg(quote_ident(pubname), ', ') from pg_publication where puballtables) as publications_for_all";

pub(super) async fn examine(session: &Session, database: &Database, found: &mut Findings) -> Result<()> {
    let row = one(session, SERVER, &[]).await?;
    let version: String = cell(&row, "version")?;
    let major = cell::<i32>(&row, "version_num")? / 10_000;
    if SUPPORTED.contains(&major) {
        found.ok("server", format!("PostgreSQL {version}"));
    } else if major < *SUPPORTED.start() {
        found.fail(
            "server",
            format!("PostgreSQL {version} is too old"),
            format!("Upgrade the server to PostgreSQL {} or later.", SUPPORTED.start()),
        );
    } else {
        found.warn(
            "server",
            format!("PostgreSQL {version} is newer than the versions with which this release was tested"),
            "Upgrade backfilld if a newer release supports it.",
        );
    }
    if cell(&row, "is_standby")? {
        found.fail("server", "the server is a standby", "Use the url of the primary.");
    } else if cell(&row, "is_read_only")? {
        found.fail("server", "the server is read-only", "First find out why default_transaction_read_only is on: some providers turn it on when the disk is full. If it is on for this login only, run this as an administrator: alter role LOGIN set default_transaction_read_only = off;");
    }
    if cell::<String>(&row, "encoding")? == "SQL_ASCII" {
        found.warn(
            "server",
            "the encoding of the database is SQL_ASCII: the server accepts text that is not valid UTF-8, but the daemon cannot read such text; a job fails if a key value contains it",
            "Dump the database, and restore it into a database whose encoding is UTF8.",
        );
    }
    let deadlock_timeout: i32 = cell(&row, "deadlock_timeout_ms")?;
    if deadlock_timeout < SHORT_DEADLOCK_TIMEOUT_MS {
        found.warn(
            "settings",
            format!(
                "deadlock_timeout is {deadlock_timeout} ms; a batch must take less time than this, so batches are small"
            ),
            "Raise deadlock_timeout to its default of 1s.",
        );
    } else {
        found.ok(
            "settings",
            format!("deadlock_timeout {deadlock_timeout} ms, wal_level {}", cell::<String>(&row, "wal_level")?),
        );
    }
    if !cell::<bool>(&row, "autovacuum")? {
        found.warn(
            "settings",
            "autovacuum is off: a backfilled table grows to about twice its size and keeps that size",
            "Set autovacuum = on.",
        );
    }
    if let Some(publications) = cell::<Option<String>>(&row, "publications_for_all")? {
        found.warn(
            "settings",
            format!("publication {publications} is FOR ALL TABLES and includes schema backfill"),
            "On each subscriber, also run the SQL that backfilld migrate --print prints. Otherwise replication to a subscriber stops at the first row that backfilld writes to the schema.",
        );
    }
    let free = cell::<i32>(&row, "connections_for_all")? - cell::<i32>(&row, "connections_in_use")?;
    let wanted = OWN_CONNECTIONS + CONNECTIONS_OF_A_WORKER * i32::try_from(database.workers).unwrap_or(i32::MAX / 4);
    if free < wanted {
        found.warn(
            "settings",
            format!("{free} connections are free; a daemon with {} workers uses up to {wanted}", database.workers),
            "Raise max_connections, or lower `workers` in the configuration.",
        );
    } else {
        found.ok(
            "settings",
            format!("{free} connections are free; a daemon with {} workers uses up to {wanted}", database.workers),
        );
    }
    Ok(())
}

const ENCRYPTION: &str = "select ssl, version, cipher from pg_stat_ssl where pid = pg_backend_pid()";

/// Checks whether the connection is encrypted. The message starts with `whose`, which names the
/// connection and is empty for the control login.
pub(super) async fn encryption(session: &Session, whose: &str, found: &mut Findings) -> Result<()> {
    let row = one(session, ENCRYPTION, &[]).await?;
    let how = if cell(&row, "ssl")? {
        let (version, cipher): (Option<String>, Option<String>) = (cell(&row, "version")?, cell(&row, "cipher")?);
        Some(format!("{} {}", version.unwrap_or_default(), cipher.unwrap_or_default()))
    } else {
        None
    };
    let (message, remedy) = judged(session.peer(), how.as_deref());
    match remedy {
        None => found.ok("encryption", format!("{whose}{message}")),
        Some(remedy) => found.warn("encryption", format!("{whose}{message}"), remedy),
    }
    Ok(())
}

/// Returns the message, and the remedy if the connection is not encrypted or not verified.
fn judged(peer: &Peer, encrypted: Option<&str>) -> (String, Option<&'static str>) {
    const CHECKED: &str = "Add sslmode=verify-full and sslrootcert=/path/root.crt (or =system) to the url.";
    let stays = match &peer.address {
        Address::Unix(_) => Some("local connection over a Unix socket"),
        Address::Tcp(address) if address.ip().to_canonical().is_loopback() => Some("local connection"),
        Address::Tcp(_) => None,
    };
    match (encrypted, stays) {
        (None, Some(place)) => (format!("not encrypted ({place})"), None),
        (None, None) => (
            format!(
                "the connection to {} is not encrypted: rows and possibly the password can be read on the network",
                peer.host
            ),
            Some("On the server, set ssl = on. In the url, set sslmode=verify-full and sslrootcert=/path/root.crt."),
        ),
        (Some(how), Some(_)) => (how.to_owned(), None),
        (Some(how), None) if peer.terms.roots == Roots::Anybody => {
            (format!("{how}, but the server's certificate is not verified"), Some(CHECKED))
        }
        (Some(how), None) if peer.terms.mode < SslMode::VerifyFull => {
            (format!("{how}, but the server's host name is not checked against its certificate"), Some(CHECKED))
        }
        (Some(how), None) => (format!("{how}, server certificate verified"), None),
    }
}

/// Returns whether the program connects through a pooler in transaction mode. Opens two connections
/// and uses them alternately. Such a pooler gives the second connection the server session that the
/// first connection has just released, and then gives the first connection another session. Uses
/// simple queries, because prepared statements fail behind some poolers.
pub(super) async fn is_pooled(database: &Database) -> Result<bool> {
    let first = session::open_to(database).await?;
    let second = session::open_to(database).await?;
    let before = pid(&first, "").await?;
    let meanwhile = pid(&second, "begin; ").await?;
    let after = pid(&first, "").await?;
    within(CONTROL_LIMIT, second.client.batch_execute("rollback")).await?;
    Ok(before == meanwhile || before != after)
}

async fn pid(session: &Session, before: &str) -> Result<String> {
    let sql = format!("{before}select pg_catalog.pg_backend_pid()");
    let answer = within(CONTROL_LIMIT, session.client.simple_query(&sql)).await?;
    let found = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.try_get(0).ok().flatten().map(str::to_owned),
        _ => None,
    });
    Ok(found.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::tls::terms::Terms;

    fn peer(address: &str, mode: SslMode, roots: Roots) -> Peer {
        let address = address
            .parse()
            .map_or_else(|_| Address::Unix(address.into()), |ip| Address::Tcp(std::net::SocketAddr::new(ip, 5432)));
        let mut terms = Terms::open();
        (terms.mode, terms.roots) = (mode, roots);
        Peer { address, host: "db".to_owned(), terms, is_encrypted: false }
    }

    #[test]
    fn a_remote_connection_should_be_encrypted_and_verified() {
        let file = || Roots::File("root.crt".into());
        for (peer, encrypted, warned) in [
            (peer("/run/pg/.s.PGSQL.5432", SslMode::Prefer, Roots::Anybody), None, false),
            (peer("127.0.0.1", SslMode::Prefer, Roots::Anybody), None, false),
            (peer("::ffff:127.0.0.1", SslMode::Prefer, Roots::Anybody), None, false),
            (peer("10.0.0.5", SslMode::Prefer, Roots::Anybody), None, true),
            (peer("10.0.0.5", SslMode::Require, Roots::Anybody), Some("TLSv1.3"), true),
            (peer("10.0.0.5", SslMode::VerifyCa, file()), Some("TLSv1.3"), true),
            (peer("10.0.0.5", SslMode::VerifyFull, file()), Some("TLSv1.3"), false),
            (peer("127.0.0.1", SslMode::Require, Roots::Anybody), Some("TLSv1.3"), false),
        ] {
            let (message, remedy) = judged(&peer, encrypted);
            assert_eq!(remedy.is_some(), warned, "{peer:?}: {message}");
        }
    }
}
