//! Runs a batch. A batch of one row may run for as long as the option `max_row_ms` allows. While
//! such a batch runs, the worker checks whether the job is paused or cancelled, whether its options
//! have changed, whether a job of another role needs the worker, and whether the answer to the
//! batch was lost.

use std::pin::pin;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};
use crate::job::batch::{Batch, Outcome, RetryOutcome};
use crate::job::claim::{Claim, DeferredRow, Desired};
use crate::pg::control::Control;
use crate::pg::session::{self, Activity};
use crate::queue::claim as queue;
use crate::queue::lease::Lease;
use crate::worker::claim_run::ClaimRun;
use crate::worker::context::Context;
use crate::worker::share;

/// Time for which a batch of one row runs before the first check, and time between two checks.
const CHECK: Duration = Duration::from_secs(1);

/// The reason to stop waiting for a batch of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// The job was paused or cancelled, its options were changed, another worker holds the slice,
    /// or the claim must end in favour of another role.
    Job,
    /// The session of the batch is idle or has ended, but its answer has not arrived.
    Session,
}

impl ClaimRun<'_> {
    /// Runs the batch. Returns none if a batch of one row was cancelled for one of the reasons of
    /// [`Change::Job`].
    pub(super) async fn attempt(&mut self, batch: &Batch) -> Result<Option<Outcome>> {
        let (context, claim, lease) = (&*self.scope.context, self.scope.claim, self.scope.lease);
        let hard = self.scope.stop.hard.child_token();
        let pid = self.executor.session().pid();
        let run = Box::pin(self.executor.run(claim, batch, &hard));
        if batch.rows > 1 {
            return run.await.map(Some);
        }
        unless_changed(run, &hard, Box::pin(until_change(context, claim, lease, self.settings.revision, pid))).await
    }

    /// Retries deferred rows. Returns none in the same cases as [`Self::attempt`].
    pub(super) async fn attempt_deferred(&mut self, rows: &[DeferredRow]) -> Result<Option<RetryOutcome>> {
        let (context, claim, lease) = (&*self.scope.context, self.scope.claim, self.scope.lease);
        let hard = self.scope.stop.hard.child_token();
        let pid = self.executor.session().pid();
        let run = Box::pin(self.executor.retry_deferred(claim, self.walk.checkpoint(), rows, &hard));
        if rows.len() > 1 {
            return run.await.map(Some);
        }
        unless_changed(run, &hard, Box::pin(until_change(context, claim, lease, self.settings.revision, pid))).await
    }
}

/// Runs the statement of one row. If the job changes meanwhile, cancels the statement with `hard`
/// and returns none.
async fn unless_changed<T>(
    run: impl Future<Output = Result<T>>,
    hard: &CancellationToken,
    change: impl Future<Output = Change>,
) -> Result<Option<T>> {
    let mut run = pin!(run);
    let change = tokio::select! {
        biased;
        tried = &mut run => return tried.map(Some),
        change = change => change,
    };
    match change {
        Change::Job => {
            hard.cancel();
            match run.await {
                Err(error) if matches!(error.kind, Kind::Cancelled | Kind::TimeLimit | Kind::Stalled) => Ok(None),
                tried => tried.map(Some),
            }
        }
        Change::Session => {
            Err(Error::new(Kind::Unanswered, "the server's answer to a statement that changes one row was lost"))
        }
    }
}

/// Waits until the job or the session of the batch has changed. `revision` is the revision of the
/// options that the claim uses, and `pid` the process ID of the session. If a check fails, it is
/// repeated, because the failure says nothing about the state of the batch.
async fn until_change(context: &Context, claim: &Claim, lease: &Lease, revision: i32, pid: Option<i32>) -> Change {
    tokio::select! {
        () = share::until_owed(context, lease) => Change::Job,
        change = until_change_of_job(&context.control, claim, revision, pid) => change,
    }
}

async fn until_change_of_job(control: &Control, claim: &Claim, revision: i32, pid: Option<i32>) -> Change {
    let mut idle_since = None;
    loop {
        tokio::time::sleep(CHECK).await;
        match queue::poll_claim(control, claim).await {
            Ok(Some((Desired::Running, now))) if now == revision => {}
            Ok(_) => return Change::Job,
            Err(error) => {
                tracing::debug!(error = %error.message, "could not check the job while a batch runs");
                continue;
            }
        }
        let Some(pid) = pid else { continue };
        match session::activity(control, pid).await {
            // The answer may still be on its way, so the session counts as idle only if two checks
            // in a row find it idle since the same time.
            Ok(Activity::Idle { since }) if idle_since.as_ref() == Some(&since) => return Change::Session,
            Ok(Activity::Idle { since }) => idle_since = Some(since),
            Ok(Activity::Unknown) => idle_since = None,
            Err(error) => tracing::debug!(error = %error.message, "could not check the session of a batch"),
        }
    }
}
