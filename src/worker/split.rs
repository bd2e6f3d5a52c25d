//! A slice cut in two while it is walked, so that a job keeps as many workers busy as its option `slices` says until its
//! end. The holder does it between two batches, on its own claim, which ends with the cut: no batch is under way, and one of a
//! holder that did not learn of it is fenced.

use crate::error::Result;
use crate::job::claim::SliceKind;
use crate::plan::slices;
use crate::queue::claim as queue;
use crate::worker::claim_end::{ClaimEnd, Step};
use crate::worker::claim_run::ClaimRun;
use crate::worker::error_policy::{Action, action};

impl ClaimRun<'_> {
    /// Cuts the slice in two if fewer slices of its job are walked than it asks for, none waits, and it is the largest.
    pub(super) async fn split_if_due(&mut self) -> Result<Step> {
        let wanted = self.settings.options.slices;
        let live = self.scope.lease.seen().map_or(1, |seen| seen.live.max(1));
        if live >= wanted || self.scope.claim.kind != SliceKind::Walk || !self.split.is_due() {
            return Ok(Step::Continue);
        }
        self.split.asked();
        let (control, claim) = (&self.scope.context.control, self.scope.claim);
        if !queue::may_split(control, claim, wanted).await? {
            return Ok(Step::Continue);
        }
        let table = (self.plan.relation, self.plan.source());
        let table = (table.0, table.1.as_str());
        let (session, walk) = (self.executor.session(), &self.walk);
        match slices::halve(session, table, &self.plan.key, walk.position(), walk.upper()).await {
            Ok(Some((bound, rows))) => {
                tracing::info!(rows, "slice cut in two");
                Ok(Step::End(ClaimEnd::Planned(queue::split(control, claim, &bound, rows).await?)))
            }
            Err(error) if action(error.kind).0 == Action::Reconnect => Err(error),
            // Too few rows, or a sample that took too long. The walk itself is fine.
            answer => {
                if let Err(error) = answer {
                    tracing::debug!(error = %error.message, "no place to cut the slice was found");
                }
                self.split.rest();
                Ok(Step::Continue)
            }
        }
    }
}
