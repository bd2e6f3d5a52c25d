//! Plans a job, or a leaf (a partition or child table) that was attached after the job was planned.
//! Each planning is a claim of its own. Statements with the user's expressions or rows run in a
//! session of the executor's login. The control login reads most of the catalog.

use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::job::claim::Claim;
use crate::job::put_off::PutOff;
use crate::job::settings::JobSettings;
use crate::pg::connect::Session;
use crate::pg::row::Columns;
use crate::pg::session;
use crate::plan;
use crate::queue::claim as queue;
use crate::queue::lease::Lease;
use crate::worker::claim_end::ClaimEnd;
use crate::worker::context::Context;
use crate::worker::error_policy::{Action, action, backoff, waits_for};
use crate::worker::release::{end_session, warn};
use crate::worker::share;

/// Number of attempts after which planning is not tried again. Only cancelled statements,
/// statements that ignore their time limit, lost connections and serialization failures count. For
/// example, failed logins, lock waits and missing resources of the server do not count.
const ATTEMPTS: i32 = 10;
/// If planning was cancelled in favour of another role, it begins again after this time.
const AFTER_ANOTHER_ROLE: Duration = Duration::from_secs(1);

/// The result of planning, if it was not interrupted.
enum Attempt<T> {
    Planned(T),
    Ended(ClaimEnd),
}

pub(super) async fn plan(context: &Context, claim: &Claim, lease: &Lease, settings: &JobSettings) -> Result<ClaimEnd> {
    let executor = plan::open(&context.logins, claim).await?;
    queue::register_backend(&context.control, claim, &session::backend(&executor).await?).await?;
    let defaults = &context.settings.defaults;
    let planning = Box::pin(plan::make(&context.control, &executor, claim, &settings.options, defaults));
    let planning = async { planning.await.map_err(plan::expressions::refuse) };
    let planned = match attempt(context, claim, lease, settings, &executor, planning).await? {
        Attempt::Planned(planned) => planned,
        Attempt::Ended(end) => return Ok(end),
    };
    failpoint::point("before_save_plan")?;
    let state = queue::save_plan(&context.control, claim, &planned).await?;
    tracing::info!(rows = planned.rows_estimated, slices = planned.slices.len(), "planned");
    Ok(ClaimEnd::Planned(state))
}

/// Plans a leaf that was attached after the job was planned.
pub(super) async fn plan_leaf(
    context: &Context,
    claim: &Claim,
    lease: &Lease,
    settings: &JobSettings,
) -> Result<ClaimEnd> {
    let executor = plan::open(&context.logins, claim).await?;
    queue::register_backend(&context.control, claim, &session::backend(&executor).await?).await?;
    let planning = Box::pin(plan::leaves::attached(&context.control, &executor, claim, settings.options.slices));
    match attempt(context, claim, lease, settings, &executor, planning).await? {
        Attempt::Planned(slices) => Ok(ClaimEnd::Planned(queue::save_leaf(&context.control, claim, &slices).await?)),
        Attempt::Ended(end) => Ok(end),
    }
}

