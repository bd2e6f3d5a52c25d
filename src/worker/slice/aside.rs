//! The way back: rows that a slice has set aside are tried again when all others are passed.

use tokio::time::Instant;

use super::mend::{ONE_ROW_ATTEMPTS, OVERRUNS, PREPARE_ATTEMPTS};
use super::{Admitted, End, Work};
use crate::error::{Error, Kind, Result};
use crate::job::claim::{Aside, SliceKind};
use crate::job::retry::{Action, action, too_slow};
use crate::metrics::{self, Outcome as Counted};
use crate::queue::claim as queue;

/// Rows that are returned to in one transaction.
const RETURNED_AT_ONCE: i32 = 100;

impl Work<'_> {
    /// Tries each row that was set aside once more. What is still locked then keeps the slice from ending: it is
    /// offered again in a while, and this worker is free for others.
    pub(super) async fn return_to_rows(&mut self) -> Result<End> {
        let mut last = 0;
        while self.aside > 0 && self.claim.kind == SliceKind::Walk {
            if let Some(end) = self.must_end() {
                return Ok(end);
            }
            match self.admitted().await? {
                Admitted::Go(_) => {}
                Admitted::AskAgain => continue,
                Admitted::End(end) => return Ok(end),
            }
            let rows = queue::set_aside(&self.worker.control, self.claim, last, RETURNED_AT_ONCE).await?;
            let Some(newest) = rows.last() else { break };
            last = newest.id;
            if let Some(end) = self.return_to(&rows).await? {
                return Ok(end);
            }
        }
        Ok(End::Passed)
    }

    /// Together, and if one of them is in the way of the others, one by one.
    async fn return_to(&mut self, rows: &[Aside]) -> Result<Option<End>> {
        let mut groups: Vec<&[Aside]> = vec![rows];
        while let Some(group) = groups.pop() {
            if let Some(end) = self.must_end() {
                return Ok(Some(end));
            }
            let started = Instant::now();
            let mut answer = self.executor.return_to(self.claim, group).await;
            if let (Err(error), [row]) = (&answer, group)
                && let Some(cause) = self.why_never(error)
            {
                answer = self.executor.refuse_again(self.claim, row, &cause).await;
            }
            let took = started.elapsed();
            match &answer {
                Ok(returned) => self.gate.settle(returned.changed, took),
                Err(error) => self.gate.settle(0, self.executor.busy(error, took)),
            }
            let end = match answer {
                Ok(returned) => {
                    self.failures.clear();
                    self.worker.worked = true;
                    let (database, name) = (&self.worker.database, &self.claim.name);
                    metrics::batch_done(database, name, Counted::Committed, returned.changed, 0, started.elapsed());
                    self.refused(returned.refused);
                    self.wanted(returned.desired, returned.revision).await?
                }
                Err(error) => self.mend_return(group, &mut groups, error).await?,
            };
            if end.is_some() {
                return Ok(end);
            }
        }
        Ok(None)
    }

    /// Why one row that was returned to can never be changed, if the error says so.
    fn why_never(&self, error: &Error) -> Option<Error> {
        match action(error.kind).0 {
            Action::Isolate | Action::Doubt => Some(error.clone()),
            _ if error.kind == Kind::Cancelled && self.failures.of(error.kind) >= ONE_ROW_ATTEMPTS => {
                Some(too_slow(error.clone()))
            }
            _ => None,
        }
    }

    /// Some rows could not be returned to: what of them is tried next goes to `groups`.
    async fn mend_return<'r>(
        &mut self,
        group: &'r [Aside],
        groups: &mut Vec<&'r [Aside]>,
        error: Error,
    ) -> Result<Option<End>> {
        let tries = self.failures.add(error.kind);
        let (what, sentence) = action(error.kind);
        self.log_trouble(&error);
        match what {
            Action::Again { .. } | Action::GoAround | Action::Isolate | Action::Doubt if group.len() > 1 => {
                groups.extend(group.chunks(group.len().div_ceil(2)));
            }
            // Nobody has it: in a while it would take as long again.
            Action::Again { .. } if error.kind == Kind::Cancelled => {
                groups.push(group);
                return self.wait(error.kind, sentence, false).await;
            }
            // It stays set aside.
            Action::Again { .. } | Action::GoAround => return self.look().await,
            Action::Prepare if tries < PREPARE_ATTEMPTS => {
                self.executor.forget_statements();
                groups.push(group);
            }
            Action::Restart if tries < OVERRUNS => {
                self.restart().await?;
                groups.extend(group.chunks(group.len().div_ceil(2)));
            }
            Action::Stop => return Err(self.disputed(error).await?),
            _ => return Err(error),
        }
        Ok(None)
    }
}
