//! Runs the worker loop. A worker claims a slice, does its work (planning, a walk or a
//! verification), and ends the claim. The daemon runs one such loop for each slice that it can
//! process at the same time.

pub mod claim_end;
pub mod claim_run;
pub mod connection_losses;
pub mod context;
mod dead_rows;
mod deferred_rows;
pub mod error_policy;
mod handle_failure;
pub mod hold_log;
pub mod log_limiter;
mod planning;
pub mod progress;
mod split;
mod split_timer;
mod vacuum;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::Instrument;

use self::claim_end::ClaimEnd;
use self::claim_run::ClaimRun;
use self::context::Context;
use self::error_policy::{Action, action, backoff, is_of_the_login, waits_for};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::job::claim::{Claim, SliceKind};
use crate::job::settings::JobSettings;
use crate::job::state::State;
use crate::metrics;
use crate::queue::claim as queue;
use crate::queue::lease::Lease;
use crate::shutdown::Shutdown;
use crate::window;

/// Minimum time from a claim attempt that found no slice to an attempt that a notification
/// triggers. Any session can send notifications at any rate, and each attempt costs a query.
const CALM: Duration = Duration::from_millis(25);
/// Number of the first attempt at which planning that exceeds its time limit fails the job.
const PLAN_ATTEMPTS: i32 = 10;
/// Time before a slice can be claimed again after the executor's login failed (authentication or
/// TLS). The daemon may still be able to log in for other roles, and should not claim the same
/// slice again at once.
const LOGIN_PAUSE: Duration = Duration::from_secs(2);

