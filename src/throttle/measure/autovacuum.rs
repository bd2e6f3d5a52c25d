//! Finds the tables that autovacuum is processing, and remembers when the daemon first saw each run
//! of autovacuum. Autovacuum frees space that the walk needs next, and batches on the same table
//! slow autovacuum down. So batches wait for autovacuum on their table, but for at most 60 s in
//! each run of autovacuum.
//!
//! An autovacuum worker is recognized by its lock, which each role may see, and by its backend
//! type. If the daemon's role may not see the backend type, an autovacuum worker is recognized by
//! the fact that its process has no user.

use std::collections::BTreeMap;
use std::time::Duration;

use deadpool_postgres::Client;
use tokio::time::Instant;

use crate::error::Result;
use crate::pg::row::Columns;

/// Maximum time for which batches wait for one vacuum. A vacuum of a large table can take hours,
/// and also removes dead rows that the daemon's batches did not leave.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Time between two polls. By default, autovacuum starts in a database at most once a minute
/// (`autovacuum_naptime`), and it usually runs for several seconds.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);

const RUNNING: &str = "
select l.relation
  from pg_catalog.pg_locks l join pg_catalog.pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'relation' and l.mode = 'ShareUpdateExclusiveLock' and l.granted
   and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())
   and (a.backend_type = 'autovacuum worker' or a.backend_type is null and a.usesysid is null)";

/// Returns the tables that autovacuum is vacuuming or analyzing now.
pub async fn poll(client: &Client) -> Result<Vec<u32>> {
    let statement = client.prepare_cached(RUNNING).await?;
    let rows = client.query(&statement, &[]).await?;
    rows.iter().map(|row| row.read(0)).collect()
}

/// Holds the running vacuums by table, each with the time when the daemon first saw it.
#[derive(Debug, Clone, Default)]
pub struct Vacuums(BTreeMap<u32, Instant>);

impl Vacuums {
    /// Returns the running vacuums. `relations` are the tables on which autovacuum runs at `now`. A
    /// vacuum that `self` already contains keeps its start time.
    pub fn observe(&self, now: Instant, relations: &[u32]) -> Self {
        Self(relations.iter().map(|relation| (*relation, self.0.get(relation).copied().unwrap_or(now))).collect())
    }

    /// Returns the maximum time that a batch on the table still waits for the vacuum. Returns none
    /// if a batch does not wait.
    pub fn time_left(&self, relation: u32, now: Instant) -> Option<Duration> {
        let since = self.0.get(&relation)?;
        LONGEST_WAIT.checked_sub(now.saturating_duration_since(*since)).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_batch_waits_a_minute_for_each_vacuum() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut vacuums = Vacuums::default().observe(start, &[7]);
        assert_eq!(vacuums.time_left(7, start), Some(LONGEST_WAIT));
        assert_eq!(vacuums.time_left(8, start), None);
        vacuums = vacuums.observe(at(59), &[7, 8]);
        assert_eq!(vacuums.time_left(7, at(59)), Some(Duration::from_secs(1)));
        vacuums = vacuums.observe(at(61), &[7, 8]);
        assert_eq!((vacuums.time_left(7, at(61)), vacuums.time_left(8, at(61))), (None, Some(Duration::from_secs(58))));
        // The next vacuum of the same table has its own time limit.
        vacuums = vacuums.observe(at(70), &[]);
        vacuums = vacuums.observe(at(80), &[7]);
        assert_eq!(vacuums.time_left(7, at(80)), Some(LONGEST_WAIT));
    }
}
