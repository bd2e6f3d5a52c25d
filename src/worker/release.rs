//! Releases the slice of a claim after a temporary failure.

use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::job::claim::Claim;
use crate::job::put_off::PutOff;
use crate::job::state::State;
use crate::queue::claim as queue;
use crate::queue::lease::Lease;
use crate::worker::context::Context;
use crate::worker::error_policy::{Action, action, backoff, is_of_the_login, waits_for};

/// Time before a slice can be claimed again after a temporary failure that does not concern the
/// executor's login.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
/// Time before a slice can be claimed again after the executor's login failed (authentication or
/// TLS). The daemon may still be able to log in for other roles, and should not claim the same
/// slice again at once.
const LOGIN_PAUSE: Duration = Duration::from_secs(2);

/// Logs a temporary failure at most once a minute for each job and kind of error.
pub(super) fn warn(context: &Context, claim: &Claim, error: &Error) {
    if context.log_limiter.is_news(claim.job_id, error.kind) {
        let (_, sentence) = action(error.kind);
        tracing::warn!(error = %error.message, "{sentence}");
    }
}

pub(super) async fn end_session(context: &Context, claim: &Claim) {
    match queue::end_session(&context.control, claim).await {
        Ok(true) => {
            tracing::warn!(
                "the control login terminated the session of a job, because the executor's login could not terminate it"
            )
        }
        Ok(false) => {}
        Err(error) => tracing::debug!(error = %error.message, "could not terminate the session of a job"),
    }
}

/// Releases a slice because of a temporary failure. Until the next claim, the job shows this
/// failure as its waiting reason.
pub(super) async fn release_for_retry(
    context: &Context,
    claim: &Claim,
    lease: &Lease,
    error: &Error,
) -> Result<Option<State>> {
    let (_, sentence) = action(error.kind);
    let text = format!("{sentence} ({})", error.message);
    let pause = if is_of_the_login(error.kind) { LOGIN_PAUSE } else { RECONNECT_PAUSE };
    let put_off = PutOff { waiting: Some((waits_for(error.kind), text)), pause, counts: false };
    self::put_off(context, claim, lease, &put_off).await
}

/// Releases a slice so that no worker claims it for a while. If the connection is lost, repeats the
/// call until the server responds or the lease can no longer be trusted, because the other
/// connections of the pool may be broken as well. Otherwise the job would have no `waiting_reason`.
pub(super) async fn put_off(
    context: &Context,
    claim: &Claim,
    lease: &Lease,
    put_off: &PutOff,
) -> Result<Option<State>> {
    let mut attempt = 1;
    loop {
        match queue::release_for_retry(&context.control, claim, put_off).await {
            Err(again) if action(again.kind).0 == Action::Reconnect && lease.trusted() => {
                tokio::time::sleep(backoff(attempt)).await;
                attempt += 1;
            }
            answer => return unless_locked(answer),
        }
    }
}

/// Returns no state if another session has locked the row of the job. The worker then does not wait
/// for this session. A later claim finds the abandoned lease and continues the slice.
pub(super) fn unless_locked(released: Result<Option<State>>) -> Result<Option<State>> {
    match released {
        Err(error) if error.kind == Kind::LockTimeout => {
            tracing::info!(
                "could not release the slice, because another session has locked the job; the slice continues when the job is no longer locked"
            );
            Ok(None)
        }
        answer => answer,
    }
}
