//! Runs the worker loop. A worker claims a slice, does the slice's work (planning, a walk or a
//! verification), and ends the claim. The daemon runs one such loop for each slice that it can
//! process at the same time.

pub mod attempt;
pub mod claim_end;
pub mod claim_run;
pub mod connection_losses;
pub mod context;
mod dead_rows;
mod deferred_rows;
pub mod error_policy;
mod handle_failure;
pub mod hold_log;
pub mod interrupted;
pub mod log_limiter;
mod planning;
pub mod progress;
mod release;
mod share;
mod split;
mod split_timer;
mod timers;
mod vacuum;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::Instrument;

use self::claim_end::ClaimEnd;
use self::claim_run::ClaimRun;
use self::context::Context;
use self::error_policy::{Action, action, backoff, without_batch};
use self::release::{end_session, put_off, release_for_retry, unless_locked, warn};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::job::claim::{Claim, SliceKind};
use crate::job::settings::JobSettings;
use crate::job::state::State;
use crate::metrics;
use crate::queue::claim as queue;
use crate::queue::daemon;
use crate::queue::lease::Lease;
use crate::shutdown::Shutdown;
use crate::window;

/// Minimum time from a claim attempt that found no slice to an attempt that a notification
/// triggers. Any session can send notifications at any rate, and each attempt costs a query.
const CALM: Duration = Duration::from_millis(25);
/// Pause of a worker after a claim that failed temporarily. This pause limits the number of claims
/// per second if the slices of many jobs fail.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Runs until the drain begins, and then finishes the batch in flight. A hard stop cancels this
/// batch.
pub async fn run(mut context: Context, stop: Shutdown) {
    let mut failures = 0;
    while !stop.drain.is_cancelled() {
        context.wakeups.mark_unchanged();
        let looked = Instant::now();
        let pause = match Box::pin(claim_one(&mut context, &stop)).await {
            Ok(Turn::Worked) => {
                failures = 0;
                continue;
            }
            Ok(Turn::Idle) => {
                failures = 0;
                context.settings.poll
            }
            Ok(Turn::Failed) => {
                failures = 0;
                let _ = stop.drain.run_until_cancelled(tokio::time::sleep(AFTER_FAILURE)).await;
                continue;
            }
            Err(error) => {
                failures += 1;
                if failures == 1 {
                    tracing::warn!(error = %error.message, "{}", without_batch(error.kind));
                }
                backoff(failures + 2)
            }
        };
        tokio::select! {
            biased;
            () = stop.drain.cancelled() => {}
            Ok(()) = context.wakeups.changed(), if failures == 0 => tokio::time::sleep_until(looked + CALM).await,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The result of one turn of a worker.
enum Turn {
    /// A claim ended.
    Worked,
    /// No slice could be claimed, or the daemon's window is closed.
    Idle,
    /// A claim ended with a temporary failure, and its slice was released.
    Failed,
}

/// Claims one slice and works on it until the claim ends. An error means that the queue did not
/// respond or that the slice could not be released.
async fn claim_one(context: &mut Context, stop: &Shutdown) -> Result<Turn> {
    if window::closed_until(&context.settings.window, context.settings.clock.now()).is_some() {
        return Ok(Turn::Idle);
    }
    let (worker, ttl) = (context.leases.worker(), context.leases.ttl());
    let claiming = context.leases.claiming().await;
    let at_share = context.leases.roles_at(context.settings.share);
    let held = context.leases.tokens();
    let asked_at = Instant::now();
    let roles = &context.settings.roles;
    let Some(claim) = queue::claim(&context.control, worker, roles, &at_share, &held, ttl).await? else {
        return Ok(Turn::Idle);
    };
    let lease = context.leases.hold(&claim, asked_at);
    drop(claiming);
    // The span has the error level. With a lower level, a log filter could drop the span, and its
    // fields would be missing from the lines that pass the filter.
    let span = tracing::error_span!("job", job.id = claim.job_id, job.name = %claim.name, job.slice = claim.ordinal);
    Box::pin(run_claim(context, &claim, &lease, stop)).instrument(span).await
}

async fn run_claim(context: &mut Context, claim: &Claim, lease: &Lease, stop: &Shutdown) -> Result<Turn> {
    failpoint::point("after_claim")?;
    if claim.takeover {
        metrics::lease_taken_over(context.database());
    }
    let ended = contained(Box::pin(work(context, claim, lease, stop))).await;
    failpoint::point("before_giving_back")?;
    match ended {
        Ok(ClaimEnd::Passed) => tell(context, claim, queue::finish(&context.control, claim).await?).await,
        Ok(ClaimEnd::Stopped) => {
            tell(context, claim, unless_locked(queue::release(&context.control, claim).await)?).await
        }
        Ok(ClaimEnd::Closed(until)) => {
            let opens = jiff::Timestamp::try_from(until).map_or_else(|_| "never".to_owned(), |at| at.to_string());
            tracing::info!(opens, "the job is outside its window");
            tell(context, claim, queue::close(&context.control, claim, until).await?).await;
        }
        Ok(ClaimEnd::Planned(state)) => tell(context, claim, state).await,
        // If the slice still has the token of this claim, no other worker has claimed the slice.
        // Releasing it now makes it available before its lease expires.
        Ok(ClaimEnd::Lost) => match queue::release(&context.control, claim).await {
            Ok(state) => tell(context, claim, state).await,
            Err(error) => tracing::debug!(error = %error.message, "the slice could not be released"),
        },
        Ok(ClaimEnd::PutOff(cause)) => tell(context, claim, put_off(context, claim, lease, &cause).await?).await,
        Err(error) => return end_failed_claim(context, claim, lease, error).await,
    }
    Ok(Turn::Worked)
}

/// Runs the work of a claim. A panic becomes an error, which fails the job and leaves the daemon
/// running. The next claim starts with a new session and a new walk. So the only values that are
/// used again after a panic are those that the workers share, and a panic at any point leaves these
/// values valid.
async fn contained(work: impl Future<Output = Result<ClaimEnd>>) -> Result<ClaimEnd> {
    let panic = match AssertUnwindSafe(work).catch_unwind().await {
        Ok(ended) => return ended,
        Err(panic) => panic,
    };
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Err(Error::new(
        Kind::Internal,
        format!("a defect in backfilld ended the work on this job: {}", said.unwrap_or("panic")),
    )
    .hint("Please report this defect with the log of the daemon. The job can be retried with backfill.retry."))
}

async fn work(context: &mut Context, claim: &Claim, lease: &Lease, stop: &Shutdown) -> Result<ClaimEnd> {
    let settings = JobSettings::read(&context.settings.defaults, &claim.options, claim.revision)?;
    if let Some(until) = window::closed_until(&settings.window, context.settings.clock.now()) {
        return Ok(ClaimEnd::Closed(until));
    }
    match claim.kind {
        SliceKind::Plan => planning::plan(context, claim, lease, &settings).await,
        SliceKind::Walk if claim.upper.is_none() => planning::plan_leaf(context, claim, lease, &settings).await,
        // The previous holder ended after its last batch but before it finished the slice.
        SliceKind::Walk | SliceKind::Verify if claim.checkpoint.done && claim.deferred == 0 => Ok(ClaimEnd::Passed),
        // A verification is a walk that counts rows instead of changing them.
        SliceKind::Walk | SliceKind::Verify => {
            Box::pin(ClaimRun::begin(context, claim, lease, stop, settings).await?.run()).await
        }
    }
}

/// Ends a failed claim as the error policy specifies.
async fn end_failed_claim(context: &Context, claim: &Claim, lease: &Lease, error: Error) -> Result<Turn> {
    // The executor's login may have failed to terminate the session. The session may then hold row
    // locks that block the application indefinitely, so the control login terminates the session.
    // This is not necessary if the server sent a SQLSTATE to report that it has ended the session.
    // If the server cannot be reached, this call has no effect, and the code below handles the lost
    // connection.
    if matches!(error.kind, Kind::ConnectionLost | Kind::Unanswered | Kind::Overrun) && error.sqlstate.is_none() {
        end_session(context, claim).await;
    }
    match action(error.kind).0 {
        Action::Stop => {
            metrics::write_fenced(context.database());
            tracing::warn!("{}", error.message);
            Ok(Turn::Worked)
        }
        Action::Reconnect => {
            // The next claim reads the checkpoint again, because a commit that the server
            // acknowledged may not be durable (P1).
            release_for_retry(context, claim, lease, &error).await?;
            warn(context, claim, &error);
            Ok(Turn::Failed)
        }
        Action::Fail | Action::Doubt if let Some(state) = queue::end_gone_leaf(&context.control, claim).await? => {
            tell(context, claim, Some(state)).await;
            Ok(Turn::Worked)
        }
        Action::Again | Action::GoAround => {
            tell(context, claim, release_for_retry(context, claim, lease, &error).await?).await;
            warn(context, claim, &error);
            Ok(Turn::Failed)
        }
        // If the schema was dropped and installed again, the login of an executor has lost its
        // privileges on the schema until the daemon registers again.
        _ if !is_registered(context).await => {
            release_for_retry(context, claim, lease, &error).await?;
            Ok(Turn::Failed)
        }
        _ => fail(context, claim, error).await,
    }
}

/// Returns whether the daemon and its executors are registered. If the queue cannot be read,
/// assumes that they are.
async fn is_registered(context: &Context) -> bool {
    let (worker, roles) = (context.leases.worker(), &context.settings.roles);
    daemon::is_registered(&context.control, worker, roles).await.unwrap_or(true)
}

async fn fail(context: &Context, claim: &Claim, error: Error) -> Result<Turn> {
    tracing::error!("job failed: {}", error.message);
    let hint = error.hint.clone().unwrap_or_else(|| "Fix the cause, then run backfill.retry.".to_owned());
    match queue::fail(&context.control, claim, &error.hint(hint)).await? {
        // The failure has already been logged above, with its cause.
        Some(State::Failed) => count(context, State::Failed),
        state => tell(context, claim, state).await,
    }
    Ok(Turn::Worked)
}

/// Logs the new state of the job if the job ended or was paused together with this claim. If the
/// job ended, also counts it in the metrics.
async fn tell(context: &Context, claim: &Claim, state: Option<State>) {
    let Some(state) = state.filter(|state| state.has_ended() || *state == State::Paused) else { return };
    if state == State::Failed {
        // The job failed at the end of its walk or verification, for example because of quarantined
        // rows. The cause has not been logged yet.
        match queue::failure(&context.control, claim).await {
            Ok(cause) => tracing::error!("job failed: {}", cause.unwrap_or_default()),
            Err(error) => tracing::error!("job failed; could not read its error: {}", error.message),
        }
    } else {
        tracing::info!("job {state}");
    }
    count(context, state);
}

fn count(context: &Context, state: State) {
    if state.has_ended() {
        metrics::job_finished(context.database(), &state.to_string());
    }
}
