//! A slice cut in two while it is walked, so that a job keeps as many workers busy as its `slices` says until its end.
//! The holder does it between two batches, on its own claim, which ends with the cut: no batch is under way, and one
//! of a holder that did not learn of it is fenced.

use std::time::Duration;

use tokio::time::Instant;

use super::{End, Worker};
use crate::error::Result;
use crate::execute::executor::Executor;
use crate::job::claim::{Claim, SliceKind};
use crate::job::plan::Plan;
use crate::job::retry::{Action, action};
use crate::plan::slices;
use crate::queue::claim as queue;
use crate::walk::Walk;

/// Between two questions to the queue, which cost a round trip each.
const ASK: Duration = Duration::from_secs(1);
/// After a cut that was not worth it: what remains only gets less.
const REST: Duration = Duration::from_secs(30);

/// When the holder of a slice next asks whether to cut it.
#[derive(Debug)]
pub(super) struct Split {
    due: Instant,
}

impl Split {
    pub fn new() -> Self {
        Self { due: Instant::now() + ASK }
    }

    /// Cuts the slice if fewer than `wanted` of its job are walked, none waits, and it is the largest.
    pub async fn look(
        &mut self,
        worker: &Worker,
        claim: &Claim,
        executor: &Executor,
        plan: &Plan,
        walk: &Walk,
        wanted: u32,
    ) -> Result<Option<End>> {
        if claim.kind != SliceKind::Walk || Instant::now() < self.due {
            return Ok(None);
        }
        self.due = Instant::now() + ASK;
        if !queue::may_split(&worker.control, claim, wanted).await? {
            return Ok(None);
        }
        let session = executor.session();
        let place = (plan.relation, plan.source());
        match slices::halve(session, (place.0, &place.1), &plan.key, walk.position(), walk.upper()).await {
            Ok(Some((bound, rows))) => {
                tracing::info!(database.name = %worker.database, job.id = claim.job_id, job.name = %claim.name, job.slice = claim.ordinal, rows, "slice cut in two");
                Ok(Some(End::Planned(queue::split(&worker.control, claim, &bound, rows).await?)))
            }
            Err(error) if action(error.kind).0 == Action::Reconnect => Err(error),
            // Too few rows, or a sample that took too long. The walk itself is fine.
            answer => {
                if let Err(error) = answer {
                    tracing::debug!(database.name = %worker.database, job.id = claim.job_id, job.name = %claim.name, job.slice = claim.ordinal, error = %error.message, "no place to cut the slice was found");
                }
                self.due = Instant::now() + REST;
                Ok(None)
            }
        }
    }
}
