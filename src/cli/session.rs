//! Opens the database session of a subcommand, and adds hints to server errors that a user of the
//! command line can fix.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::AsyncMessage;

use super::commands::Commands;
use super::statement::{self, Literal, TextRow};
use crate::config::Config;
use crate::config::database::Database;
use crate::error::{Error, Kind, Result};
use crate::pg::connect::Session;
use crate::pg::ident;
use crate::pg::pooler;
use crate::pg::pools::{CONTROL_LIMIT, Logins};
use crate::text;

/// Value of `application_name` in `pg_stat_activity`.
const APPLICATION_NAME: &str = "backfilld cli";

/// Opens a session to the database that the verb works on. The session has the login's own
/// settings. Each statement sets what it needs; see [`statement`].
pub(super) async fn open(config: &Config) -> Result<Session> {
    open_to(config, config.database()?).await
}

pub(super) async fn open_to(config: &Config, database: &Database) -> Result<Session> {
    let logins = Logins::new(database.clone());
    let commands = Commands::of_database(config, &database.name);
    let print = move |message| print_notice(message, &commands);
    logins.open_plain(APPLICATION_NAME, print).await.map_err(|error| not_connected(error, database))
}

/// Opens a session with the settings of the daemon's control sessions, for verbs that use more than
/// one statement in a session.
///
/// # Errors
/// [`Kind::Config`] if a pooler would give the session to other clients.
pub(super) async fn open_direct(config: &Config, database: &Database) -> Result<Session> {
    if pooler::is_pooled(&open_to(config, database).await?, &open_to(config, database).await?).await? {
        return Err(pooler::error(Kind::Config));
    }
    let logins = Logins::new(database.clone());
    let commands = Commands::of_database(config, &database.name);
    logins
        .open_control(APPLICATION_NAME, move |message| print_notice(message, &commands))
        .await
        .map_err(|error| not_connected(error, database))
}

/// Time that a server may take to restart or fail over. A lost connection ends a wait only after
/// this time.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// The session of a verb that waits. If the connection is lost, `read` opens a new session.
pub(super) struct Patient<'a> {
    config: &'a Config,
    database: &'a Database,
    session: Session,
    lost_at: Option<Instant>,
}

impl<'a> Patient<'a> {
    pub(super) async fn open(config: &'a Config) -> Result<Self> {
        let database = config.database()?;
        let session = open_to(config, database).await?;
        Ok(Self { config, database, session, lost_at: None })
    }

