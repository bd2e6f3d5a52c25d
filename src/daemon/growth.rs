//! Reads how much the tables and indexes of jobs have grown since planning. The sizes are read at
//! most every 5 s, and with a short lock timeout. Without the timeout, a lock on one table would
//! delay reading the sizes of all other tables.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Result;
use crate::pg::control::Control;
use crate::pg::row::Columns;

const EVERY: Duration = Duration::from_secs(5);
/// Maximum time to wait for a lock on a table. Reading a size takes such a lock. Without the limit,
/// the request for this lock would wait behind a session that holds, or waits for, an ACCESS
/// EXCLUSIVE lock.
const LOCK_WAIT: Duration = Duration::from_millis(100);

/// Reads the ratios of at most 50 running, verifying or paused jobs. The plan of a job contains the
/// initial sizes. A size is the sum over all tables in which the job has slices.
const SIZES: &str = "select job_name, table_ratio, index_ratio from backfill._growth()";

/// The current size divided by the size when the job was planned.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Ratios {
    pub table: Option<f64>,
    pub indexes: Option<f64>,
}

#[derive(Debug, Default)]
pub(super) struct Growth {
    asked_at: Option<Instant>,
    seen: BTreeMap<String, Ratios>,
}

impl Growth {
    pub fn of(&self, job_name: &str) -> Ratios {
        self.seen.get(job_name).copied().unwrap_or_default()
    }

    /// Reads the ratios at most every 5 s. If the read fails, for example because another session
    /// has locked one of the tables, the old ratios are kept.
    pub async fn look(&mut self, control: &Control) {
        if self.asked_at.is_some_and(|at| at.elapsed() < EVERY) {
            return;
        }
        self.asked_at = Some(Instant::now());
        match read(control).await {
            Ok(seen) => self.seen = seen,
            Err(error) => tracing::debug!(error = %error.message, "could not read the sizes of the tables"),
        }
    }
}

async fn read(control: &Control) -> Result<BTreeMap<String, Ratios>> {
    let rows = control.query_unlocked(SIZES, LOCK_WAIT).await?;
    let ratios = |row: &tokio_postgres::Row| Ok((row.read(0)?, Ratios { table: row.read(1)?, indexes: row.read(2)? }));
    rows.iter().map(ratios).collect()
}
