//! Runs statements that execute a job's code. The job's code can change the settings of its session
//! and ignore timeouts and cancel requests. Therefore the daemon sets the settings again before
//! each statement, and enforces the time limit itself, as a last resort by terminating the session.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::SimpleQueryMessage;

use crate::error::{Error, Kind, Result};
use crate::pg::cancel::Cancelled;
use crate::pg::connect::{Session, open, within};
use crate::pg::conninfo::CONNECT_TIMEOUT;
use crate::pg::pins::{OUR_PATH, Pins, UNLOCK};
use crate::pg::pooler;
use crate::pg::row::Columns;

/// How much longer than its limit a statement may run before the daemon cancels it, in addition to
/// the extra time for the network ([`Session::slack`]). If the statement is still running after
/// another `CANCEL_TIMEOUT`, the daemon terminates its session.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum time that a statement gets in addition to its limit because of a slow network.
const MOST_SLACK: Duration = Duration::from_secs(10);
/// Maximum duration of a query to a server that responds normally, without the extra time for the
/// network. If a query takes longer, the server is slow or was suspended, and the answer to the
/// job's statement may be late for the same reason.
const PROMPT: Duration = Duration::from_millis(500);
/// Time between two checks of whether a statement is still running. If the server is suspended
/// repeatedly, at least one of the two checks is probably slow.
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);

impl Session {
    /// Returns the extra time that the answer to a statement may take because of the network. A
    /// statement takes two round trips: one for its settings, and one for itself.
    fn slack(&self) -> Duration {
        Duration::from_millis(self.round_trip.load(Ordering::Relaxed)).saturating_mul(2).min(MOST_SLACK)
    }

    /// Runs a statement that executes a job's code, on a session whose `statement_timeout` is
    /// `limit`. The job's code can increase this timeout, can catch the error of a timeout or of a
    /// cancel request, and can hold its locks indefinitely. So the daemon also enforces the limit
    /// itself:
    /// - The daemon cancels a statement that exceeds the limit by more than `CANCEL_TIMEOUT` plus
    ///   the extra time for the network.
    /// - The daemon terminates the session if the cancel request fails, or if the statement is
    ///   still running after another `CANCEL_TIMEOUT`. The job's code cannot catch a termination.
    ///
    /// # Errors
    /// The server's error. [`Kind::Overrun`] if the daemon's cancel request or the termination of
    /// the session ended the statement. [`Kind::Unanswered`] if the statement may have ended, but
    /// its answer did not arrive, or if the server itself responds slowly.
    /// [`Kind::ConnectionLost`] if the server responds, but could not terminate the session.
    pub async fn bounded<T>(
        &self,
        limit: Duration,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        self.with_settings(limit, self.pins.as_ref().map(|pins| pins.of_the_job.as_str()), statement).await
    }

    /// Runs a statement in the same way as [`Session::bounded`] does, but under a `search_path`
    /// that finds only objects of PostgreSQL. Statements that contain neither a name nor an
    /// expression from the user run in this way. If such a statement used the job's `search_path`,
    /// an operator that another role created in a schema of the job's `search_path` could take the
    /// place of an operator in the statement, and would run with the job's privileges.
    pub async fn bounded_ours<T>(
        &self,
        limit: Duration,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        self.with_settings(limit, self.pins.as_ref().map(|pins| pins.ours.as_str()), statement).await
    }

    /// Runs a statement in a failed transaction. Does not set the settings first, because a failed
    /// transaction allows no statement that changes a setting.
    pub async fn bounded_unpinned<T>(
        &self,
        limit: Duration,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        self.with_settings(limit, None, statement).await
    }

    async fn with_settings<T>(
        &self,
        limit: Duration,
        settings: Option<&str>,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        let both = async {
            let Some(settings) = settings else { return statement.await.map_err(Error::from) };
            self.apply(settings).await?;
            tokio::join!(biased; statement, self.client.batch_execute(UNLOCK)).0.map_err(Error::from)
        };
        let (answer, cancelled) = self.or_cancelled(limit, both).await?;
        answer.map_err(|error| blame(error, cancelled))
    }

