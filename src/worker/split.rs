//! Splits a slice in two while it is walked, so that the job keeps as many workers busy as its
//! option `slices` allows. A slice with few remaining rows is not split. The holder splits its
//! slice after one batch and before the next, and the split ends the holder's claim. So no batch is
//! in flight during the split. If the split commits but the holder does not receive the result, all
//! later writes of the holder are fenced.

use crate::error::Result;
use crate::job::claim::SliceKind;
use crate::plan::slices;
use crate::queue::claim as queue;
use crate::worker::claim_end::{ClaimEnd, Step};
use crate::worker::claim_run::ClaimRun;
use crate::worker::error_policy::{Action, action};

impl ClaimRun<'_> {
    /// Splits the slice if all of these conditions are true:
    ///
    /// - The slice is walked to change rows. A verifying slice is not split.
    /// - The job has fewer active slices than its option `slices` allows.
    /// - [`queue::may_split`] returns true.
    /// - A key at which to split is found.
    ///
    /// Asks the queue at most once per second.
    pub(super) async fn split_if_due(&mut self) -> Result<Step> {
        let wanted = self.settings.options.slices;
        let live = self.scope.lease.state().map_or(1, |state| state.live.max(1));
        if live >= wanted || self.scope.claim.kind != SliceKind::Walk || !self.timers.split.is_due() {
            return Ok(Step::Continue);
        }
        self.timers.split.asked();
        let (control, claim) = (&self.scope.context.control, self.scope.claim);
        if !queue::may_split(control, claim, wanted).await? {
            return Ok(Step::Continue);
        }
        let table = (self.plan.relation, self.plan.source());
        let table = (table.0, table.1.as_str());
        let (session, walk) = (self.executor.session(), &self.walk);
        match slices::halve(session, table, &self.plan.key, walk.position(), walk.upper()).await {
            Ok(Some((bound, rows))) => {
                tracing::info!(rows, "slice split");
                Ok(Step::End(ClaimEnd::Planned(queue::split(control, claim, &bound, rows).await?)))
            }
            Err(error) if action(error.kind).0 == Action::Reconnect => Err(error),
            // There are too few rows, or the sample failed, for example because it took too long.
            // The walk itself is not affected.
            answer => {
                if let Err(error) = answer {
                    tracing::debug!(error = %error.message, "could not find a key at which to split the slice");
                }
                self.timers.split.rest();
                Ok(Step::Continue)
            }
        }
    }
}
