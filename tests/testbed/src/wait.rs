//! Functions that wait for an outcome instead of a fixed time.

use std::fmt::Debug;
use std::time::Duration;
use tokio::time::Instant;

/// Shortest and longest pause between two probes.
const POLL: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Polls until `predicate` returns true. Panics with `what` if that does not happen within
/// `timeout`.
///
/// The predicate is always evaluated once more after the deadline, so that a stalled machine does
/// not make a test fail.
#[track_caller]
pub fn until(
    timeout: Duration,
    what: impl Into<String>,
    mut predicate: impl AsyncFnMut() -> bool,
) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    let what = what.into();
    async move {
        poll(timeout, &what, caller, async || if predicate().await { Ok(()) } else { Err("still false") }).await;
    }
}

/// Polls until `probe` returns an `Ok`, and returns its value. After `timeout`, panics with `what`
/// and the last `Err`, which describes the last state.
#[track_caller]
pub fn until_ok<T, E: Debug>(
    timeout: Duration,
    what: impl Into<String>,
    probe: impl AsyncFnMut() -> Result<T, E>,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    let what = what.into();
    async move { poll(timeout, &what, caller, probe).await }
}

async fn poll<T, E: Debug>(
    timeout: Duration,
    what: &str,
    caller: &std::panic::Location<'_>,
    mut probe: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        let started = Instant::now();
        let late = started >= deadline;
        let probed = probe().await;
        // The pause grows with the duration of the probe. Many tests poll at once, and the probes
        // would otherwise take the processor time for which the polled programs wait.
        let pause = (started.elapsed() * 2).clamp(POLL, LONGEST_PAUSE);
        match probed {
            Ok(value) => return value,
            Err(seen) if late => {
                panic!("{caller}: timed out after {timeout:?} while waiting until {what}; last seen: {seen:?}")
            }
            Err(_) => tokio::time::sleep(pause).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_ends_as_soon_as_the_predicate_holds() {
        let mut calls = 0;
        let third_time = async || {
            calls += 1;
            calls == 3
        };
        until(Duration::from_secs(5), "the third time", third_time).await;
        assert_eq!(calls, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "while waiting until the job succeeds; last seen: \"running\"")]
    async fn a_timeout_reports_what_was_awaited_and_the_last_state() {
        until_ok(Duration::from_millis(30), "the job succeeds", async || Err::<(), _>("running")).await;
    }
}