    /// Sets the settings of the session with one of the statements of [`Pins`].
    ///
    /// # Errors
    /// [`Kind::Refused`] if the code of the job has left a prepared statement in the session. The
    /// code could have replaced a statement of the daemon by its own statement of the same name.
    /// That statement would receive the parameters of the next batch, for example the token.
    /// [`Kind::Pooled`] if the settings were set in the server session of another connection.
    async fn apply(&self, settings: &str) -> Result<()> {
        let started = Instant::now();
        let answer = self.client.simple_query(settings).await?;
        self.round_trip_took(started.elapsed());
        let state = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(["prepared", "pid"].map(|name| row.try_get(name).ok().flatten())),
            _ => None,
        });
        let [prepared, pid] = state.unwrap_or_default();
        if self.pid.is_some_and(|opened| pid != Some(opened.to_string().as_str())) {
            return Err(pooler::error(Kind::Pooled));
        }
        if prepared == Some("0") {
            return Ok(());
        }
        Err(Error::new(Kind::Refused, "the code of the job leaves prepared statements in its session")
            .detail("The server could execute such a prepared statement instead of a statement of the daemon.")
            .hint("Look for PREPARE in the functions that the job calls and in the triggers of its table, and remove the prepared statement with DEALLOCATE in the same function. Then run backfill.retry."))
    }

    /// Stores the settings that this session sends before each statement.
    pub(super) fn pin(&mut self, pins: Pins) {
        self.pins = Some(pins);
    }

    /// Changes one of the settings that this session applies before each statement.
    pub fn set(&mut self, name: &'static str, value: String) {
        if let Some(pins) = &mut self.pins {
            pins.set(name, value);
        }
    }

    /// Sets the settings of this session, with the job's `search_path`.
    pub async fn apply_settings(&self) -> Result<()> {
        match &self.pins {
            Some(pins) => self.apply(&pins.of_the_job).await,
            None => Ok(()),
        }
    }

    /// Runs one or more statements under the limits of [`Session::bounded`]. Returns their result,
    /// and whether the daemon sent a cancel request.
    pub async fn or_cancelled<T>(&self, limit: Duration, statements: impl Future<Output = T>) -> Result<(T, bool)> {
        let mut statements = std::pin::pin!(statements);
        let patience = limit + CANCEL_TIMEOUT + self.slack();
        if let Ok(answer) = tokio::time::timeout(patience, &mut statements).await {
            return Ok((answer, false));
        }
        if self.cancel().await == Cancelled::Settled
            && let Ok(answer) = tokio::time::timeout(CANCEL_TIMEOUT, &mut statements).await
        {
            return Ok((answer, true));
        }
        Err(self.overran(limit).await)
    }

    /// Waits for a statement whose time limit is `limit`, after a cancel request. If the statement
    /// ignores the cancel request, terminates the session.
    ///
    /// # Errors
    /// The error of the statement, or the same errors as in [`Session::bounded`].
    pub async fn settled<T>(&self, limit: Duration, statement: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(CANCEL_TIMEOUT + self.slack(), statement).await {
            Ok(answer) => answer,
            Err(_) => Err(self.overran(limit).await),
        }
    }

    /// Terminates the session of a statement that ignored a cancel request, and returns the error.
    async fn overran(&self, limit: Duration) -> Error {
        match self.end_overrun().await {
            Ok(Overrunning::Ended) => overrun("a statement of the job ignored a cancel request")
                .detail("The daemon terminated the session of the statement."),
            Ok(Overrunning::Unstoppable) => Error::new(
                Kind::ConnectionLost,
                "a statement of the job exceeded the time limit of a batch, and the server could not terminate its session",
            ),
            Ok(Overrunning::Unclear) | Err(_) => {
                let seconds = limit.as_secs_f32();
                Error::new(Kind::Unanswered, format!("the server did not respond within {seconds} s"))
            }
        }
    }

    /// Terminates the session after its statement has exceeded the time limit and ignored a cancel
    /// request. Finds out whether the statement is at fault. It is at fault only if the server
    /// responds promptly, is still running the same statement, and the statement does not wait for
    /// I/O, an internal lock, another process, a buffer pin or the client. Otherwise the answer may
    /// have been lost, or the server may have been suspended or slow.
    async fn end_overrun(&self) -> Result<Overrunning> {
        const LOOK: &str = "
select coalesce(a.query_start::pg_catalog.text, '') from pg_catalog.pg_stat_activity a
 where a.pid operator(pg_catalog.=) $1 and a.usename operator(pg_catalog.=) session_user and a.state operator(pg_catalog.!~~) 'idle%'
   and coalesce(a.wait_event_type operator(pg_catalog.<>) all (array['IO', 'LWLock', 'IPC', 'BufferPin', 'Client']), true)";
        let Some(pid) = self.pid else { return Ok(Overrunning::Unclear) };
        let other = self.open_another().await?;
        let look = within(CONNECT_TIMEOUT, other.client.prepare(LOOK)).await?;
        let prompt = PROMPT + self.slack();
        let look = async || {
            let row = within(prompt, other.client.query_opt(&look, &[&pid])).await?;
            row.map_or(Ok(None), |row| row.read::<String>(0).map(Some))
        };
        let seen = async {
            let first = look().await?;
            tokio::time::sleep(BETWEEN_LOOKS).await;
            Ok::<_, Error>((first, look().await?))
        };
        let seen = seen.await;
        let ended = end(&other, pid).await?;
        match seen? {
            (Some(first), Some(second)) if first == second => {
                Ok(if ended { Overrunning::Ended } else { Overrunning::Unstoppable })
            }
            _ => Ok(Overrunning::Unclear),
        }
    }

    /// Terminates the session from a second session of the same login. A login may terminate its
    /// own sessions without a further privilege.
    pub async fn terminate(&self) {
        let Some(pid) = self.pid else { return };
        let ended = async { end(&self.open_another().await?, pid).await };
        if let Err(error) = ended.await {
            tracing::warn!(error = %error.message, "could not terminate a session whose statement ignored a cancel request");
        }
    }

    /// Opens another session of the same login, on the same server.
    pub async fn open_another(&self) -> Result<Self> {
        let other = Box::pin(open(&self.info, |_| {})).await?;
        within(CONNECT_TIMEOUT, other.client.batch_execute("set role none")).await?;
        within(CONNECT_TIMEOUT, other.client.batch_execute(OUR_PATH)).await?;
        Ok(other)
    }
}