/// Runs the planning. Cancels it in two cases:
///
/// - Another session waits too long for a lock that the planning session holds. Planning changes no
///   rows, but an `alter table` must wait until the current planning statement has ended. All other
///   sessions that use the table then wait behind the `alter table`.
/// - The role of the job holds more than its share of the workers, and another role waits.
///
/// If the planning fails temporarily, the slice is put off.
async fn attempt<T>(
    context: &Context,
    claim: &Claim,
    lease: &Lease,
    settings: &JobSettings,
    executor: &Session,
    planning: impl Future<Output = Result<T>>,
) -> Result<Attempt<T>> {
    let mut watched = executor.pid().map(|pid| context.guard.watch(pid, settings.victim_wait(), Duration::MAX));
    let in_the_way = async {
        match &mut watched {
            Some(watched) => watched.in_the_way().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        planned = planning => match planned {
            Ok(planned) => Ok(Attempt::Planned(planned)),
            Err(error) => put_off(context, claim, error).await.map(Attempt::Ended),
        },
        victims = in_the_way => {
            // The job's code can catch the cancellation, and the session then keeps its locks. The
            // caller closes the session after this error, but the server would not notice the close
            // until the statement ends.
            executor.cancel().await;
            executor.terminate().await;
            put_off(context, claim, victims.error("the planning")).await.map(Attempt::Ended)
        }
        () = share::until_owed(context, lease) => {
            tracing::debug!("cancelled the planning, because a job of another role waits for a worker");
            executor.cancel().await;
            executor.terminate().await;
            Ok(Attempt::Ended(ClaimEnd::PutOff(PutOff { waiting: None, pause: AFTER_ANOTHER_ROLE, counts: false })))
        }
    }
}

/// Postpones the slice if the error is temporary. The pause doubles with each attempt that counts,
/// up to 5 s. Returns any other error, and the error of the last attempt that counts.
async fn put_off(context: &Context, claim: &Claim, error: Error) -> Result<ClaimEnd> {
    let (what, sentence) = action(error.kind);
    if !matches!(what, Action::Again | Action::GoAround | Action::Restart)
        && !matches!(error.kind, Kind::ConnectionLost | Kind::Unanswered)
    {
        return Err(error);
    }
    // The executor's login may have failed to terminate the session. In that case, the session may
    // still hold locks.
    if matches!(error.kind, Kind::ConnectionLost | Kind::Unanswered | Kind::Overrun) && error.sqlstate.is_none() {
        end_session(context, claim).await;
    }
    let counts = matches!(error.kind, Kind::Cancelled | Kind::Overrun | Kind::ConnectionLost | Kind::Serialization);
    if counts && claim.attempts >= ATTEMPTS {
        return Err(refused(error));
    }
    if error.kind == Kind::LockTimeout {
        let text = waits_for_lock(context, claim).await;
        if context.log_limiter.is_news(claim.job_id, error.kind) {
            tracing::warn!("{text}");
        }
        return Ok(ended(claim, &error, text, counts));
    }
    warn(context, claim, &error);
    // All users who may see the job see this text, so it must not contain data from rows. The job's
    // code, which runs during planning, may have read rows.
    let text = if error.redacted.is_some() { sentence.to_owned() } else { format!("{sentence} ({})", error.message) };
    Ok(ended(claim, &error, text, counts))
}

fn ended(claim: &Claim, error: &Error, text: String, counts: bool) -> ClaimEnd {
    let pause = backoff(u32::try_from(claim.attempts).unwrap_or(1) + 2);
    ClaimEnd::PutOff(PutOff { waiting: Some((waits_for(error.kind), text)), pause, counts })
}

/// Lists the sessions that have locked a table, or wait to lock it, in a mode that blocks readers.
const LOCKERS: &str = "
select string_agg(distinct format('process %s of role %s', a.pid, a.usename), ', ')
  from pg_locks l join pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'relation' and l.relation = $1 and l.mode = 'AccessExclusiveLock'
   and l.database = (select d.oid from pg_database d where d.datname = current_database())";

/// Lists the sessions that have locked other tables of the database in such a mode, with the
/// tables. The assignments and the filter of a job can read any table.
const LOCKERS_OF_OTHERS: &str = "
select string_agg(x.told, ', ') from (
  select format('process %s of role %s (%s)', a.pid, a.usename, string_agg(distinct l.relation::regclass::text, ', ')) as told
    from pg_locks l join pg_stat_activity a on a.pid = l.pid join pg_class c on c.oid = l.relation and c.relkind in ('r', 'p', 'm', 'f', 'v')
   where l.locktype = 'relation' and l.granted and l.mode = 'AccessExclusiveLock'
     and l.database = (select d.oid from pg_database d where d.datname = current_database())
   group by a.pid, a.usename, a.xact_start order by a.xact_start limit 3) x";

/// Returns the reason why planning could not lock a table in time, with the sessions that have
/// locked the table or wait to lock it. If there are none, names the sessions that have locked
/// other tables.
async fn waits_for_lock(context: &Context, claim: &Claim) -> String {
    let lockers = context.control.query_one(LOCKERS, &[&claim.relation]).await;
    if let Ok(Some(lockers)) = lockers.and_then(|row| row.read::<Option<String>>(0)) {
        return format!(
            "planning waits for a lock on table {}; sessions that have locked it, or wait to lock it: {lockers}",
            claim.target
        );
    }
    let lockers = context.control.query_one(LOCKERS_OF_OTHERS, &[]).await;
    match lockers.and_then(|row| row.read::<Option<String>>(0)) {
        Ok(Some(lockers)) => format!(
            "planning waits for a lock on a table that the job reads; sessions that have locked tables: {lockers}"
        ),
        _ => "planning waits for a lock of another session; to find that session, see pg_locks".to_owned(),
    }
}

/// Returns the error of a job whose planning failed with a temporary error in too many attempts.
fn refused(error: Error) -> Error {
    let hint = match error.kind {
        Kind::ConnectionLost => {
            "A function that the job calls may have ended the session or crashed the server: look in the server log. If the network failed, run backfill.retry."
        }
        _ => "Fix the cause, then run backfill.retry.",
    };
    Error { kind: Kind::Refused, ..error }.context(format!("planning failed in {ATTEMPTS} attempts")).hint(hint)
}
