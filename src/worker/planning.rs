//! Plans a job, or a leaf (a partition or child table) that was attached after the job was planned.
//! Each planning is a claim of its own. Statements with the user's expressions or rows run in a
//! session of the executor's login. The control login reads most of the catalog.

use crate::error::Result;
use crate::failpoint;
use crate::job::claim::Claim;
use crate::job::settings::JobSettings;
use crate::pg::connect::Session;
use crate::pg::session;
use crate::plan;
use crate::queue::claim as queue;
use crate::worker::claim_end::ClaimEnd;
use crate::worker::context::Context;

pub(super) async fn plan(context: &Context, claim: &Claim, settings: &JobSettings) -> Result<ClaimEnd> {
    let executor = plan::open(&context.logins, claim).await?;
    queue::register_backend(&context.control, claim, &session::backend(&executor).await?).await?;
    let defaults = &context.settings.defaults;
    let planning = Box::pin(plan::make(&context.control, &executor, claim, &settings.options, defaults));
    let planned =
        cancelled_for_victims(context, settings, &executor, planning).await.map_err(plan::expressions::refuse)?;
    failpoint::point("before_save_plan")?;
    let state = queue::save_plan(&context.control, claim, &planned).await?;
    tracing::info!(rows = planned.rows_estimated, slices = planned.slices.len(), "planned");
    Ok(ClaimEnd::Planned(state))
}

/// Plans a leaf that was attached after the job was planned.
pub(super) async fn plan_leaf(context: &Context, claim: &Claim, settings: &JobSettings) -> Result<ClaimEnd> {
    let executor = plan::open(&context.logins, claim).await?;
    queue::register_backend(&context.control, claim, &session::backend(&executor).await?).await?;
    let planning = Box::pin(plan::leaves::attached(&context.control, &executor, claim, settings.options.slices));
    let slices = cancelled_for_victims(context, settings, &executor, planning).await?;
    Ok(ClaimEnd::Planned(queue::save_leaf(&context.control, claim, &slices).await?))
}

/// Cancels planning if another session waits too long for it. Planning changes nothing, but an
/// `alter table` must wait for the running statement of the planning. All other sessions that use
/// the table then wait behind the `alter table`.
async fn cancelled_for_victims<T>(
    context: &Context,
    settings: &JobSettings,
    executor: &Session,
    planning: impl Future<Output = Result<T>>,
) -> Result<T> {
    let Some(pid) = executor.pid() else { return planning.await };
    let mut watched = context.guard.watch(pid, settings.victim_wait());
    tokio::select! {
        biased;
        planned = planning => planned,
        victims = watched.in_the_way() => {
            // The code of the job can catch the cancellation and keep its locks. The caller closes
            // the session after this error, but the server would notice this only after the
            // statement.
            executor.cancel().await;
            executor.terminate().await;
            Err(victims.error("the planning"))
        }
    }
}
