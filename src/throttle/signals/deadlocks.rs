//! Load: deadlocks in this database, in a minute, more than before the work.

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::rate::Rate;
use super::rollbacks::of_database;
use super::{Look, Seen};
use crate::error::Result;

pub struct Deadlocks {
    limit: Option<f64>,
    rate: Rate,
}

impl Deadlocks {
    pub fn new(limit: Option<f64>) -> Self {
        Self { limit, rate: Rate::default() }
    }
}

impl Look for Deadlocks {
    fn look<'a>(&'a mut self, client: &'a Client, working: bool) -> BoxFuture<'a, Result<Vec<Seen>>> {
        Box::pin(async move {
            let (count, usual) = of_database(client, "deadlocks").await?;
            let excess = self.rate.excess(Instant::now(), count, usual, working);
            Ok(excess.map(|value| Seen::of_server(value, self.limit)).into_iter().collect())
        })
    }
}
