//! The signals: one file each, and one place that knows them all (`registry.rs`).
//!
//! Replica lag is looked at by the sampler itself, many times a second (`replica_lag.rs`). All others are read by `hearing.rs`: each
//! by a loop of its own, at its own interval and with its own timeout, so that one that takes long keeps no other
//! from being read. The server is asked over one connection for ours and one for the user's queries, whatever their number.
//!
//! What was read holds good for some of its intervals. After that it is stale, and stale is not healthy: a budget holds, and so
//! does a signal of the user's own; a built-in gauge of load says nothing, so that the pace stays as it is.

mod active_sessions;
mod archiver;
mod checkpoints;
mod deadlocks;
mod fetch;
mod hearing;
mod http;
mod lock_waits;
mod oldest_xmin;
mod probe_latency;
mod prometheus;
mod rate;
mod registry;
pub mod replica_lag;
mod rollbacks;
mod slot;
mod sql;
mod statement_time;
mod watch;

use futures_util::future::BoxFuture;
use tokio_postgres::Client;

use crate::error::{self, Error, Result};

pub use hearing::Signals;
pub use watch::try_once;

/// One look at a signal.
pub(super) trait Look: Send {
    /// What there is to see; nothing at all where there is nothing of the kind. `client` is in a transaction that is
    /// read-only and has the signal's timeout, unless the look goes [`Look::without_transaction`]. `working` says whether any job of this daemon is at work.
    fn look<'a>(&'a mut self, client: &'a Client, working: bool) -> BoxFuture<'a, Result<Vec<Seen>>>;

    /// Of one that rests between its statements.
    fn without_transaction(&self) -> bool {
        false
    }
}

/// The same, elsewhere than on the server.
pub(super) trait LookElsewhere: Send {
    fn look(&mut self) -> BoxFuture<'_, Result<Seen>>;
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    source: String,
    value: f64,
    /// None: it is shown only.
    limit: Option<f64>,
    /// The reason where it holds, if there is a better one than value and limit.
    says: Option<String>,
}

impl Seen {
    fn of_server(value: f64, limit: Option<f64>) -> Self {
        Self { source: SERVER.to_owned(), value, limit, says: None }
    }
}

/// The source of what is one for the whole server, or database.
const SERVER: &str = "server";

impl Look for Box<dyn Look> {
    fn look<'a>(&'a mut self, client: &'a Client, working: bool) -> BoxFuture<'a, Result<Vec<Seen>>> {
        self.as_mut().look(client, working)
    }

    fn without_transaction(&self) -> bool {
        self.as_ref().without_transaction()
    }
}

/// The one number of a query, whatever its type.
async fn number(client: &Client, sql: &str) -> Result<f64> {
    let rows = client.query_typed(&format!("select (\n{sql}\n)::pg_catalog.float8"), &[]).await?;
    let value = rows.first().map(|row| row.try_get::<_, Option<f64>>(0)).transpose()?.flatten();
    value
        .filter(|value| value.is_finite())
        .ok_or_else(|| Error::new(error::Kind::Data, "the query gave no number (null, not a number, or infinity)"))
}
