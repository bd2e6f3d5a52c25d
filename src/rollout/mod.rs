//! Carries out rollouts: the staged life of a column. The function `backfill._claim_rollout`
//! decides what comes next, and does everything that needs no statement on the table. This module
//! runs the statements that it returns, one at a time, as the owner of the table.

mod queue;
mod statement;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::job::rollout::Step;
use crate::pg::clock::ServerClock;
use crate::pg::connect::Session;
use crate::pg::control::Control;
use crate::pg::pools::Logins;
use crate::pg::session;
use crate::window::{self, Window};

/// Number of rollouts whose statements may run at the same time. Creating an index can take hours,
/// and other rollouts should not have to wait for it.
pub const AT_ONCE: usize = 3;
/// Number of these rollouts that may belong to the same role, so that the slow statements of one
/// role do not stop the rollouts of the others.
const SHARE: usize = AT_ONCE - 1;
/// Time between two attempts to claim a rollout. For `WHILE` after the end of a statement, the
/// daemon polls every `SOON` instead, because the next statement is usually ready soon.
const POLL: Duration = Duration::from_millis(500);
const SOON: Duration = Duration::from_millis(100);
const WHILE: Duration = Duration::from_secs(10);
/// Time for which a claim of a rollout lasts without a renewal.
const TTL: Duration = Duration::from_secs(30);
/// Time between two renewals of the lease. A renewal also checks whether the rollout was paused or
/// rolled back.
const RENEW: Duration = Duration::from_secs(2);
/// Time between two checks of whether a short statement holds its lock on the table. If two
/// successive checks find that the statement holds the lock, the daemon cancels the statement.
/// Usually `statement_timeout` ends the statement earlier, but the user's code can change this
/// setting.
const CHECK_LOCK: Duration = Duration::from_millis(700);
/// If a statement has not ended this long after a cancel request, its session is terminated.
const CANCEL: Duration = Duration::from_secs(1);

/// The resources for the rollouts of one database. All clones share the held tokens.
#[derive(Debug, Clone)]
pub struct Rollouts {
    pub logins: Logins,
    pub control: Control,
    pub worker: Uuid,
    /// The roles that this daemon can run statements as. It claims only rollouts of these roles.
    pub roles: Vec<String>,
    pub held: Held,
    /// Time window in which work on the database is allowed.
    pub window: Option<Window>,
    /// The clock that the window follows.
    pub clock: ServerClock,
}

/// The tokens of the rollouts that this daemon holds, each with the role of the rollout.
#[derive(Debug, Clone, Default)]
pub struct Held {
    tokens: Arc<Mutex<HashMap<Uuid, String>>>,
    polling: Arc<tokio::sync::Mutex<()>>,
}

impl Held {
    fn with<T>(&self, change: impl FnOnce(&mut HashMap<Uuid, String>) -> T) -> T {
        change(&mut self.tokens.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the tokens, and the roles with as many held rollouts as one role is allowed.
    fn read(&self) -> (Vec<Uuid>, Vec<String>) {
        self.with(|held| {
            let is_at_share = |role: &&String| held.values().filter(|other| other == role).count() >= SHARE;
            (held.keys().copied().collect(), held.values().filter(is_at_share).cloned().collect())
        })
    }
}

impl Rollouts {
    /// Carries out rollouts until `stop` is cancelled. A long statement in progress is then
    /// cancelled, and a short one is allowed to finish. Several tasks run this function, but only
    /// one of them polls at a time.
    pub async fn run(self, stop: CancellationToken) {
        let mut last = None;
        while let Some(polling) = stop.run_until_cancelled(self.held.polling.lock()).await {
            let Some(step) = stop.run_until_cancelled(self.next(last)).await else { return };
            self.held.with(|held| held.insert(step.token, step.run_as.clone()));
            drop(polling);
            let span = tracing::error_span!("rollout", rollout.name = %step.name, rollout.stage = %step.stage);
            let ended = Box::pin(self.carry_out(&step, &stop)).instrument(span).await;
            self.held.with(|held| held.remove(&step.token));
            last = Some(Instant::now());
            if let Err(error) = ended {
                tracing::warn!(error = %error.message, "the outcome of a statement could not be stored: retrying");
            }
        }
    }

    /// Polls until a rollout can be claimed, and returns its next statement. `last` is the time at
    /// which the last statement ended.
    async fn next(&self, last: Option<Instant>) -> Step {
        let mut failures = 0_u32;
        loop {
            let (tokens, at_share) = self.held.read();
            let is_open = window::closed_until(&self.window, self.clock.now()).is_none();
            let claimed = match is_open {
                true => queue::claim(&self.control, self.worker, &self.roles, &tokens, &at_share, TTL).await,
                false => Ok(None),
            };
            match claimed {
                Ok(Some(step)) => return step,
                Ok(None) => failures = 0,
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        tracing::warn!(error = %error.message, "could not claim a rollout; retrying");
                    }
                }
            }
            let poll = if last.is_some_and(|last| last.elapsed() < WHILE) { SOON } else { POLL };
            tokio::time::sleep((poll * (failures + 1)).min(Duration::from_secs(10))).await;
        }
    }

