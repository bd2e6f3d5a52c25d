//! Detects a pooler that gives the server session of a connection to other clients between two
//! transactions or statements (P42).

use tokio_postgres::SimpleQueryMessage;

use crate::error::{Error, Kind, Result};
use crate::pg::connect::{Session, within};
use crate::pg::pools::CONTROL_LIMIT;

pub const MESSAGE: &str = "the connection goes through a pooler in transaction or statement mode, where session state, LISTEN and prepared statements do not work";
pub const REMEDY: &str = "Use a url that connects to the server directly, or through a pooler in session mode. Jobs can still be enqueued and controlled through the pooler.";

/// Returns the error of a connection that goes through such a pooler.
pub fn error(kind: Kind) -> Error {
    Error::new(kind, MESSAGE).hint(REMEDY)
}

/// Returns the error of a session in which no code of a user runs. If a prepared statement of this
/// session is missing or exists already, a pooler has given the connection another server session.
/// The error then says so.
pub fn recognized(failed: Error) -> Error {
    match failed.sqlstate.as_deref() {
        Some("26000" | "42P05") => Error { sqlstate: failed.sqlstate, ..error(Kind::Pooled) },
        _ => failed,
    }
}

/// Returns whether such a pooler is between this program and the server. Uses two new connections
/// alternately. Such a pooler gives the second connection the server session that the first
/// connection has just released, and then gives the first connection another session. Uses simple
/// queries, because prepared statements fail behind some poolers.
/// A pooler in statement mode closes the second connection when a transaction begins, and leaves
/// the first one open.
pub async fn is_pooled(first: &Session, second: &Session) -> Result<bool> {
    let before = pid(first, "").await?;
    let meanwhile = match pid(second, "begin; ").await {
        // A pooler in statement mode reports a protocol violation.
        Err(error) if error.sqlstate.as_deref() == Some("08P01") => return Ok(true),
        meanwhile => meanwhile?,
    };
    if before == meanwhile {
        // If the pool has only one session, the first connection gets none until the transaction
        // ends.
        return Ok(true);
    }
    let after = pid(first, "").await?;
    match within(CONTROL_LIMIT, second.client.batch_execute("rollback")).await {
        Err(error) if error.sqlstate.as_deref() == Some("08P01") => Ok(true),
        Err(_) if second.client.is_closed() && pid(first, "").await.is_ok() => Ok(true),
        ended => ended.map(|()| before != after),
    }
}

async fn pid(session: &Session, before: &str) -> Result<String> {
    // The timeouts of the login must not end this check.
    let sql = format!(
        "{before}set local statement_timeout = 0; set local idle_in_transaction_session_timeout = 0; select pg_catalog.pg_backend_pid()"
    );
    let answer = within(CONTROL_LIMIT, session.client.simple_query(&sql)).await?;
    let found = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.try_get(0).ok().flatten().map(str::to_owned),
        _ => None,
    });
    Ok(found.unwrap_or_default())
}