/// Runs until the drain begins, and then finishes the batch in flight. A hard stop cancels this
/// batch.
pub async fn run(mut context: Context, stop: Shutdown) {
    let mut failures = 0;
    while !stop.drain.is_cancelled() {
        context.wakeups.mark_unchanged();
        let looked = Instant::now();
        let pause = match Box::pin(claim_one(&mut context, &stop)).await {
            Ok(true) => {
                failures = 0;
                continue;
            }
            Ok(false) => {
                failures = 0;
                context.settings.poll
            }
            Err(error) => {
                failures = if std::mem::take(&mut context.worked) { 1 } else { failures + 1 };
                if failures == 1 {
                    let (_, sentence) = action(error.kind);
                    tracing::warn!(error = %error.message, "{sentence}");
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

/// Claims one slice and works on it until the claim ends. Returns false if there is no slice to
/// claim, or if the daemon's window is closed.
async fn claim_one(context: &mut Context, stop: &Shutdown) -> Result<bool> {
    if window::closed_until(&context.settings.window).is_some() {
        return Ok(false);
    }
    let asked_at = Instant::now();
    let (worker, ttl) = (context.leases.worker(), context.leases.ttl());
    let Some(claim) = queue::claim(&context.control, worker, &context.settings.roles, ttl).await? else {
        return Ok(false);
    };
    // The span has the error level. With a lower level, a log filter could drop the span, and its
    // fields would be missing from the lines that pass the filter.
    let span = tracing::error_span!("job", job.id = claim.job_id, job.name = %claim.name, job.slice = claim.ordinal);
    Box::pin(run_claim(context, &claim, asked_at, stop)).instrument(span).await?;
    Ok(true)
}

async fn run_claim(context: &mut Context, claim: &Claim, asked_at: Instant, stop: &Shutdown) -> Result<()> {
    let lease = context.leases.hold(claim, asked_at);
    failpoint::point("after_claim")?;
    if claim.takeover {
        metrics::lease_taken_over(context.database());
    }
    let ended = contained(Box::pin(work(context, claim, &lease, stop))).await;
    failpoint::point("before_giving_back")?;
    match ended {
        Ok(ClaimEnd::Passed) => tell(context, claim, queue::finish(&context.control, claim).await?).await,
        Ok(ClaimEnd::Stopped) => tell(context, claim, queue::release(&context.control, claim).await?).await,
        Ok(ClaimEnd::Closed(until)) => {
            let opens = jiff::Timestamp::try_from(until).map_or_else(|_| "never".to_owned(), |at| at.to_string());
            tracing::info!(opens, "the job is outside its window");
            tell(context, claim, queue::close(&context.control, claim, until).await?).await;
        }
        Ok(ClaimEnd::Planned(state)) => tell(context, claim, state).await,
        Ok(ClaimEnd::Lost) => {}
        Err(error) => end_failed_claim(context, claim, &lease, error).await?,
    }
    Ok(())
}

/// Runs the work of a claim. A panic becomes an error, which fails the job and leaves the daemon
/// running. The next claim starts with a new session and a new walk. Only values that the workers
/// share are used again. A panic at any point leaves these values valid.
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
    if let Some(until) = window::closed_until(&settings.window) {
        return Ok(ClaimEnd::Closed(until));
    }
    match claim.kind {
        SliceKind::Plan => planning::plan(context, claim, &settings).await,
        SliceKind::Walk if claim.upper.is_none() => planning::plan_leaf(context, claim, &settings).await,
        // The previous holder ended after its last batch but before it finished the slice.
        SliceKind::Walk | SliceKind::Verify if claim.checkpoint.done && claim.deferred == 0 => Ok(ClaimEnd::Passed),
        // A verification is a walk that counts rows instead of changing them.
        SliceKind::Walk | SliceKind::Verify => {
            Box::pin(ClaimRun::begin(context, claim, lease, stop, settings).await?.run()).await
        }
    }
}

/// Ends a failed claim as the error policy specifies.
async fn end_failed_claim(context: &Context, claim: &Claim, lease: &Lease, error: Error) -> Result<()> {
    // The executor's login may have failed to terminate the session. The session may then hold row
    // locks that block the application indefinitely, so the control login terminates the session.
    // This is not necessary if the server reported with a SQLSTATE that it ended the session. If
    // the server cannot be reached, this call has no effect, and the code below handles the lost
    // connection.
    if matches!(error.kind, Kind::ConnectionLost | Kind::Overrun) && error.sqlstate.is_none() {
        end_session(context, claim).await;
    }
    // If a statement of the planning exceeds its time limit (60 s or less) even at attempt number
    // `PLAN_ATTEMPTS`, further attempts would probably fail too. A lock timeout does not count,
    // because lock waits are temporary.
    let hopeless = claim.kind == SliceKind::Plan
        && matches!(error.kind, Kind::Cancelled | Kind::Overrun)
        && claim.attempts >= PLAN_ATTEMPTS;
    match action(error.kind).0 {
        Action::Stop => {
            metrics::write_fenced(context.database());
            tracing::warn!("{}", error.message);
            Ok(())
        }
        Action::Reconnect => {
            // The next claim reads the checkpoint again, because a commit that the server
            // acknowledged may not be durable (P1).
            release_once_connected(context, claim, lease, &error).await?;
            // The slice is tried again until the login of its role works, but this worker can claim
            // slices of other roles in the meantime.
            if !is_of_the_login(error.kind) {
                return Err(error);
            }
            if context.log_limiter.is_news(claim.job_id, error.kind) {
                let (_, sentence) = action(error.kind);
                tracing::warn!(error = %error.message, "{sentence}");
            }
            Ok(())
        }
        Action::Fail | Action::Doubt if let Some(state) = queue::end_gone_leaf(&context.control, claim).await? => {
            tell(context, claim, Some(state)).await;
            Ok(())
        }
        // A walk or a verification has already retried the batch.
        Action::Restart if claim.kind != SliceKind::Plan => fail(context, claim, error).await,
        Action::Again | Action::Restart if !hopeless => {
            tell(context, claim, release_for_retry(context, claim, &error).await?).await;
            Err(error)
        }
        _ => fail(context, claim, error).await,
    }
}

async fn end_session(context: &Context, claim: &Claim) {
    match queue::end_session(&context.control, claim).await {
        Ok(true) => {
            tracing::warn!("terminated the session of a job, because the executor's login could not terminate it")
        }
        Ok(false) => {}
        Err(error) => tracing::debug!(error = %error.message, "could not terminate the session of a job"),
    }
}

/// Releases a slice because of a temporary failure. Until the next claim, the job shows this
/// failure as its waiting reason.
async fn release_for_retry(context: &Context, claim: &Claim, error: &Error) -> Result<Option<State>> {
    let (_, sentence) = action(error.kind);
    let text = format!("{sentence} ({})", error.message);
    let pause = if is_of_the_login(error.kind) { LOGIN_PAUSE } else { Duration::ZERO };
    queue::release_for_retry(&context.control, claim, waits_for(error.kind), &text, pause).await
}

/// Calls [`release_for_retry`] after a lost connection, and repeats the call until the server
/// responds or the lease can no longer be trusted. The pool's connections may be broken as well.
/// Without the repetition, the slice would stay claimed until its lease expires.
async fn release_once_connected(context: &Context, claim: &Claim, lease: &Lease, error: &Error) -> Result<()> {
    let mut attempt = 1;
    loop {
        match release_for_retry(context, claim, error).await {
            Err(again) if action(again.kind).0 == Action::Reconnect && lease.trusted() => {
                tokio::time::sleep(backoff(attempt)).await;
                attempt += 1;
            }
            answer => return answer.map(drop),
        }
    }
}

async fn fail(context: &Context, claim: &Claim, error: Error) -> Result<()> {
    tracing::error!("job failed: {}", error.message);
    let hint = error.hint.clone().unwrap_or_else(|| "Fix the cause, then run backfill.retry.".to_owned());
    match queue::fail(&context.control, claim, &error.hint(hint)).await? {
        // The failure has already been logged above, with its cause.
        Some(State::Failed) => count(context, State::Failed),
        state => tell(context, claim, state).await,
    }
    Ok(())
}

/// Logs that a job ended or was paused with this claim. Counts a job that ended.
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
