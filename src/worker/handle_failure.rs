//! Carries out the response that the error policy chooses for a batch that failed.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Kind, Result};
use crate::job::batch::{Batch, BatchMode};
use crate::job::claim::SliceKind;
use crate::job::plan::Kind as JobKind;
use crate::job::put_off::PutOff;
use crate::key::Key;
use crate::metrics::{self, Outcome as Counted};
use crate::queue::claim as queue;
use crate::queue::daemon;
use crate::worker::claim_end::{ClaimEnd, Step};
use crate::worker::claim_run::ClaimRun;
use crate::worker::error_policy::{
    Action, FailedBatch, OVERRUNS, PREPARE_ATTEMPTS, Response, action, backoff, respond, told, waits_for,
};
use crate::worker::interrupted::{AFTER, Interruption, LONGEST};
use crate::worker::release::end_session;

/// Maximum time between two attempts of a batch. The worker checks for a pause or a cancel of the
/// job only after this time, so a longer time would delay both.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Returns the outcome under which the metric counts a failed batch.
pub(super) fn counted(response: Response, kind: Kind) -> Counted {
    match response {
        _ if kind == Kind::Fenced => Counted::Fenced,
        _ if kind == Kind::Yielded => Counted::Yielded,
        _ if action(kind).0 == Action::Reconnect => Counted::Lost,
        Response::Narrow | Response::NarrowQuickly => Counted::Split,
        Response::Fail(_) => Counted::Failed,
        _ => Counted::Retried,
    }
}

