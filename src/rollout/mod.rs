//! Carries out rollouts: the staged life of a column. The function `backfill._claim_rollout`
//! decides what comes next, and does everything that needs no statement on the table. This module
//! runs the statements that it returns, one at a time, as the owner of the table.

mod queue;
mod statement;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::job::rollout::Step;
use crate::pg::clock::ServerClock;
use crate::pg::control::Control;
use crate::pg::pools::Logins;
use crate::window::{self, Window};

/// Time between two attempts to claim a rollout.
const POLL: Duration = Duration::from_millis(500);
/// Time for which a claim of a rollout lasts without a renewal.
const TTL: Duration = Duration::from_secs(30);
/// Time between two renewals, and between two checks whether the rollout was paused.
const RENEW: Duration = Duration::from_secs(2);

/// The resources for the rollouts of one database. All clones share the held tokens.
#[derive(Debug, Clone)]
pub struct Rollouts {
    pub logins: Logins,
    pub control: Control,
    pub worker: Uuid,
    /// The roles as which this daemon runs statements.
    pub roles: Vec<String>,
    pub held: Held,
    /// Time window in which work on the database is allowed.
    pub window: Option<Window>,
    /// The clock that the window follows.
    pub clock: ServerClock,
}

/// The tokens of the rollouts that this daemon holds.
#[derive(Debug, Clone, Default)]
pub struct Held {
    tokens: Arc<Mutex<HashSet<Uuid>>>,
    polling: Arc<tokio::sync::Mutex<()>>,
}

impl Held {
    fn with<T>(&self, change: impl FnOnce(&mut HashSet<Uuid>) -> T) -> T {
        change(&mut self.tokens.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Rollouts {
    /// Carries out rollouts until `stop`. A statement in progress is then cancelled if it is a long
    /// one, and otherwise finished. Of the tasks that run this function, only one polls at a time.
    pub async fn run(self, stop: CancellationToken) {
        while let Some(polling) = stop.run_until_cancelled(self.held.polling.lock()).await {
            let Some(step) = stop.run_until_cancelled(self.next()).await else { return };
            self.held.with(|held| held.insert(step.token));
            drop(polling);
            let span = tracing::error_span!("rollout", rollout.name = %step.name, rollout.stage = %step.stage);
            let ended = Box::pin(self.carry_out(&step, &stop)).instrument(span).await;
            self.held.with(|held| held.remove(&step.token));
            if let Err(error) = ended {
                tracing::warn!(error = %error.message, "the outcome of a statement could not be stored: retrying");
            }
        }
    }

    /// Polls until a rollout can be claimed, and returns its next statement.
    async fn next(&self) -> Step {
        let mut failures = 0_u32;
        loop {
            let tokens: Vec<Uuid> = self.held.with(|held| held.iter().copied().collect());
            let is_open = window::closed_until(&self.window, self.clock.now()).is_none();
            let claimed = match is_open {
                true => queue::claim(&self.control, self.worker, &self.roles, &tokens, TTL).await,
                false => Ok(None),
            };
            match claimed {
                Ok(Some(step)) => return step,
                Ok(None) => failures = 0,
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        tracing::warn!(error = %error.message, "a rollout could not be claimed: retrying");
                    }
                }
            }
            tokio::time::sleep((POLL * (failures + 1)).min(Duration::from_secs(10))).await;
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

    /// Runs the statement, and meanwhile renews the lease. A long statement is cancelled if the
    /// rollout was paused or rolled back meanwhile, or if the daemon stops.
    async fn with_lease(&self, step: &Step, stop: &CancellationToken) -> Result<()> {
        let session = statement::open(&self.logins, step).await?;
        let limit = crate::pg::session::batch_limit(&self.control).await? / 2;
        let mut running = std::pin::pin!(statement::run(&session, step, limit));
        loop {
            let interrupted = tokio::select! {
                biased;
                ended = &mut running => return ended,
                () = stop.cancelled(), if step.lock.blocking().is_none() => "the daemon stops",
                () = tokio::time::sleep(RENEW) => match queue::renew(&self.control, step, TTL).await {
                    Ok(false) if step.lock.blocking().is_none() => "the rollout was paused or rolled back",
                    Ok(_) => continue,
                    Err(error) => {
                        tracing::debug!(error = %error.message, "could not renew the lease of a rollout");
                        continue;
                    }
                },
            };
            session.cancel().await;
            let _ = tokio::time::timeout(Duration::from_secs(2), &mut running).await;
            return Err(Error::new(Kind::Cancelled, interrupted));
        }
    }

    /// Returns what a statement waits for after a temporary failure.
    async fn waits(&self, step: &Step, error: &Error) -> String {
        if !matches!(error.kind, Kind::LockTimeout | Kind::Deadlock | Kind::Cancelled | Kind::TimeLimit) {
            return format!("{}; retrying", error.message);
        }
        match queue::sessions_with_locks(&self.control, step.relation).await {
            Ok(Some(sessions)) => {
                format!("waiting for a lock on table {}; sessions that use the table: {sessions}", step.target)
            }
            _ => format!("waiting for a lock on table {} ({})", step.target, error.message),
        }
    }
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
