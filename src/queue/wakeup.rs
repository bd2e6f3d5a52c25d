//! Wakes workers when a notification arrives. LISTEN runs in a separate session. A worker that
//! misses a notification finds the change when it polls.

use std::time::Duration;

use tokio::sync::watch;
use tokio_postgres::AsyncMessage;
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::pg::connect::{Session, within};
use crate::pg::pools::{CONTROL_LIMIT, Logins};

/// Interval at which the daemon checks whether the LISTEN session still responds, and the maximum
/// duration of such a check.
const PROBE: Duration = Duration::from_secs(5);
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// A counter of wake-ups. A receiver that was busy sees a higher number afterwards.
pub type Wakeups = watch::Receiver<u64>;

/// Runs LISTEN until `stop`, and reconnects if the connection is lost. Each notification and each
/// new session wakes the receivers.
pub async fn listen(logins: Logins, wake: watch::Sender<u64>, stop: CancellationToken) {
    let mut pause = Duration::from_millis(100);
    while !stop.is_cancelled() {
        match connect(&logins, &wake).await {
            Ok(session) => {
                pause = Duration::from_millis(100);
                // The session is not notified of changes that were made before its LISTEN, so the
                // workers poll once.
                wake.send_modify(|n| *n += 1);
                alive(&session, &stop).await;
            }
            Err(error) => {
                tracing::debug!(error = %error.message, "could not LISTEN for notifications; polling instead");
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(5)),
        }
    }
}

async fn connect(logins: &Logins, wake: &watch::Sender<u64>) -> Result<Session> {
    let wake = wake.clone();
    let session = logins
        .open_control("backfilld listen", move |message| {
            if matches!(message, AsyncMessage::Notification(_)) {
                wake.send_modify(|n| *n += 1);
            }
        })
        .await?;
    within(CONTROL_LIMIT, session.client.batch_execute("listen backfill")).await?;
    Ok(session)
}

/// Returns when the connection is lost or `stop` is cancelled.
async fn alive(session: &Session, stop: &CancellationToken) {
    let mut probes = tokio::time::interval(PROBE);
    probes.tick().await;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = probes.tick() => {
                if within(PROBE_LIMIT, session.client.batch_execute("")).await.is_err() {
                    return;
                }
            }
        }
        if session.client.is_closed() {
            return;
        }
    }
}
