//! Runs one query on a connection of the pool, with a deadline.

use std::time::Duration;

use deadpool_postgres::{Client, Object, Pool, PoolError};
use tokio::time::{Instant, timeout_at};

use crate::error::{Error, Kind, Result};

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
    match timeout_at(deadline, question(&client)).await {
        Ok(answer) => answer,
        Err(_elapsed) => {
            // The query still runs on this connection, so the connection is dropped. Otherwise the
            // next user of the connection would wait for the query. The idle connections are
            // dropped too, because the same network failure may concern them.
            drop(Object::take(client));
            pool.retain(|_, _| false);
            Err(late("get a result"))
        }
    }
}

pub fn no_connection(error: PoolError) -> Error {
    match error {
        PoolError::Backend(error) => error.into(),
        PoolError::Timeout(_) => Error::new(Kind::Timeout, "the pool has no free connection"),
        error => Error::new(Kind::Internal, format!("could not connect: {error}")),
    }
}
