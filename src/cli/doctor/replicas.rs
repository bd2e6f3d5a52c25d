//! Checks the replicas: which replicas are connected to the server, which rule applies to each
//! replica, and whether the lag of each replica can be read.

use std::net::IpAddr;

use super::findings::Findings;
use super::query::{all, cell, one};
use super::server::encryption;
use crate::cli::session::grant;
use crate::config::database::Database;
use crate::config::replica::ReplicaRule;
use crate::config::units::show_bytes;
use crate::error::Result;
use crate::pg::connect::{self, Session};
use crate::pg::conninfo::Place;
use crate::text;
use crate::throttle::measure::replica_lag::standby;

/// Reads the connected receivers of WAL: replicas, `pg_receivewal` and logical subscribers. A base
/// backup in progress appears in `pg_stat_replication` too, but is left out.
const REPLICAS: &str = "
select application_name, host(client_addr) as address, state, sync_state, extract(epoch from replay_lag)::float8 as lag_seconds,
       pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::int8 as lag_bytes
from pg_stat_replication where state is distinct from 'backup' order by application_name";

/// Reads whether the login can read replica lag. The login must inherit the privileges of
/// `pg_read_all_stats`, so a membership without inheritance is not enough.
const READS_STATISTICS: &str = "
select current_user::text as login, (select pg_has_role(oid, 'USAGE') from pg_roles where rolname = 'pg_read_all_stats') as reads_all";

pub(super) async fn examine(session: &Session, database: &Database, found: &mut Findings) -> Result<()> {
    let row = one(session, READS_STATISTICS, &[]).await?;
    let (login, reads_all): (String, bool) = (cell(&row, "login")?, cell(&row, "reads_all")?);
    let replicas = all(session, REPLICAS, &[]).await?;
    let mut seen = Vec::new();
    for replica in &replicas {
        let name: String = cell(replica, "application_name")?;
        let address = cell::<Option<&str>>(replica, "address")?;
        let rule = database.replica_rule(&name, address.and_then(|text| text.parse::<IpAddr>().ok()));
        let place = address.unwrap_or("local socket");
        seen.push(rule.clone());
        if rule.asks_itself() {
            found.ok("replicas", format!("{name} ({place}): its lag is read from the replica itself"));
            continue;
        }
        if rule.ignore {
            found.ok("replicas", format!("{name} ({place}): ignored by rule \"{}\"", rule.pattern));
            continue;
        }
        match cell::<Option<&str>>(replica, "state")? {
            Some(state) => {
                let sync: &str = cell(replica, "sync_state")?;
                let lag = format!(
                    "{} s, {} bytes behind",
                    text::fixed(cell::<Option<f64>>(replica, "lag_seconds")?.unwrap_or(0.0), 1),
                    cell::<Option<i64>>(replica, "lag_bytes")?.unwrap_or(0)
                );
                found.ok("replicas", format!("{name} ({place}): {state}, {sync}, {lag}; {}", limits(&rule)));
            }
            None => found.fail(
                "replicas",
                format!(
                    "{name}: role \"{login}\" cannot read the lag of this replica, so all jobs except those with throttle off are held (replica_lag)"
                ),
                format!("As an administrator, run: {}", grant("pg_read_all_stats", &login)),
            ),
        }
    }
    for rule in database.replicas.iter().filter(|rule| rule.asks_itself()) {
        ask(session, rule, found).await?;
    }
    for name in &database.verify_on {
        verifies(database, name, found).await;
    }
    let lacks = |rule: &&ReplicaRule| rule.required && !rule.asks_itself() && !seen.contains(rule);
    for rule in database.replicas.iter().filter(lacks) {
        found.fail(
            "replicas",
            format!(
                "no replica matches the required rule \"{}\", so all jobs except those with throttle off are held",
                rule.pattern
            ),
            "Restore the replica, correct its application_name, or set required: false in the rule.",
        );
    }
    if replicas.is_empty() {
        found.ok("replicas", "no replicas are connected");
    }
    if !reads_all && replicas.is_empty() {
        found.warn(
            "replicas",
            format!("role \"{login}\" cannot read replica lag: all jobs except those with throttle off will be held as soon as a replica connects"),
            format!("As an administrator, run: {}", grant("pg_read_all_stats", &login)),
        );
    }
    Ok(())
}

/// Checks a standby on which verifications read the rows.
async fn verifies(database: &Database, name: &str, found: &mut Findings) {
    let asked = async {
        let mut info = connect::parse(&database.login()?, "backfilld doctor")?;
        info.move_to(Place::parse(name).into_iter().collect());
        let session = Box::pin(connect::open(&info, |_| {})).await?;
        cell::<bool>(&one(&session, "select pg_is_in_recovery() as is_standby", &[]).await?, "is_standby")
    };
    let trouble = match asked.await {
        Ok(true) => return found.ok("replicas", format!("{name}: verifications read the rows on this standby")),
        Ok(false) => "the server is not a standby".to_owned(),
        Err(error) => error.message,
    };
    found.warn(
        "replicas",
        format!("{name}: this standby cannot be used for verifications, so another server is used: {trouble}"),
        "Correct or remove the standby in verify_on.",
    );
}

/// Reads the lag from the replica itself, as the daemon does for a rule that has a URL.
async fn ask(primary: &Session, rule: &ReplicaRule, found: &mut Findings) -> Result<()> {
    const WRITTEN: &str =
        "select case when not pg_is_in_recovery() then pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::int8 end as lsn";
    let name = &rule.pattern;
    let opened = async { connect::open(&connect::parse(&rule.login()?, "backfilld doctor")?, |_| {}).await };
    let asked = match opened.await {
        Ok(replica) => match standby::replayed(&replica).await {
            Ok(replayed) => encryption(&replica, &format!("replica {name}: "), found).await.map(|()| replayed),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    match asked {
        Ok(replayed) => {
            let written = cell::<Option<i64>>(&one(primary, WRITTEN, &[]).await?, "lsn")?;
            let behind = written.and_then(|lsn| u64::try_from(lsn).ok()).map(|lsn| lsn.saturating_sub(replayed));
            let behind = behind.map_or_else(String::new, |bytes| format!(", {bytes} bytes behind"));
            found.ok("replicas", format!("{name}: its lag was read from the replica itself{behind}; {}", limits(rule)));
        }
        Err(error) => found.fail(
            "replicas",
            format!(
                "{name}: could not read its lag, so all jobs except those with throttle off are held: {}",
                error.message
            ),
            error.hint.unwrap_or_else(|| {
                "In the rule of the replica, correct or remove the setting url_env or url_file.".to_owned()
            }),
        ),
    }
    Ok(())
}

fn limits(rule: &ReplicaRule) -> String {
    format!("limits {} s, {}", rule.max_lag.as_secs_f64(), show_bytes(rule.max_lag_bytes))
}
