//! A batch that failed: again, smaller, around what is locked, past what can't be changed, or not at all, as the table of
//! errors says.

use std::time::Duration;

use tokio::time::Instant;

use super::{End, Work};
use crate::error::{Error, Kind, Result};
use crate::job::claim::SliceKind;
use crate::job::retry::{Action, action, at_fault, backoff, of_no_row, of_the_statement, too_slow, waits_for};
use crate::key::{Batch, BatchMode, Key};
use crate::metrics::{self, Outcome as Counted};
use crate::pg::session;
use crate::queue::claim as queue;

/// Between two tries of a batch: a pause or a cancel must not wait longer for a row that somebody has locked.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// A batch of one row that ran out of time this often is not going to be quicker.
pub(super) const ONE_ROW_ATTEMPTS: u32 = 25;
/// A batch that outlived its cancel this often does so by its nature.
pub(super) const OVERRUNS: u32 = 3;
/// Statements that were prepared this often in a row and are still stale will not fit the table next time either.
pub(super) const PREPARE_ATTEMPTS: u32 = 5;
/// A row that came just then may be the one that failed; not this often.
const ROWLESS_ATTEMPTS: u32 = 3;
/// So many rows one after the other are not at fault; the statement is.
const DOUBTED_ROWS: u32 = 10;
/// REPEATABLE READ meets other writers; only when it goes on are rows set aside for it.
const SERIALIZATION_ATTEMPTS: u32 = 3;
/// Beyond so many rows set aside somebody has the table for themselves: the walk waits for them.
pub(super) const MOST_ASIDE: u64 = 10_000;
/// A row for which somebody had to wait this often, alone, is returned to when nobody does.
const YIELDS_OF_ONE_ROW: u32 = 3;

