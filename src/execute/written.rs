//! Measures how much a claim's session writes. A measurement takes place between batches, at
//! intervals of at least 2 s. When a claim ends without an error, the session is measured again if
//! rows have been changed since the last measurement.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::Result;
use crate::metrics::{Wal, Written};
use crate::pg::connect::Session;
use crate::pg::row::{self, Columns};

/// Minimum time between two measurements. Each measurement costs one or two round trips, and the
/// first measurement costs one more.
const EVERY: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Ledger {
    asked_at: Instant,
    known: Option<Server>,
    /// Bytes of WAL that the session had written by the last measurement.
    wal: u64,
    /// Number of rows that were changed since the last measurement.
    rows: u64,
}

/// Measurements that the server supports.
#[derive(Debug, Clone, Copy)]
struct Server {
    /// From PostgreSQL 15 on, a session can flush its statistics at once. Earlier servers flush
    /// them at most twice a second.
    flushes: bool,
    /// From PostgreSQL 18 on, the server counts the WAL of each session. Earlier servers show only
    /// how far the end of the WAL moves, which includes the WAL of all other sessions.
    counts_wal: bool,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { asked_at: Instant::now(), known: None, wal: 0, rows: 0 }
    }
}

impl Ledger {
    /// Adds the rows that a batch changed to the count. Returns whether the next measurement is
    /// due.
    pub fn add(&mut self, rows: u64) -> bool {
        self.rows += rows;
        self.asked_at.elapsed() >= EVERY
    }

    /// Returns whether rows have been changed since the last measurement.
    pub fn is_open(&self) -> bool {
        self.rows > 0
    }

    /// Measures what the session wrote. The result counts the row versions that the session's
    /// updates wrote to the table `relation` in approximately the last second. From PostgreSQL 18
    /// on, the result also contains two counts since the last measurement: the WAL that the session
    /// wrote, and the rows that the session changed. `limit` is the time limit of each statement.
    pub async fn ask(&mut self, session: &Session, relation: u32, limit: Duration) -> Result<Written> {
        const SERVER: &str = "
select pg_catalog.to_regproc('pg_catalog.pg_stat_force_next_flush') is not null, pg_catalog.to_regproc('pg_catalog.pg_stat_get_backend_wal') is not null";
        // These functions return the counts that are not flushed yet. The unflushed counts cover
        // approximately the last second.
        const PENDING: &str =
            "select pg_catalog.pg_stat_get_xact_tuples_updated($1), pg_catalog.pg_stat_get_xact_tuples_hot_updated($1)";
        const WAL: &str = "
select wal_bytes::pg_catalog.int8 from pg_catalog.pg_stat_get_backend_wal(pg_catalog.pg_backend_pid())";
        self.asked_at = Instant::now();
        let client = &session.client;
        let server = match self.known {
            Some(server) => server,
            None => {
                let row = session.bounded_ours(limit, client.query_one(SERVER, &[])).await?;
                *self.known.insert(Server { flushes: row.read(0)?, counts_wal: row.read(1)? })
            }
        };
        let pending = if server.flushes {
            format!("{PENDING}, pg_catalog.pg_stat_force_next_flush()::text")
        } else {
            PENDING.to_owned()
        };
        let row = session.bounded_ours(limit, client.query_one(&pending, &[&relation])).await?;
        let (updated, hot) = (unsigned(row.read(0)?), unsigned(row.read(1)?));
        let mut wal = None;
        if server.counts_wal {
            let row = session.bounded_ours(limit, client.query_opt(WAL, &[])).await?;
            let now = unsigned(row::first(row)?);
            wal = Some(Wal { bytes: now.saturating_sub(self.wal), rows: std::mem::take(&mut self.rows) });
            self.wal = now;
        }
        self.rows = 0;
        Ok(Written { updated, hot, wal })
    }
}

fn unsigned(number: Option<i64>) -> u64 {
    number.and_then(|number| u64::try_from(number).ok()).unwrap_or_default()
}
