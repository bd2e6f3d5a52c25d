//! What a signal has to implement: one poll of the server, or of somewhere else, that answers with
//! samples.

use futures_util::future::BoxFuture;
use tokio_postgres::Client;

use crate::error::{self, Error, Result};

/// A signal that is read from the database server.
pub trait Poll: Send {
    /// The present samples; empty if the server has nothing of the kind. `client` is in a
    /// transaction that is read-only and has the signal's timeout, unless
    /// [`Poll::without_transaction`] says otherwise. `working` says whether any job of this daemon
    /// is at work.
    fn poll<'a>(&'a mut self, client: &'a Client, working: bool) -> BoxFuture<'a, Result<Vec<Sample>>>;

    /// For a signal that pauses between its statements: an open transaction would hold back vacuum
    /// meanwhile.
    fn without_transaction(&self) -> bool {
        false
    }
}

/// A signal that is read from somewhere else.
pub trait PollElsewhere: Send {
    fn poll(&mut self) -> BoxFuture<'_, Result<Sample>>;
}

/// One value of a signal.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub source: String,
    pub value: f64,
    /// None: the value is only shown.
    pub limit: Option<f64>,
    /// The reason for a hold in the source's own words; none if the source leaves that to value and
    /// limit.
    pub says: Option<String>,
}

impl Sample {
    pub fn of_server(value: f64, limit: Option<f64>) -> Self {
        Self { source: SERVER.to_owned(), value, limit, says: None }
    }
}

/// The source of a signal that has one value for the whole server, or database.
pub const SERVER: &str = "server";

/// The one number that a query gives, whatever its type.
pub async fn number(client: &Client, sql: &str) -> Result<f64> {
    let rows = client.query_typed(&format!("select (\n{sql}\n)::pg_catalog.float8"), &[]).await?;
    let value = rows.first().map(|row| row.try_get::<_, Option<f64>>(0)).transpose()?.flatten();
    value
        .filter(|value| value.is_finite())
        .ok_or_else(|| Error::new(error::Kind::Data, "the query gave no number (null, not a number, or infinity)"))
}
