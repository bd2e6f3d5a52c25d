//! Runs the statements of a verb in a way that works behind any pooler. A statement and its
//! settings are sent as one message of the simple query protocol, which the server runs as one
//! transaction. The settings end with this transaction, and no prepared statement is used. So a
//! verb leaves nothing behind in a server session that a pooler later gives to another client.

use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::SimpleQueryRow;

use crate::error::{Error, Kind, Result};
use crate::pg::connect::{Session, within};
use crate::pg::ident::ascii_literal;
use crate::pg::pools::CONTROL_LIMIT;

/// Settings of a statement whose unqualified names refer only to PostgreSQL's own objects. The
/// names of all other objects must be schema-qualified.
pub(super) const OURS: &str = "set local search_path = pg_catalog, pg_temp; set local statement_timeout = '10s'; \
     set local lock_timeout = '5s'; set local synchronous_commit = on; set local jit = off; ";
/// With `exit_on_error`, an error that a function handles would end the session.
const HARMLESS: &str = "set local exit_on_error = off; ";
/// Makes the transaction writable, because the login may have `default_transaction_read_only` set.
/// A standby refuses this setting.
const WRITABLE: &str = "set local transaction_read_only = off; ";
/// SQLSTATE of a statement that writes in a read-only transaction.
const READ_ONLY: &str = "25006";

/// Time after which the user is told what the statement waits for.
const PATIENCE: Duration = Duration::from_secs(4);
const UNKNOWN: &str = "the server has not responded for 4 s";
/// Time after which a commit no longer waits for a synchronous standby.
const COMMIT: Duration = CONTROL_LIMIT;
/// Reads what the session of a verb waits for. Behind a pooler the process ID of the session is not
/// known, so the query finds the session by its `application_name` and its login.
const REASON: &str = "
select case when a.wait_event operator(pg_catalog.=) 'SyncRep'
            then pg_catalog.format('the commit waits for a synchronous standby (synchronous_standby_names is %L); start the standby, or change the setting', pg_catalog.current_setting('synchronous_standby_names'))
            else pg_catalog.format('another session holds a lock that the command needs (process %s)%s', pg_catalog.array_to_string(pg_catalog.pg_blocking_pids(a.pid), ', '),
                   (select pg_catalog.format('; its commit waits for a synchronous standby (synchronous_standby_names is %L)', pg_catalog.current_setting('synchronous_standby_names'))
                      from pg_catalog.pg_stat_activity b where b.pid operator(pg_catalog.=) any (pg_catalog.pg_blocking_pids(a.pid)) and b.wait_event operator(pg_catalog.=) 'SyncRep' limit 1)) end as reason,
       a.wait_event operator(pg_catalog.=) 'SyncRep' as in_commit
  from pg_catalog.pg_stat_activity a
 where a.application_name operator(pg_catalog.=) 'backfilld cli' and a.usename operator(pg_catalog.=) session_user and a.pid operator(pg_catalog.<>) pg_catalog.pg_backend_pid()
   and (a.wait_event operator(pg_catalog.=) 'SyncRep' or pg_catalog.cardinality(pg_catalog.pg_blocking_pids(a.pid)) operator(pg_catalog.>) 0)
 order by a.xact_start limit 1";
/// Maximum time that a cancelled statement may take to end.
const CANCEL: Duration = Duration::from_secs(3);

/// A value that can be written into a statement as a literal.
pub(super) trait Literal: Sync {
    fn literal(&self) -> String;
}

impl Literal for &str {
    fn literal(&self) -> String {
        ascii_literal(self)
    }
}

impl Literal for String {
    fn literal(&self) -> String {
        ascii_literal(self)
    }
}

impl Literal for i32 {
    fn literal(&self) -> String {
        ascii_literal(&self.to_string())
    }
}

impl Literal for bool {
    fn literal(&self) -> String {
        self.to_string()
    }
}

/// The literal of an array.
impl Literal for Vec<String> {
    fn literal(&self) -> String {
        let item = |item: &String| format!("\"{}\"", item.replace('\\', "\\\\").replace('"', "\\\""));
        ascii_literal(&format!("{{{}}}", self.iter().map(item).collect::<Vec<_>>().join(",")))
    }
}

impl<T: Literal> Literal for Option<T> {
    fn literal(&self) -> String {
        self.as_ref().map_or_else(|| "null".to_owned(), Literal::literal)
    }
}

/// A row whose values are texts.
#[derive(Debug)]
pub(super) struct TextRow(SimpleQueryRow);

/// A value that can be read from its text in the server's answer.
pub(super) trait FromText: Sized {
    fn from_text(text: Option<&str>) -> Option<Self>;
}

impl FromText for String {
    fn from_text(text: Option<&str>) -> Option<Self> {
        text.map(str::to_owned)
    }
}

impl FromText for i64 {
    fn from_text(text: Option<&str>) -> Option<Self> {
        text?.parse().ok()
    }
}

