//! Load signal without a default limit. It affects jobs only if a rule sets a limit. The value is
//! the number of requested checkpoints per minute.
//!
//! The server requests a checkpoint, for example, if WAL is written faster than `max_wal_size`
//! allows. After each checkpoint, the first change to a page writes the whole page to WAL again.

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::error::Result;
use crate::throttle::measure::builtin::counter_rate::CounterRate;
use crate::throttle::measure::poll::{Poll, Sample, number};

const VERSION: &str = "select pg_catalog.current_setting('server_version_num')";
const BEFORE_17: &str = "select b.checkpoints_req from pg_catalog.pg_stat_bgwriter b";
const SINCE_17: &str = "select c.num_requested from pg_catalog.pg_stat_checkpointer c";

pub struct Checkpoints {
    limit: Option<f64>,
    rate: CounterRate,
}

impl Checkpoints {
    pub fn new(limit: Option<f64>) -> Self {
        Self { limit, rate: CounterRate::default() }
    }
}

impl Poll for Checkpoints {
    fn poll<'a>(&'a mut self, client: &'a Client, _working: bool) -> BoxFuture<'a, Result<Vec<Sample>>> {
        Box::pin(async move {
            let new = number(client, VERSION).await? >= 170_000.0;
            let count = number(client, if new { SINCE_17 } else { BEFORE_17 }).await?;
            let a_minute = self.rate.observe(Instant::now(), count);
            Ok(a_minute.map(|value| Sample::of_server(value, self.limit)).into_iter().collect())
        })
    }
}