impl Work<'_> {
    /// A batch failed: does what the table of errors says, or returns the error that ends the claim.
    pub(super) async fn mend(&mut self, batch: &Batch, key: Option<&Key>, error: Error) -> Result<Option<End>> {
        let tries = self.failures.add(error.kind);
        let (what, sentence) = action(error.kind);
        self.log_trouble(&error);
        let walking = self.claim.kind == SliceKind::Walk;
        self.rowless = if self.walk.stands_alone() && key.is_none() { self.rowless + 1 } else { 0 };
        match what {
            // First without what the statement was prepared for: then it fails without a row, if it is at fault.
            Action::Doubt if walking && tries == 1 => self.executor.forget_statements(),
            Action::Doubt | Action::Prepare if walking && (what == Action::Doubt || tries >= PREPARE_ATTEMPTS) => {
                match key {
                    Some(_) if self.doubted >= DOUBTED_ROWS => return Err(of_the_statement(error)),
                    Some(key) => {
                        self.doubted += 1;
                        return self.leave_behind(batch, key, Some(&error)).await;
                    }
                    None if self.rowless >= ROWLESS_ATTEMPTS => return Err(of_no_row(error)),
                    None => self.walk.narrow(batch.rows),
                }
            }
            Action::Again { .. } if error.kind == Kind::Cancelled && batch.rows == 1 && tries > ONE_ROW_ATTEMPTS => {
                match key {
                    Some(key) => return self.leave_behind(batch, key, Some(&too_slow(error))).await,
                    None if walking && self.rowless < ROWLESS_ATTEMPTS => self.walk.narrow(1),
                    None => return Err(at_fault(batch, too_slow(error))),
                }
            }
            Action::Again { .. } if error.kind == Kind::Yielded && batch.rows == 1 && tries > YIELDS_OF_ONE_ROW => {
                return self.go_around(batch, key, &error, sentence).await;
            }
            Action::Again { .. } if error.kind == Kind::Serialization && tries > SERIALIZATION_ATTEMPTS => {
                return self.go_around(batch, key, &error, sentence).await;
            }
            Action::Again { smaller } => return self.wait(error.kind, sentence, smaller).await,
            Action::GoAround => return self.go_around(batch, key, &error, sentence).await,
            Action::TellApart => self.walk.per_row(),
            Action::Isolate => match key {
                Some(key) => return self.leave_behind(batch, key, Some(&error)).await,
                None if self.rowless >= ROWLESS_ATTEMPTS => return Err(of_no_row(error)),
                None if batch.rows > 1 || walking => self.walk.narrow(batch.rows),
                None => return Err(at_fault(batch, error)),
            },
            Action::Prepare if tries < PREPARE_ATTEMPTS => self.executor.forget_statements(),
            Action::Restart if tries < OVERRUNS => self.restart().await?,
            Action::Stop => return Err(self.disputed(error).await?),
            Action::Reconnect if walking && error.kind == Kind::ConnectionLost => {
                self.worker.losses.add(self.claim.slice_id, batch, key.is_some(), &error);
                return Err(error);
            }
            Action::Prepare | Action::Doubt | Action::Restart | Action::Reconnect | Action::Fail => return Err(error),
        }
        Ok(None)
    }

    /// The connection was ended by our own hand; the claim is still ours, and what ran on it is undone.
    pub(super) async fn restart(&mut self) -> Result<()> {
        self.gate.shrink();
        self.walk.shrink();
        tokio::time::sleep(backoff(self.failures.in_a_row())).await;
        self.executor.reopen(&self.worker.logins, self.claim).await?;
        queue::seat(&self.worker.control, self.claim, &session::backend(self.executor.session()).await?).await
    }

    /// Rows are locked: first around them, row by row if that is not enough, and past the one that stands in the way.
    async fn go_around(
        &mut self,
        batch: &Batch,
        key: Option<&Key>,
        error: &Error,
        sentence: &'static str,
    ) -> Result<Option<End>> {
        if self.claim.kind != SliceKind::Walk || self.aside >= MOST_ASIDE {
            return self.wait(error.kind, sentence, true).await;
        }
        if batch.mode == BatchMode::Fast {
            self.walk.per_row();
            return Ok(None);
        }
        // Whoever has the whole table has no row in particular.
        if let Err(locked) = self.executor.table_is_free().await {
            let sentence = "the table is locked by another session; waiting for it";
            return match action(locked.kind).0 {
                Action::GoAround => self.wait(locked.kind, sentence, true).await,
                _ => Err(locked),
            };
        }
        match key {
            Some(key) => self.leave_behind(batch, key, None).await,
            None if self.rowless > 0 => self.wait(error.kind, sentence, false).await,
            None => {
                self.walk.narrow(batch.rows);
                Ok(None)
            }
        }
    }

    /// Passes one row without changing it: it is kept with its error, or to be returned to.
    pub(super) async fn leave_behind(
        &mut self,
        batch: &Batch,
        key: &Key,
        error: Option<&Error>,
    ) -> Result<Option<End>> {
        let started = Instant::now();
        match self.executor.set_aside(self.claim, batch, key, error).await {
            Ok(Some(outcome)) => {
                self.walk.row_skipped(&outcome);
                self.worker.losses.forget(self.claim.slice_id);
                self.passed(&outcome, started.elapsed()).await
            }
            // Another row came before it: try that.
            Ok(None) => Ok(None),
            Err(error) => match action(error.kind) {
                (Action::Again { .. } | Action::GoAround, sentence) => self.wait(error.kind, sentence, false).await,
                (Action::Prepare, _) if self.failures.add(error.kind) < PREPARE_ATTEMPTS => {
                    self.executor.forget_statements();
                    Ok(None)
                }
                (Action::Restart, _) if self.failures.add(error.kind) < OVERRUNS => {
                    self.restart().await?;
                    Ok(None)
                }
                (Action::Stop, _) => Err(self.disputed(error).await?),
                _ => Err(error),
            },
        }
    }

    /// A fence; unless the claim is still ours, and the job's own code has raised it.
    pub(super) async fn disputed(&self, error: Error) -> Result<Error> {
        if queue::look(&self.worker.control, self.claim).await?.is_none() {
            return Ok(error);
        }
        let hint = "No other daemon holds the slice: look for a function or a trigger of the table that raises it.";
        Ok(Error { kind: Kind::Data, hint: Some(hint.to_owned()), ..error })
    }

    pub(super) async fn wait(&mut self, kind: Kind, sentence: &str, smaller: bool) -> Result<Option<End>> {
        if smaller {
            self.gate.shrink();
            self.walk.shrink();
        }
        self.lease.report(self.gate.rows_per_second(), Some((waits_for(kind).to_owned(), sentence.to_owned())));
        let pause = backoff(self.failures.in_a_row()).min(LONGEST_PAUSE);
        let _ = self.stop.drain.run_until_cancelled(tokio::time::sleep(pause)).await;
        self.look().await
    }

    /// Counts a failure, and tells the operator what is done about it. One that ends the claim is told where it ends.
    pub(super) fn log_trouble(&self, error: &Error) {
        let counted = match error.kind {
            Kind::Fenced => Counted::Fenced,
            Kind::Yielded => Counted::Yielded,
            _ => Counted::Retried,
        };
        metrics::batch_done(&self.worker.database, &self.claim.name, counted, 0, 0, Duration::ZERO);
        let (what, sentence) = action(error.kind);
        let claim = self.claim;
        if !matches!(what, Action::Reconnect | Action::Stop | Action::Fail)
            && self.worker.told.is_news(claim.job_id, error.kind)
        {
            tracing::info!(database.name = %self.worker.database, job.id = claim.job_id, job.name = %claim.name, job.slice = claim.ordinal, error = %error.message, "{sentence}");
        }
    }
}
