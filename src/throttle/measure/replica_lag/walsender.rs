//! Polls the primary for the end of its WAL and for the receivers to which the primary sends WAL.

use deadpool_postgres::Client;
use tokio::time::Instant;

use crate::error::{Error, Kind, Result};
use crate::pg::row::Columns;

/// State of the primary at one poll.
#[derive(Debug, Clone)]
pub struct PrimaryState {
    pub at: Instant,
    /// End of the primary's WAL, in bytes.
    pub primary_lsn: u64,
    /// Statement to run if the daemon's role lacks the privilege to see the walsenders' state.
    pub fix: String,
    pub walsenders: Vec<Walsender>,
}

/// One row of `pg_stat_replication`. Without the privileges of pg_read_all_stats, only the process
/// ID, the application name and `logical` are known.
#[derive(Debug, Clone, Default)]
pub struct Walsender {
    pub pid: i32,
    pub application_name: String,
    pub client_addr: Option<String>,
    pub client_port: Option<i32>,
    pub state: Option<String>,
    /// Replayed position in bytes. None for a receiver that does not replay WAL, and for a standby
    /// that has not sent its first message yet.
    pub replay_lsn: Option<u64>,
    /// Whether the walsender serves a logical slot.
    pub logical: bool,
}

impl Walsender {
    /// Returns whether the walsender's receiver is a replica.
    ///
    /// A standby in state `catchup` counts, because it is behind. These receivers do not count:
    ///
    /// - A base backup or a logical receiver.
    /// - A receiver in state `startup`. A standby in this state does not stream yet, and an unused
    ///   replication connection stays in this state forever. If the daemon has seen the standby
    ///   before, the standby counts as missing during this time.
    /// - A receiver that streams but never reports a replayed position, for example
    ///   `pg_receivewal`. Such a receiver is not a standby.
    pub fn replays(&self) -> bool {
        let streams = self.state.as_deref().is_some_and(|state| !matches!(state, "startup" | "backup"));
        streams && !self.logical && self.replay_lsn.is_some()
    }
}

const STATE: &str = include_str!("walsender.sql");

/// Reads the state of the primary in one round trip.
pub async fn poll(client: &Client) -> Result<PrimaryState> {
    let statement = client.prepare_cached(STATE).await?;
    let rows = client.query(&statement, &[]).await?;
    let at = Instant::now();
    let (Some(first), lsn) = (rows.first(), |lsn: i64| u64::try_from(lsn).unwrap_or(0)) else {
        return Err(Error::new(Kind::Internal, "reading pg_stat_replication returned no row"));
    };
    let Some(primary_lsn) = first.read::<Option<i64>>("primary_lsn")? else {
        return Err(Error::new(Kind::ReadOnly, "this server is a standby, where replica lag cannot be read")
            .hint("Connect to the primary."));
    };
    let fix = fix(first.read("role")?, first.read("member")?, first.read("version")?);
    let mut walsenders = Vec::new();
    for row in &rows {
        let Some(pid) = row.read::<Option<i32>>("pid")? else { continue };
        walsenders.push(Walsender {
            pid,
            application_name: row.read::<Option<String>>("application_name")?.unwrap_or_default(),
            client_addr: row.read("client_addr")?,
            client_port: row.read("client_port")?,
            state: row.read("state")?,
            replay_lsn: row.read::<Option<i64>>("replay_lsn")?.map(lsn),
            logical: row.read("logical")?,
        });
    }
    Ok(PrimaryState { at, primary_lsn: lsn(primary_lsn), fix, walsenders })
}

/// Returns the statement that lets `role` (already quoted) see the walsenders. If a role is a
/// member of pg_read_all_stats but does not inherit its privileges, the role needs inheritance, not
/// a second membership. Since PostgreSQL 16, inheritance is a property of the grant.
fn fix(role: String, member: bool, version: i32) -> String {
    match (member, version >= 160_000) {
        (false, _) => format!("grant pg_read_all_stats to {role}"),
        (true, false) => format!("alter role {role} inherit"),
        (true, true) => format!("grant pg_read_all_stats to {role} with inherit true"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::throttle::measure::replica_lag::standby::ASK;

    #[test]
    fn a_member_that_does_not_inherit_gets_the_statement_for_that() {
        assert_eq!(fix("\"Back\"".to_owned(), false, 180_000), "grant pg_read_all_stats to \"Back\"");
        assert_eq!(fix("b".to_owned(), true, 150_000), "alter role b inherit");
        assert_eq!(fix("b".to_owned(), true, 160_000), "grant pg_read_all_stats to b with inherit true");
    }

    /// The clocks of two servers differ, and either clock may be set back. So lag is measured with
    /// the daemon's own history of the primary's positions, and no server's time is read.
    #[test]
    fn no_clock_of_a_server_counts() {
        for question in [STATE, ASK] {
            let clocks = ["now()", "timestamp", "clock", "_time", "_lag", "age("];
            assert!(clocks.iter().all(|clock| !question.contains(clock)), "{question}");
        }
    }
}
