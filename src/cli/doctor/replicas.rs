//! The replicas whose lag holds the work: seen, and by which rule.

use std::net::IpAddr;

use super::{Findings, all, cell, one};
use crate::cli::session::grant;
use crate::config::units::show_bytes;
use crate::config::{Database, ReplicaRule};
use crate::error::Result;
use crate::pg::connect::Session;

/// A base backup that is being taken is no replica.
const REPLICAS: &str = "
select application_name, host(client_addr) as address, state, sync_state, extract(epoch from replay_lag)::float8 as lag_seconds,
       pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::int8 as lag_bytes
from pg_stat_replication where state is distinct from 'backup' order by application_name";

/// What the statistics take: rights that are inherited, not only granted.
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
        if rule.ignore {
            found.ok("replicas", format!("{name} ({place}): left out of the account by rule \"{}\"", rule.pattern));
            continue;
        }
        match cell::<Option<&str>>(replica, "state")? {
            Some(state) => {
                let sync: &str = cell(replica, "sync_state")?;
                let lag = format!(
                    "{:.1} s, {} bytes behind",
                    cell::<Option<f64>>(replica, "lag_seconds")?.unwrap_or(0.0),
                    cell::<Option<i64>>(replica, "lag_bytes")?.unwrap_or(0)
                );
                found.ok("replicas", format!("{name} ({place}): {state}, {sync}, {lag}; {}", limits(&rule)));
            }
            None => found.fail(
                "replicas",
                format!("{name}: its lag can't be seen, so every job holds (reason replica_lag)"),
                format!("As an administrator: {}", grant("pg_read_all_stats", &login)),
            ),
        }
    }
    for rule in database.replicas.iter().filter(|rule| rule.required && !seen.contains(rule)) {
        found.fail(
            "replicas",
            format!("no replica matches the required rule \"{}\": every job holds", rule.pattern),
            "Bring the replica back, correct its application_name, or set required: false.",
        );
    }
    if replicas.is_empty() {
        found.ok("replicas", "none are connected");
    }
    if !reads_all && replicas.is_empty() {
        found.warn(
            "replicas",
            format!("login \"{login}\" could not see the lag of one that connects later"),
            format!("As an administrator: {}", grant("pg_read_all_stats", &login)),
        );
    }
    Ok(())
}

fn limits(rule: &ReplicaRule) -> String {
    format!("may lag {} s, {}", rule.max_lag.as_secs_f64(), show_bytes(rule.max_lag_bytes))
}
