//! How much larger the tables and indexes of jobs have become since planning. Asked seldom, and never waited for: a lock
//! on one of them says nothing of the others.

use std::collections::BTreeMap;
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::time::Instant;

use crate::error::Result;
use crate::pg::connect::within;
use crate::pg::pools::{CONTROL_LIMIT, control};

const EVERY: Duration = Duration::from_secs(5);

/// Of jobs at work, with the sizes that their plans hold. A size is the sum over all leaves that have slices.
const SIZES: &str = "select job_name, table_ratio, index_ratio from backfill._growth()";

/// Size now over size at planning.
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

    /// Asks if it is time to. Where somebody has one of the tables locked the old figures stay.
    pub async fn look(&mut self, pool: &Pool) {
        if self.asked_at.is_some_and(|at| at.elapsed() < EVERY) {
            return;
        }
        self.asked_at = Some(Instant::now());
        match read(pool).await {
            Ok(seen) => self.seen = seen,
            Err(error) => tracing::debug!(error = %error.message, "can't see how large the tables are"),
        }
    }
}

async fn read(pool: &Pool) -> Result<BTreeMap<String, Ratios>> {
    let mut client = control(pool).await?;
    let transaction = within(CONTROL_LIMIT, client.transaction()).await?;
    // A size takes a lock that waits behind whoever wants the table for itself.
    within(CONTROL_LIMIT, transaction.batch_execute("set local lock_timeout = '100ms'")).await?;
    let rows = within(CONTROL_LIMIT, transaction.query(SIZES, &[])).await?;
    within(CONTROL_LIMIT, transaction.commit()).await?;
    let ratios = |row: &tokio_postgres::Row| (row.get(0), Ratios { table: row.get(1), indexes: row.get(2) });
    Ok(rows.iter().map(ratios).collect())
}