    async fn carry_out(&self, step: &Step, stop: &CancellationToken) -> Result<()> {
        failpoint::point("rollout_claimed")?;
        let ended = Box::pin(self.with_lease(step, stop)).await;
        failpoint::point("rollout_statement_ended")?;
        let error = match ended {
            Ok(()) if queue::release(&self.control, step).await? => {
                tracing::info!(sql = %step.sql, "statement done");
                return Ok(());
            }
            Ok(()) => Error::new(Kind::Internal, "the statement ended, but was not recorded"),
            Err(error) => error,
        };
        if error.kind == Kind::Fenced {
            tracing::warn!("{}", error.message);
            return Ok(());
        }
        let waits = match is_temporary(error.kind) {
            true => Some(self.waits(step, &error).await),
            false => None,
        };
        match &waits {
            Some(waits) if step.attempts <= 1 => tracing::info!(sql = %step.sql, "{waits}"),
            Some(_) => {}
            None => tracing::error!(sql = %step.sql, "rollout failed: {}", error.message),
        }
        queue::failed(&self.control, step, &error, waits.as_deref()).await
    }

    /// Runs the statement, and renews the lease while the statement runs. A long statement is
    /// cancelled if the rollout is paused or rolled back, or if the daemon stops. A short statement
    /// is cancelled if it does not release its lock. If a cancelled statement does not end, its
    /// session is terminated.
    async fn with_lease(&self, step: &Step, stop: &CancellationToken) -> Result<()> {
        let session = statement::open(&self.logins, step).await?;
        let backend = session::backend(&session).await?;
        queue::register_backend(&self.control, step, &backend).await?;
        let limit = session::batch_limit(&self.control).await? / 2;
        let attempt =
            statement::Attempt { session: &session, pid: backend.pid, control: &self.control, step, limit, stop };
        let mut running = std::pin::pin!(attempt.run());
        let (mut renewals, mut checks) = (every(RENEW), every(CHECK_LOCK));
        let mut has_lock = false;
        loop {
            let interrupted = tokio::select! {
                biased;
                ended = &mut running => {
                    if ended.as_ref().is_err_and(|error| error.sqlstate.is_none()) {
                        self.end(&session, step).await;
                    }
                    return ended;
                }
                () = stop.cancelled(), if step.lock.blocking().is_none() => "the daemon stops",
                _ = checks.tick(), if step.lock.blocking().is_some() && !step.alone => {
                    let had_lock = has_lock;
                    has_lock = match queue::blocks_writes(&self.control, backend.pid, step.relation).await {
                        Ok(has_lock) => has_lock,
                        Err(error) => {
                            tracing::debug!(error = %error.message, "could not check the lock of a rollout's statement");
                            false
                        }
                    };
                    if !(had_lock && has_lock) {
                        continue;
                    }
                    "the statement did not release its lock on the table"
                }
                _ = renewals.tick() => match queue::renew(&self.control, step, TTL).await {
                    Ok(false) if step.lock.blocking().is_none() => "the rollout was paused or rolled back",
                    Ok(_) => continue,
                    Err(error) => {
                        tracing::debug!(error = %error.message, "could not renew the lease of a rollout");
                        continue;
                    }
                },
            };
            session.cancel().await;
            match tokio::time::timeout(CANCEL, &mut running).await {
                // The statement ended just before the cancel request.
                Ok(Ok(())) => return Ok(()),
                Ok(Err(_cancelled)) => {}
                Err(_) => self.end(&session, step).await,
            }
            return Err(Error::new(Kind::Cancelled, interrupted));
        }
    }

    /// Terminates the session of a statement that may still be running.
    async fn end(&self, session: &Session, step: &Step) {
        session.terminate().await;
        if let Err(error) = queue::end_session(&self.control, step).await {
            tracing::debug!(error = %error.message, "could not terminate the session of a rollout's statement");
        }
    }

    /// Returns what a statement waits for after a temporary failure.
    async fn waits(&self, step: &Step, error: &Error) -> String {
        let cause = match error.kind {
            Kind::LockTimeout | Kind::Deadlock => format!("waiting for a lock on table {}", step.target),
            Kind::TimeLimit => format!(
                "the statement was cancelled, because it waited too long for its locks on table {} or held them too long; retrying",
                step.target
            ),
            Kind::Cancelled => return error.message.clone(),
            _ => return format!("{}; retrying", error.message),
        };
        match queue::sessions_with_locks(&self.control, step.relation).await {
            Ok(Some(sessions)) => {
                format!("{cause}; sessions that use the table: {sessions}")
            }
            _ => format!("{cause} ({})", error.message),
        }
    }
}

/// Returns an interval whose first tick is after the first period.
fn every(period: Duration) -> tokio::time::Interval {
    tokio::time::interval_at(Instant::now() + period, period)
}

/// Returns whether the statement is tried again after an error of this kind.
fn is_temporary(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::LockTimeout
            | Kind::Deadlock
            | Kind::Serialization
            | Kind::Cancelled
            | Kind::TimeLimit
            | Kind::Stalled
            | Kind::ConnectionLost
            | Kind::Unanswered
            | Kind::Pooled
            | Kind::Tls
            | Kind::ServerUnavailable
            | Kind::ServerResources
            | Kind::ReadOnly
            | Kind::TooManyConnections
            | Kind::Authentication
    )
}
