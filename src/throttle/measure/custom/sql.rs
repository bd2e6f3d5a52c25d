//! A user-defined signal that runs an SQL query. The query must return one number.

use futures_util::future::BoxFuture;
use tokio_postgres::Client;

use crate::error::Result;
use crate::throttle::measure::poll::{Poll, Sample, number};

pub struct Sql {
    name: String,
    query: String,
    limit: Option<f64>,
}

impl Sql {
    pub fn new(name: &str, query: &str, limit: Option<f64>) -> Self {
        Self { name: name.to_owned(), query: query.to_owned(), limit }
    }
}

impl Poll for Sql {
    fn poll<'a>(&'a mut self, client: &'a Client, _working: bool) -> BoxFuture<'a, Result<Vec<Sample>>> {
        Box::pin(async move {
            let value = number(client, &self.query).await?;
            Ok(vec![Sample { source: self.name.clone(), value, limit: self.limit, says: None }])
        })
    }
}
