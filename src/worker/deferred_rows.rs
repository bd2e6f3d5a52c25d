//! Retries the deferred rows after all other rows of the slice have been passed.

use tokio::time::Instant;

use crate::error::{Error, Kind, Result};
use crate::job::batch::RetryOutcome;
use crate::job::claim::{DeferredRow, SliceKind};
use crate::metrics::{self, Outcome as Counted};
use crate::queue::claim as queue;
use crate::worker::claim_end::{ClaimEnd, Step};
use crate::worker::claim_run::{Admitted, ClaimRun};
use crate::worker::error_policy::{
    Action, ONE_ROW_ATTEMPTS, OVERRUNS, PREPARE_ATTEMPTS, Response, SLOW_ROW_ATTEMPTS, action, cancelled, too_slow,
};
use crate::worker::handle_failure::counted;

/// Maximum number of rows that are retried in one transaction.
const RETRIED_AT_ONCE: i32 = 100;

impl ClaimRun<'_> {
    /// Retries the deferred rows. Rows that are still locked stay deferred and keep the slice from
    /// finishing. The queue offers the slice again later, and this worker can claim other slices in
    /// the meantime.
    pub(super) async fn retry_deferred_rows(&mut self) -> Result<ClaimEnd> {
        let mut last = 0;
        while self.progress.has_deferred_rows() && self.scope.claim.kind == SliceKind::Walk {
            if let Some(end) = self.must_end() {
                return Ok(end);
            }
            if let Step::End(end) = self.leave_share().await? {
                return Ok(end);
            }
            match self.admit().await? {
                Admitted::Go(_) => {}
                Admitted::AskAgain => continue,
                Admitted::End(end) => return Ok(end),
            }
            let control = &self.scope.context.control;
            let rows = queue::deferred_rows(control, self.scope.claim, last, RETRIED_AT_ONCE).await?;
            let Some(newest) = rows.last() else { break };
            last = newest.id;
            if let Step::End(end) = self.retry(&rows).await? {
                return Ok(end);
            }
        }
        Ok(ClaimEnd::Passed)
    }

    /// Retries the rows in one transaction. If this transaction fails, retries smaller and smaller
    /// groups of rows.
    async fn retry(&mut self, rows: &[DeferredRow]) -> Result<Step> {
        let mut groups: Vec<&[DeferredRow]> = vec![rows];
        while let Some(group) = groups.pop() {
            if let Some(end) = self.must_end() {
                return Ok(Step::End(end));
            }
            let started = Instant::now();
            let answer = self.retry_group(group).await;
            let took = started.elapsed();
            match &answer {
                Ok(retried) => self.gate.settle(retried.as_ref().map_or(0, |retried| retried.changed), took),
                Err(error) => self.gate.settle(0, self.executor.busy(error, took)),
            }
            let step = match answer {
                Ok(None) => {
                    groups.push(group);
                    self.poll_desired().await?
                }
                Ok(Some(retried)) => {
                    self.progress.failures.clear();
                    let (database, name) = (self.scope.context.database(), &self.scope.claim.name);
                    metrics::batch_done(database, name, Counted::Committed, retried.changed, 0, took);
                    metrics::rows_quarantined(database, name, retried.quarantined);
                    self.walk.checkpoint_moved(retried.ctid);
                    self.follow(retried.desired, retried.revision).await?
                }
                Err(error) => self.handle_retry_failure(group, &mut groups, error).await?,
            };
            if let Step::End(_) = step {
                return Ok(step);
            }
        }
        Ok(Step::Continue)
    }

    async fn retry_group(&mut self, group: &[DeferredRow]) -> Result<Option<RetryOutcome>> {
        let mut answer = self.attempt_deferred(group).await;
        if let Err(error) = &answer
            && self.becomes_lenient(error)
        {
            answer = self.attempt_deferred(group).await;
        }
        if let (Err(error), [row]) = (&answer, group)
            && let Some(cause) = self.why_never(error)
        {
            let (claim, checkpoint) = (self.scope.claim, self.walk.checkpoint());
            return self.executor.quarantine_deferred(claim, checkpoint, row, &cause).await.map(Some);
        }
        answer
    }

    /// Returns the error with which to quarantine one deferred row, if the failure shows that a
    /// later retry would not succeed. Otherwise returns none.
    fn why_never(&self, error: &Error) -> Option<Error> {
        match action(error.kind).0 {
            Action::Isolate | Action::Doubt => Some(error.clone()),
            // The job's code raised the error itself. Even if the error reports a locked row, no
            // other session has locked the deferred row, because this statement has locked it.
            _ if error.is_raised && error.kind != Kind::Fenced => Some(error.clone()),
            _ if error.kind == Kind::Cancelled && self.progress.failures.of(error.kind) >= ONE_ROW_ATTEMPTS => {
                Some(cancelled(error.clone()))
            }
            Action::TooSlow if self.progress.failures.of(error.kind) + 1 >= SLOW_ROW_ATTEMPTS => {
                Some(too_slow(error.clone(), self.settings.row_limit()))
            }
            _ => None,
        }
    }

    /// Handles a failed retry. Rows that are to be tried again now are added to `groups`.
    async fn handle_retry_failure<'r>(
        &mut self,
        group: &'r [DeferredRow],
        groups: &mut Vec<&'r [DeferredRow]>,
        error: Error,
    ) -> Result<Step> {
        let tries = match error.kind {
            Kind::TimeLimit if group.len() > 1 => self.progress.failures.add_slow_batch(),
            kind => self.progress.failures.add(kind),
        };
        let (what, sentence) = action(error.kind);
        self.log_failure(&error, counted(Response::Wait, error.kind));
        match what {
            Action::Again | Action::GoAround | Action::Isolate | Action::Doubt | Action::TooSlow if group.len() > 1 => {
                groups.extend(group.chunks(group.len().div_ceil(2)));
            }
            // A later retry would take just as long and would be cancelled again, so the row is
            // tried again now.
            Action::TooSlow => {
                groups.push(group);
                return self.wait(error.kind, sentence, None).await;
            }
            Action::Again if error.kind == Kind::Cancelled => {
                groups.push(group);
                return self.wait(error.kind, sentence, None).await;
            }
            // The row stays deferred.
            Action::Again | Action::GoAround => return self.poll_desired().await,
            Action::Prepare if tries < PREPARE_ATTEMPTS => {
                self.executor.forget_statements();
                groups.push(group);
            }
            Action::Restart if tries < OVERRUNS => return Ok(self.restart(&error, None)),
            Action::Stop => return Err(self.ask_for_holder(error).await?),
            _ => return Err(error),
        }
        Ok(Step::Continue)
    }
}
