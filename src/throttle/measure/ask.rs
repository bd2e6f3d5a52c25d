//! One question to the database, over a connection of the pool and with a deadline.

use std::time::Duration;

use deadpool_postgres::{Client, Object, Pool, PoolError};
use tokio::time::{Instant, timeout_at};

use crate::error::{Error, Kind, Result};

/// No answer for this long is no answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The answer to one question, or the reason why there is none in time.
pub async fn ask<T>(pool: &Pool, question: impl AsyncFnOnce(&Client) -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    let late = |what: &str| Error::new(Kind::Timeout, format!("no {what} within {} s", PATIENCE.as_secs()));
    let client = match timeout_at(deadline, pool.get()).await {
        Ok(client) => client.map_err(no_connection)?,
        Err(_elapsed) => return Err(late("connection")),
    };
    match timeout_at(deadline, question(&client)).await {
        Ok(answer) => answer,
        Err(_elapsed) => {
            // The question still runs on this connection, and whoever got it next would wait behind
            // it.
            drop(Object::take(client));
            Err(late("answer"))
        }
    }
}

pub fn no_connection(error: PoolError) -> Error {
    match error {
        PoolError::Backend(error) => error.into(),
        PoolError::Timeout(_) => Error::new(Kind::Timeout, "no connection is free"),
        error => Error::new(Kind::Internal, format!("no connection: {error}")),
    }
}