/// The result of terminating the session of a statement that ignored a cancel request.
enum Overrunning {
    /// The statement was still running when its session was terminated.
    Ended,
    /// The statement was still running, and its session could not be terminated.
    Unstoppable,
    /// The statement may have ended before its session was terminated, it was waiting for example
    /// for I/O, or the process ID of the session is unknown.
    Unclear,
}

/// Terminates the session with the process ID `pid`. Returns whether the session has ended within a
/// second.
async fn end(other: &Session, pid: i32) -> Result<bool> {
    const END: &str = "
select pg_catalog.pg_terminate_backend(a.pid, 1000)
  from pg_catalog.pg_stat_activity a where a.pid operator(pg_catalog.=) $1 and a.usename operator(pg_catalog.=) session_user";
    let row = within(CONNECT_TIMEOUT, other.client.query_opt(END, &[&pid])).await?;
    row.map_or(Ok(true), |row| row.read(0))
}

/// Returns the error of a statement of an executor's session:
/// - If the daemon's cancel request, and not the session's `statement_timeout`, ended the
///   statement, the error is [`Kind::Overrun`].
/// - If the job's code itself raised an error with an SQLSTATE that describes the server or the
///   job, the error is treated as an error of a row.
fn blame(error: Error, cancelled: bool) -> Error {
    if cancelled && error.kind == Kind::Cancelled {
        return overrun(
            "a statement of the job exceeded the time limit of a batch, and statement_timeout did not stop it",
        )
        .detail("The daemon cancelled the statement, and its changes were rolled back.");
    }
    error.disbelieved()
}

fn overrun(message: &str) -> Error {
    Error::new(Kind::Overrun, message)
        .hint("Look in the functions that the job calls, and in the triggers of its table, for code that sets statement_timeout, catches query_canceled, or loops without checking for interrupts.")
}
