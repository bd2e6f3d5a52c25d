//! Checks the server: its version, its settings, the number of free connections, and the encryption
//! of the connection. Also detects a transaction pooler.

use super::findings::Findings;
use super::query::{cell, one};
use crate::config::database::Database;
use crate::error::Result;
use crate::pg::connect::Session;
use crate::pg::peer::{Address, Peer};
use crate::pg::tls::terms::{Roots, SslMode};

/// Major versions of PostgreSQL on which the tests run.
const SUPPORTED: std::ops::RangeInclusive<i32> = 14..=18;
/// The check warns if `deadlock_timeout` is below this number of milliseconds. A batch takes at
/// most 70 % of `deadlock_timeout` (P16), so a smaller value makes the batches small.
const SHORT_DEADLOCK_TIMEOUT_MS: i32 = 200;

const SERVER: &str = "
select current_setting('server_version') as version, current_setting('server_version_num')::int4 as version_num,
       pg_is_in_recovery() as is_standby, getdatabaseencoding()::text as encoding, current_setting('transaction_read_only')::bool as is_read_only,
       current_setting('wal_level') as wal_level, current_setting('autovacuum')::bool as autovacuum,
       (select setting::int4 from pg_settings where name = 'deadlock_timeout') as deadlock_timeout_ms,
       least(current_setting('max_connections')::int4 - current_setting('superuser_reserved_connections')::int4
               - (select count(*)::int4 from pg_stat_activity where backend_type in ('client backend', 'walsender')),
             (select nullif(r.rolconnlimit, -1) - (select count(*)::int4 from pg_stat_activity a where a.usename = r.rolname) from pg_roles r where r.rolname = session_user and not r.rolsuper),
             (select nullif(d.datconnlimit, -1) - (select count(*)::int4 from pg_stat_activity a where a.datname = d.datname) from pg_database d where d.datname = current_database())) as free_connections,
       least(current_setting('max_connections')::int4 - current_setting('superuser_reserved_connections')::int4,
             (select nullif(r.rolconnlimit, -1) from pg_roles r where r.rolname = session_user and not r.rolsuper),
             (select nullif(d.datconnlimit, -1) from pg_database d where d.datname = current_database())) as most_connections,
       (select string_agg(quote_ident(pubname), ', ') from pg_publication where puballtables) as publications_for_all,
       (select current_setting('synchronous_standby_names') where current_setting('synchronous_standby_names') <> ''
           and not exists (select from pg_stat_replication r where coalesce(r.sync_state in ('sync', 'quorum'), true))) as missing_standbys";

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
    if let Some(names) = cell::<Option<String>>(&row, "missing_standbys")? {
        found.warn(
            "settings",
            format!(
                "no synchronous standby is connected, so each commit waits (synchronous_standby_names is {names:?})"
            ),
            "Start the standby, or change synchronous_standby_names on the server and reload it.",
        );
    }
    if !cell::<bool>(&row, "autovacuum")? {
        found.warn(
            "settings",
            "autovacuum is off: a backfilled table can grow to about twice its size, and then keeps that size",
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
    let free = cell::<i32>(&row, "free_connections")?;
    let wanted = i32::try_from(database.connections()).unwrap_or(i32::MAX);
    let least = i32::try_from(database.least_connections()).unwrap_or(i32::MAX);
    let most = cell::<i32>(&row, "most_connections")?;
    if most < least {
        found.fail(
            "settings",
            format!("the login can open at most {most} connections, but a daemon needs at least {least}"),
            "Raise max_connections, or the connection limit of the role or the database.",
        );
    } else if free < wanted {
        found.warn(
            "settings",
            format!("{free} connections are free; a daemon with {} workers uses up to {wanted}", database.workers),
            format!("Raise max_connections or the connection limit of the role or the database, or lower `workers` in the configuration. With fewer connections, the daemon makes its pools smaller; it needs at least {least}."),
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