impl FromText for f64 {
    fn from_text(text: Option<&str>) -> Option<Self> {
        text?.parse().ok()
    }
}

impl FromText for bool {
    fn from_text(text: Option<&str>) -> Option<Self> {
        match text? {
            "t" => Some(true),
            "f" => Some(false),
            _ => None,
        }
    }
}

impl<T: FromText> FromText for Option<T> {
    fn from_text(text: Option<&str>) -> Option<Self> {
        match text {
            None => Some(None),
            text => T::from_text(text).map(Some),
        }
    }
}

impl TextRow {
    /// Returns the value of a column.
    ///
    /// # Errors
    /// [`Kind::Unreadable`] if the row has no such column, or if its text is not a `T`.
    pub fn read<T: FromText>(&self, column: &str) -> Result<T> {
        let unreadable = || Error::new(Kind::Unreadable, format!("the server sent no valid value of {column}"));
        let text = self.0.try_get(column).map_err(|_| unreadable())?;
        T::from_text(text).ok_or_else(unreadable)
    }

    /// Returns the first column of the row, which may be null.
    pub fn first(&self) -> Option<String> {
        self.0.try_get(0).ok().flatten().map(str::to_owned)
    }
}

/// Runs statements as one transaction, with the settings `settings`. The parameters `$1`, `$2` and
/// so on stand for `values`. Returns the rows of all statements. After `limit`, cancels the
/// statements. If the commit is waiting for a synchronous standby at this time, the cancel request
/// ends only this wait: the commit succeeds, and the server sends a warning.
///
/// # Errors
/// The error of the server. [`Kind::ConnectionLost`] if the server does not respond even after the
/// cancel request.
pub(super) async fn run(
    session: &Session,
    settings: &str,
    sql: &str,
    values: &[&dyn Literal],
    limit: Duration,
) -> Result<Vec<TextRow>> {
    let sql = filled(sql, values);
    let send = async |before: &str| {
        let sent = format!("{HARMLESS}{before}{settings}{sql}");
        let mut query = std::pin::pin!(session.client.simple_query(&sent));
        let patience = PATIENCE.min(limit);
        if let Ok(answer) = tokio::time::timeout(patience, &mut query).await {
            return answer.map_err(Error::from);
        }
        let reason = reason(session).await;
        eprintln!("waiting: {}", reason.as_ref().map_or(UNKNOWN, |(text, _)| text));
        let limit = if reason.is_some_and(|(_, in_commit)| in_commit) { limit.min(COMMIT) } else { limit };
        if let Ok(answer) = tokio::time::timeout(limit - patience, &mut query).await {
            return answer.map_err(Error::from);
        }
        session.cancel().await;
        within(CANCEL, query).await
    };
    let answer = match send("").await {
        Err(error) if is_read_only(&error) => match send(WRITABLE).await {
            // The server is a standby.
            Err(_) => return Err(error),
            answer => answer?,
        },
        answer => answer?,
    };
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(TextRow(row)),
        _ => None,
    };
    Ok(answer.into_iter().filter_map(row).collect())
}

/// Returns what an unresponsive session waits for, and whether it waits in its commit. Returns none
/// if the server does not provide this information.
async fn reason(session: &Session) -> Option<(String, bool)> {
    let other = tokio::time::timeout(PATIENCE, session.open_another()).await.ok()?.ok()?;
    let answer = within(PATIENCE, other.client.simple_query(REASON)).await.ok()?;
    answer.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            let row = TextRow(row);
            Some((row.read("reason").ok()?, row.read("in_commit").ok()?))
        }
        _ => None,
    })
}

/// Returns whether the statement failed because its transaction is read-only. `backfill.enqueue`
/// raises its own error in this case, which is recognized by its message.
fn is_read_only(error: &Error) -> bool {
    error.sqlstate.as_deref() == Some(READ_ONLY) || error.message == "this session is read-only"
}

/// Replaces each parameter with the literal of its value.
fn filled(sql: &str, values: &[&dyn Literal]) -> String {
    let mut filled = String::new();
    let mut parts = sql.split('$');
    filled.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let value = part[..digits].parse::<usize>().ok().and_then(|n| values.get(n.checked_sub(1)?));
        match value {
            Some(value) => filled.push_str(&value.literal()),
            None => filled.push_str(&format!("${}", &part[..digits])),
        }
        filled.push_str(&part[digits..]);
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_leave_its_literal() {
        let key = Some(vec!["a\"b\\".to_owned(), "c".to_owned()]);
        let none: Option<String> = None;
        assert_eq!(
            filled("select $1, $2::int, $3, $4, $10", &[&"it's $2", &none, &key, &true]),
            "select 'it''s $2', null::int,  E'{\"a\\\\\"b\\\\\\\\\",\"c\"}', true, $10"
        );
    }
}
