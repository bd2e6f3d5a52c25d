//! Runs one query on a connection of the pool, with a deadline.

use std::time::Duration;

use deadpool_postgres::{Client, Pool, PoolError};
use tokio::time::{Instant, timeout_at};

use crate::error::{Error, Kind, Result};
use crate::pg::pooler;
use crate::pg::pools::close;

/// Total time limit for getting a connection and then the result.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Runs one query and returns its result. Returns an error if there is no result in time.
pub async fn ask<T>(pool: &Pool, question: impl AsyncFnOnce(&Client) -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + TIMEOUT;
    let late = |what: &str| Error::new(Kind::Timeout, format!("could not {what} within {} s", TIMEOUT.as_secs()));
    let client = match timeout_at(deadline, pool.get()).await {
        Ok(client) => client.map_err(no_connection)?,
        // The pool may have no free connection, or the server might not respond to a new
        // connection.
        Err(_elapsed) => return Err(late("get a connection")),
    };
    let answer = match timeout_at(deadline, question(&client)).await {
        Ok(answer) => answer.map_err(pooler::recognized),
        Err(_elapsed) => Err(late("get a result")),
    };
    // After a timeout, the query may still be running on this connection, so the connection is
    // closed. Otherwise the next user of the connection would wait for the query.
    if answer.as_ref().is_err_and(|error| matches!(error.kind, Kind::Timeout | Kind::Pooled)) {
        close(pool, client);
    }
    answer
}

pub fn no_connection(error: PoolError) -> Error {
    match error {
        PoolError::Backend(error) => error.into(),
        PoolError::Timeout(_) => Error::new(Kind::Timeout, "the pool has no free connection"),
        error => Error::new(Kind::Internal, format!("could not connect: {error}")),
    }
}
