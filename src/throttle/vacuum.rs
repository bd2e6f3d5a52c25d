//! Autovacuum at work: on which tables, and since when. It frees the room that the walk needs next, and is slowed down by
//! what the walk does meanwhile.
//!
//! It is known by its lock, which everybody may see, and by its process, which belongs to no user.

use std::collections::BTreeMap;
use std::time::Duration;

use deadpool_postgres::Client;
use tokio::time::Instant;

use crate::error::Result;

/// So long a batch makes way for one vacuum. A large table takes hours, and ours are not the only dead rows.
pub const MAKES_WAY: Duration = Duration::from_secs(60);
/// It comes once a minute at most (`autovacuum_naptime`), and stays for seconds.
pub const LOOK_AGAIN: Duration = Duration::from_secs(1);

const LOOK: &str = "
select l.relation
  from pg_catalog.pg_locks l join pg_catalog.pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'relation' and l.mode = 'ShareUpdateExclusiveLock' and l.granted
   and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())
   and (a.backend_type = 'autovacuum worker' or a.backend_type is null and a.usesysid is null)";

/// The tables that autovacuum is on.
pub async fn look(client: &Client) -> Result<Vec<u32>> {
    let statement = client.prepare_cached(LOOK).await?;
    let rows = client.query(&statement, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Since when each vacuum has been at work.
pub type Vacuums = BTreeMap<u32, Instant>;

/// Those at work now, with what was known of them before.
pub fn observe(before: &Vacuums, now: Instant, relations: &[u32]) -> Vacuums {
    relations.iter().map(|relation| (*relation, before.get(relation).copied().unwrap_or(now))).collect()
}

/// Whether a batch on the table makes way, and how much longer at most.
pub fn makes_way(vacuums: &Vacuums, relation: u32, now: Instant) -> Option<Duration> {
    let since = vacuums.get(&relation)?;
    MAKES_WAY.checked_sub(now.saturating_duration_since(*since)).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_vacuum_is_made_way_for_a_minute_at_a_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut vacuums = observe(&Vacuums::new(), start, &[7]);
        assert_eq!(makes_way(&vacuums, 7, start), Some(MAKES_WAY));
        assert_eq!(makes_way(&vacuums, 8, start), None);
        vacuums = observe(&vacuums, at(59), &[7, 8]);
        assert_eq!(makes_way(&vacuums, 7, at(59)), Some(Duration::from_secs(1)));
        vacuums = observe(&vacuums, at(61), &[7, 8]);
        assert_eq!(
            (makes_way(&vacuums, 7, at(61)), makes_way(&vacuums, 8, at(61))),
            (None, Some(Duration::from_secs(58)))
        );
        // The next one is another.
        vacuums = observe(&vacuums, at(70), &[]);
        vacuums = observe(&vacuums, at(80), &[7]);
        assert_eq!(makes_way(&vacuums, 7, at(80)), Some(MAKES_WAY));
    }
}
