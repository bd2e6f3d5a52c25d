//! Load signal. The value is the number of deadlocks per minute in this database, minus the number
//! per minute while no job runs. The value is never negative.

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::error::Result;
use crate::throttle::measure::builtin::counter_rate::CounterRate;
use crate::throttle::measure::builtin::rollbacks::of_database;
use crate::throttle::measure::poll::{Poll, Sample};

pub struct Deadlocks {
    limit: Option<f64>,
    rate: CounterRate,
}

impl Deadlocks {
    pub fn new(limit: Option<f64>) -> Self {
        Self { limit, rate: CounterRate::default() }
    }
}

impl Poll for Deadlocks {
    fn poll<'a>(&'a mut self, client: &'a Client, working: bool) -> BoxFuture<'a, Result<Vec<Sample>>> {
        Box::pin(async move {
            let (count, usual) = of_database(client, "deadlocks").await?;
            let excess = self.rate.excess(Instant::now(), count, usual, working);
            Ok(excess.map(|value| Sample::of_server(value, self.limit)).into_iter().collect())
        })
    }
}
