//! Contains the two traits for signals. Each signal implements one of them. Each poll queries the
//! database server or another source, and returns samples.

use futures_util::future::BoxFuture;
use tokio_postgres::Client;

use crate::error::{self, Error, Result};
use crate::pg::row::Columns;

/// A signal that is read from the database server.
pub trait Poll: Send {
    /// Returns the present samples. The list is empty if the server has nothing to measure.
    /// `client` is in a read-only transaction with the signal's timeout, unless
    /// [`Poll::without_transaction`] returns true. `working` is true while this daemon holds a
    /// slice.
    fn poll<'a>(&'a mut self, client: &'a Client, working: bool) -> BoxFuture<'a, Result<Vec<Sample>>>;

    /// Returns true for a signal that pauses between its statements. An open transaction would hold
    /// back vacuum during these pauses.
    fn without_transaction(&self) -> bool {
        false
    }
}

/// A signal that is read from a source other than the database server.
pub trait PollElsewhere: Send {
    fn poll(&mut self) -> BoxFuture<'_, Result<Sample>>;
}

/// One value of a signal.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub source: String,
    pub value: f64,
    /// None if the value is only shown.
    pub limit: Option<f64>,
    /// Reason for a hold, if the source itself requests a hold. None if only the value and the
    /// limit decide whether jobs are held.
    pub says: Option<String>,
}

impl Sample {
    pub fn of_server(value: f64, limit: Option<f64>) -> Self {
        Self { source: SERVER.to_owned(), value, limit, says: None }
    }
}

/// The source of a signal that has one value for the whole server or database.
pub const SERVER: &str = "server";

/// Runs a query and returns its single number. The number may have any type that can be cast to
/// float8.
pub async fn number(client: &Client, sql: &str) -> Result<f64> {
    let rows = client.query_typed(&format!("select (\n{sql}\n)::pg_catalog.float8"), &[]).await?;
    let value = rows.first().map(|row| row.read::<Option<f64>>(0)).transpose()?.flatten();
    value
        .filter(|value| value.is_finite())
        .ok_or_else(|| Error::new(error::Kind::Data, "the query returned no number (null, NaN or infinity)"))
}