impl ClaimRun<'_> {
    /// Handles a batch that failed after the time `took`. `key` is given if the batch consists of
    /// the one row with this key. Returns the error if the error ends the claim.
    pub(super) async fn handle_failure(
        &mut self,
        batch: &Batch,
        key: Option<&Key>,
        took: Duration,
        error: Error,
    ) -> Result<Step> {
        // A batch that works row by row does not raise this error itself, so the job's code raised
        // it.
        let error = match error.kind {
            Kind::Unmatched if batch.mode == BatchMode::PerRow => Error { kind: Kind::Data, ..error },
            _ => error,
        };
        if self.becomes_lenient(&error) {
            return Ok(Step::Continue);
        }
        let tries = match error.kind {
            Kind::TimeLimit if batch.rows > 1 => self.progress.failures.add_slow_batch(),
            kind => self.progress.failures.add(kind),
        };
        self.progress.failures.count_without_row(self.walk.stands_alone() && key.is_none());
        let failed = FailedBatch {
            kind: error.kind,
            tries,
            walking: self.scope.claim.kind == SliceKind::Walk,
            rows: batch.rows,
            is_known_row: key.is_some(),
            without_row: self.progress.failures.without_row(),
            doubted_rows: self.progress.failures.doubted_rows(),
        };
        let response = respond(failed);
        self.log_failure(&error, counted(response, error.kind));
        match (response, key) {
            (Response::Prepare, _) => self.executor.forget_statements(),
            (Response::Narrow, _) => self.walk.narrow(batch.rows),
            (Response::NarrowQuickly, _) => self.walk.narrow_quickly(batch.rows),
            (Response::Quarantine { cause, doubted }, Some(key)) => {
                if doubted {
                    self.progress.failures.doubt_row();
                }
                let error = cause.tell(batch, error, self.settings.row_limit());
                return self.skip_row(batch, key, Some(&error)).await;
            }
            (Response::Defer, _) => return self.defer_locked_rows(batch, key, &error).await,
            (Response::Wait, _) => return self.wait(error.kind, &told(&error), Some(batch)).await,
            (Response::PerRow, _) => self.walk.per_row(),
            (Response::Restart, _) => return Ok(self.restart(&error, Some(batch))),
            (Response::GiveWay, _) => {
                end_session(self.scope.context, self.scope.claim).await;
                return Ok(self.restart(&error, Some(batch)));
            }
            (Response::AskForHolder, _) => return Err(self.ask_for_holder(error).await?),
            (Response::RecordLoss, _) => {
                self.scope.context.losses.add(self.scope.claim.slice_id, batch, key.is_some(), took, &error);
                return Err(error);
            }
            (Response::Fail(cause), _) => return Err(cause.tell(batch, error, self.settings.row_limit())),
            (Response::Quarantine { .. }, None) => return Err(error),
        }
        Ok(Step::Continue)
    }

    /// Returns true if the error may have been raised because a batch evaluates the filter again on
    /// the rows that it has changed. The following batches then omit this evaluation, because a
    /// plain UPDATE of the whole table would not evaluate the filter on changed rows either. If the
    /// next batch fails as well, a row or the statement is at fault.
    pub(super) fn becomes_lenient(&mut self, error: &Error) -> bool {
        let is_of_code = matches!(action(error.kind).0, Action::Isolate | Action::Doubt) || error.is_raised;
        let may_come_from_the_filter = is_of_code
            && error.kind != Kind::Fenced
            && self.plan.filter.is_some()
            && self.plan.kind == JobKind::Update
            && !self.executor.is_lenient();
        if may_come_from_the_filter {
            tracing::debug!(error = %error.message, "a batch failed; retrying without evaluating the filter on the changed rows");
            self.executor.set_lenient(true);
        }
        may_come_from_the_filter
    }

    /// Ends the claim after a statement exceeded its time limit and this daemon cancelled the
    /// statement or terminated its session, or after its answer did not arrive. If `failed` is
    /// given, the next claim begins with fewer rows than this batch.
    pub(super) fn restart(&mut self, error: &Error, failed: Option<&Batch>) -> Step {
        if let Some(batch) = failed {
            self.walk.narrow(batch.rows);
        }
        Step::End(self.give_way(error.kind, action(error.kind).1))
    }

    fn shrink(&mut self) {
        self.gate.shrink();
        self.walk.shrink();
    }

    /// Defers locked rows by switching to batches that work row by row. If such a batch fails too,
    /// the batch is halved until the locked row is isolated, and only this row is deferred. The
    /// worker waits instead in these cases:
    ///
    /// - The slice belongs to a verification.
    /// - The slice has reached its limit of deferred rows.
    /// - Another session has locked the whole table.
    /// - The batch should have contained only the isolated row, but contained no row.
    async fn defer_locked_rows(&mut self, batch: &Batch, key: Option<&Key>, error: &Error) -> Result<Step> {
        let sentence = action(error.kind).1;
        if self.scope.claim.kind != SliceKind::Walk || !self.progress.may_defer_more() {
            return self.wait(error.kind, sentence, Some(batch)).await;
        }
        if batch.mode == BatchMode::Fast {
            self.walk.per_row();
            return Ok(Step::Continue);
        }
        // Without this check, if another session locked the whole table, the worker would defer all
        // rows, one after another.
        if let Err(locked) = self.executor.table_is_free().await {
            let sentence = "the table is locked by another session: waiting for it";
            return match action(locked.kind).0 {
                Action::GoAround => self.wait(locked.kind, sentence, Some(batch)).await,
                _ => Err(locked),
            };
        }
        match key {
            Some(key) => self.skip_row(batch, key, None).await,
            None if self.progress.failures.without_row() > 0 => self.wait(error.kind, sentence, None).await,
            None => {
                self.walk.narrow(batch.rows);
                Ok(Step::Continue)
            }
        }
    }

    /// Passes one row without changing it. If `error` is given, the row is quarantined. Otherwise
    /// the row is deferred.
    pub(super) async fn skip_row(&mut self, batch: &Batch, key: &Key, error: Option<&Error>) -> Result<Step> {
        let started = Instant::now();
        match self.executor.skip_row(self.scope.claim, batch, key, error).await {
            Ok(Some(outcome)) => {
                self.walk.row_skipped(&outcome);
                self.executor.set_lenient(false);
                self.scope.context.losses.forget(self.scope.claim.slice_id);
                self.committed(&outcome, started.elapsed()).await
            }
            // The row was deleted, or another row was inserted before it. The next batch begins
            // with the row that is now the first.
            Ok(None) => Ok(Step::Continue),
            Err(error) => match action(error.kind) {
                (Action::Again | Action::GoAround | Action::TooSlow, sentence) => {
                    self.wait(error.kind, sentence, None).await
                }
                (Action::Prepare, _) if self.progress.failures.add(error.kind) < PREPARE_ATTEMPTS => {
                    self.executor.forget_statements();
                    Ok(Step::Continue)
                }
                (Action::Restart, _) if self.progress.failures.add(error.kind) < OVERRUNS => {
                    Ok(self.restart(&error, None))
                }
                (Action::Stop, _) => Err(self.ask_for_holder(error).await?),
                _ => Err(error),
            },
        }
    }

    /// Finds out why the checkpoint could not be moved:
    ///
    /// - The worker no longer holds the slice. The error is returned unchanged.
    /// - The stored checkpoint is not the one that the worker knows. An earlier batch committed,
    ///   but its answer was lost. The claim ends, and the next claim reads the checkpoint again.
    /// - The daemon is not registered, because the schema was dropped and installed again. The
    ///   claim ends, and the daemon registers again.
    /// - None of this is the case, so the job's own code raised the error. The error counts as an
    ///   error of the row.
    pub(super) async fn ask_for_holder(&self, error: Error) -> Result<Error> {
        let control = &self.scope.context.control;
        let Some(stored) = queue::checkpoint_ctid(control, self.scope.claim).await? else { return Ok(error) };
        if stored != self.walk.checkpoint().ctid {
            return Ok(Error::new(Kind::Unanswered, "a batch was committed, but the server's answer was lost"));
        }
        let context = &*self.scope.context;
        if !daemon::is_registered(control, context.leases.worker(), &context.settings.roles).await? {
            return Ok(Error::new(Kind::Unanswered, "the registration of the daemon was removed"));
        }
        let hint =
            "No other daemon holds the slice. Look for a function or trigger of the table that raises this error.";
        Ok(Error { kind: Kind::Data, hint: Some(hint.to_owned()), ..error }
            .redacted("a row could not be changed", None))
    }

    /// Waits for a moment before the next attempt. After several failures, ends the claim instead,
    /// so that the worker can claim another slice in the meantime. If `failed` is given, the next
    /// batch has fewer rows than the failed batch, except after [`Kind::TimeLimit`].
    pub(super) async fn wait(&mut self, kind: Kind, sentence: &str, failed: Option<&Batch>) -> Result<Step> {
        if let Some(batch) = failed.filter(|_| kind != Kind::TimeLimit) {
            self.shrink();
            // One of the rows may be too slow, so the next claim searches for this row. Without
            // this call, it would begin with a large batch again.
            if self.progress.failures.in_a_row() > AFTER && matches!(kind, Kind::Cancelled | Kind::Yielded) {
                self.walk.narrow(batch.rows);
            }
        }
        if self.progress.failures.in_a_row() > AFTER {
            return Ok(Step::End(self.give_way(kind, sentence)));
        }
        self.report(Some((waits_for(kind).to_owned(), sentence.to_owned())));
        let pause = backoff(self.progress.failures.in_a_row()).min(LONGEST_PAUSE);
        let _ = self.scope.stop.drain.run_until_cancelled(tokio::time::sleep(pause)).await;
        self.poll_desired().await
    }

    fn give_way(&mut self, kind: Kind, sentence: &str) -> ClaimEnd {
        let failures = std::mem::take(&mut self.progress.failures);
        let pause = backoff(failures.in_a_row()).min(LONGEST);
        let position = self.walk.position().cloned();
        let waiting = (waits_for(kind), sentence.to_owned());
        let interruption = Interruption { position, waiting: waiting.clone(), failures, search: self.walk.search() };
        self.scope.context.interrupted.keep(self.scope.claim.slice_id, interruption);
        ClaimEnd::PutOff(PutOff { waiting: Some(waiting), pause, counts: false })
    }

    /// Counts a failure. Logs the response to the failure at most once a minute for each job and
    /// kind of error. An error that ends the claim is logged by the code that ends the claim.
    pub(super) fn log_failure(&self, error: &Error, counted: Counted) {
        let (context, claim) = (&*self.scope.context, self.scope.claim);
        metrics::batch_done(context.database(), &claim.name, counted, 0, 0, Duration::ZERO);
        let (what, sentence) = action(error.kind);
        if !matches!(what, Action::Reconnect | Action::Stop | Action::Fail)
            && context.log_limiter.is_news(claim.job_id, error.kind)
        {
            tracing::info!(error = %error.message, "{sentence}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::error_policy::Cause;

    #[test]
    fn each_outcome_of_a_failed_batch_is_counted() {
        for (response, kind, expected) in [
            (Response::Wait, Kind::Cancelled, Counted::Retried),
            (Response::Wait, Kind::Yielded, Counted::Yielded),
            (Response::Narrow, Kind::Data, Counted::Split),
            (Response::RecordLoss, Kind::ConnectionLost, Counted::Lost),
            (Response::Fail(Cause::AsItIs), Kind::TooManyConnections, Counted::Lost),
            (Response::AskForHolder, Kind::Fenced, Counted::Fenced),
            (Response::Fail(Cause::Row), Kind::Data, Counted::Failed),
        ] {
            assert_eq!(counted(response, kind), expected, "{response:?} {kind:?}");
        }
    }
}