    /// Calls `read` with the session. Returns none if the database cannot be reached at the moment.
    ///
    /// # Errors
    /// The error of `read`. If the database cannot be reached, the error is returned only after
    /// [`RECONNECT_TIMEOUT`].
    pub(super) async fn read<T>(&mut self, read: impl AsyncFn(&Session) -> Result<T>) -> Result<Option<T>> {
        match read(&self.session).await {
            Ok(value) => {
                self.lost_at = None;
                Ok(Some(value))
            }
            Err(error) if error.exit_code() == 69 => {
                let since = *self.lost_at.get_or_insert_with(|| {
                    eprintln!("could not reach the database ({}); trying again", error.message);
                    Instant::now()
                });
                if since.elapsed() > RECONNECT_TIMEOUT {
                    return Err(error);
                }
                if let Ok(again) = open_to(self.config, self.database).await {
                    self.session = again;
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Runs one statement and returns its rows.
pub(super) async fn rows(session: &Session, sql: &str, values: &[&dyn Literal]) -> Result<Vec<TextRow>> {
    statement::run(session, statement::OURS, sql, values, CONTROL_LIMIT).await.map_err(explain)
}

/// Runs a statement that returns one row with one column, which may be null.
pub(super) async fn ask(session: &Session, sql: &str, values: &[&dyn Literal]) -> Result<Option<String>> {
    Ok(rows(session, sql, values).await?.first().and_then(TextRow::first))
}

/// Runs a statement that changes a job, and returns the new state of the job.
pub(super) async fn command(config: &Config, sql: &str, values: &[&dyn Literal]) -> Result<String> {
    let session = open(config).await?;
    Ok(ask(&session, sql, values).await?.unwrap_or_default())
}

const STATE: &str = "select state from backfill.jobs where name = $1";

/// Maximum time that a verb waits for the daemon to carry out a command. The daemon checks for
/// commands several times per second.
const HEEDED: Duration = Duration::from_secs(3);

/// Waits until the job's state is `wanted`, but for at most [`HEEDED`]. Returns the last state that
/// the function has read.
pub(super) async fn settle(session: &Session, name: &str, now: String, wanted: &str) -> Result<String> {
    let deadline = Instant::now() + HEEDED;
    let mut state = now;
    while state != wanted && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(100)).await;
        match ask(session, STATE, &[&name]).await? {
            Some(now) => state = now,
            None => break,
        }
    }
    Ok(state)
}

/// Prints a notice from the server to standard error.
fn print_notice(message: AsyncMessage, commands: &Commands) {
    if let AsyncMessage::Notice(notice) = message {
        let mut text = format!("{}: {}", notice.severity().to_lowercase(), notice.message());
        for (what, more) in [("detail", notice.detail()), ("hint", notice.hint())] {
            if let Some(more) = more {
                text.push_str(&format!("\n  {what}: {}", commands.translate(more)));
            }
        }
        eprintln!("{}", text::printable_lines(&text));
    }
}

fn not_connected(error: Error, database: &Database) -> Error {
    if error.kind == Kind::Config {
        return error;
    }
    let place =
        database.resolve_url().map_or_else(|_| format!("database \"{}\"", database.name), |url| url.to_string());
    let hint = match (error.kind, error.sqlstate.as_deref()) {
        (_, Some("28P01")) => Some(
            "Check the user in the url, and the password. The password comes from the url, password_file, password_env, PGPASSWORD or the password file of PostgreSQL (passfile, PGPASSFILE or ~/.pgpass).",
        ),
        (_, Some("28000")) => Some("Check the user in the url, and pg_hba.conf on the server."),
        (_, Some("3D000")) => Some("Check the database name at the end of the url."),
        (Kind::ConnectionLost, None) => {
            Some("Check that the server is running, and check the host and port in the url.")
        }
        _ => None,
    };
    let hint = error.hint.clone().or_else(|| hint.map(str::to_owned));
    Error { hint, ..error }.context(format!("could not connect to {place}"))
}

const LOCKED: &str = "Another session has locked a table of schema backfill. To find it, run: select a.pid, a.usename, a.query, l.mode, l.relation::regclass \
     from pg_locks l join pg_stat_activity a using (pid) where l.relation::regclass::text like 'backfill.%';";

/// Adds a hint to a server error that a user of the command line can fix.
pub(super) fn explain(error: Error) -> Error {
    let ours = error.message.contains("backfill");
    match error.sqlstate.as_deref() {
        Some("3F000") if ours => not_installed(error),
        Some("42P01" | "42883") if error.message.contains("backfill.") => not_installed(error),
        Some("42501") if ours && error.hint.is_none() => error.hint(
            "As an administrator, grant one of these roles to the login: backfill_submitter (to enqueue jobs and control them), \
             backfill_operator (to control all jobs), backfill_reader (to view jobs).",
        ),
        Some("25006") if error.hint.is_none() => {
            error.hint("The server is a standby, or the session is read-only: connect to the primary.")
        }
        Some("55P03") if error.hint.is_none() => error.hint(LOCKED),
        _ if error.kind == Kind::NoSuchJob => error.hint("List the jobs with: backfilld status"),
        _ => error,
    }
}

fn not_installed(error: Error) -> Error {
    Error::new(Kind::Schema, "schema backfill is not installed in this database, or is older than this binary")
        .detail(format!("The server reported: {}.", error.message))
        .hint("Run: backfilld migrate")
}

/// Returns a `grant` statement for a hint. The role is quoted, so that the statement can be pasted
/// into psql.
pub(super) fn grant(what: &str, to: &str) -> String {
    format!("grant {what} to {};", ident::quote(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(sqlstate: &str, message: &str) -> Error {
        Error { sqlstate: Some(sqlstate.to_owned()), ..Error::new(Kind::Statement, message) }
    }

    #[test]
    fn the_hint_for_a_missing_schema_is_the_command_that_installs_it() {
        for (sqlstate, message) in [
            ("3F000", "schema \"backfill\" does not exist"),
            ("42P01", "relation \"backfill.jobs\" does not exist"),
            ("42883", "function backfill.pause(text, text) does not exist"),
        ] {
            let error = explain(answer(sqlstate, message));
            assert_eq!((error.kind, error.hint.as_deref()), (Kind::Schema, Some("Run: backfilld migrate")));
        }
    }

    #[test]
    fn a_missing_table_of_the_user_is_not_a_missing_schema() {
        assert_eq!(explain(answer("42P01", "relation \"orders\" does not exist")).kind, Kind::Statement);
    }
}
