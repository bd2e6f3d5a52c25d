//! The user's own: a query that gives one number.

use futures_util::future::BoxFuture;
use tokio_postgres::Client;

use super::{Look, Seen, number};
use crate::error::Result;

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

impl Look for Sql {
    fn look<'a>(&'a mut self, client: &'a Client, _working: bool) -> BoxFuture<'a, Result<Vec<Seen>>> {
        Box::pin(async move {
            let value = number(client, &self.query).await?;
            Ok(vec![Seen { source: self.name.clone(), value, limit: self.limit, says: None }])
        })
    }
}
