//! Load signal without a default limit. It affects jobs only if a rule sets a limit. The value is
//! the number of rolled back transactions per minute in this database, minus the number per minute
//! while no job runs. The value is never negative.
//!
//! The count includes batches that failed, and batches that were cancelled because they blocked
//! another session.

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::error::Result;
use crate::pg::row::Columns;
use crate::throttle::measure::builtin::counter_rate::CounterRate;
use crate::throttle::measure::poll::{Poll, Sample};

pub struct Rollbacks {
    limit: Option<f64>,
    rate: CounterRate,
}

impl Rollbacks {
    pub fn new(limit: Option<f64>) -> Self {
        Self { limit, rate: CounterRate::default() }
    }
}

impl Poll for Rollbacks {
    fn poll<'a>(&'a mut self, client: &'a Client, working: bool) -> BoxFuture<'a, Result<Vec<Sample>>> {
        Box::pin(async move {
            let (count, usual) = of_database(client, "xact_rollback").await?;
            let excess = self.rate.excess(Instant::now(), count, usual, working);
            Ok(excess.map(|value| Sample::of_server(value, self.limit)).into_iter().collect())
        })
    }
}

/// Returns a counter of this database and the counter's mean growth per minute. The mean covers the
/// time since the statistics of the database were reset. If the time of the reset is not known, the
/// mean covers the time since the server started.
pub async fn of_database(client: &Client, column: &'static str) -> Result<(f64, f64)> {
    let sql = format!(
        "select d.{column}::pg_catalog.float8,
                extract(epoch from pg_catalog.clock_timestamp() - coalesce(d.stats_reset, pg_catalog.pg_postmaster_start_time()))::pg_catalog.float8
           from pg_catalog.pg_stat_database d where d.datname = pg_catalog.current_database()"
    );
    let rows = client.query_typed(&sql, &[]).await?;
    let Some(row) = rows.first() else { return Ok((0.0, 0.0)) };
    let (count, seconds): (f64, f64) = (row.read(0)?, row.read(1)?);
    // The first minute after a server start or a reset gives no reliable rate per minute.
    Ok((count, count / seconds.max(60.0) * 60.0))
}
