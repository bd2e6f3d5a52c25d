//! Shutdown. SIGTERM or SIGINT starts a drain. Another signal during the drain, or the end of the
//! grace period, stops the daemon immediately.
//!
//! The tasks of a database take the shutdown as an argument. Workers check `drain` between batches
//! and while they wait. `hard` may interrupt a batch in flight. The server then rolls back the
//! batch's transaction.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error::{Error, Kind, Result};

/// The tokens of a shutdown, which all clones share. `hard` is never cancelled before `drain`.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Once this token is cancelled, each task finishes its batch in flight, releases its leases,
    /// and stops.
    pub drain: CancellationToken,
    /// Once this token is cancelled, each task stops immediately.
    pub hard: CancellationToken,
}

impl Shutdown {
    /// Creates a shutdown that no signal triggers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Installs the handlers for SIGTERM and SIGINT and creates the shutdown. The grace period
    /// begins at the first signal, or when the program itself cancels `drain`. Its length is the
    /// value of `grace` at that time.
    pub fn on_signals(grace: watch::Receiver<Duration>) -> Result<Self> {
        let listen = |kind, name: &str| {
            signal(kind).map_err(|error| {
                Error::new(Kind::Internal, format!("could not install the handler for {name}: {error}"))
            })
        };
        let mut terminate = listen(SignalKind::terminate(), "SIGTERM")?;
        let mut interrupt = listen(SignalKind::interrupt(), "SIGINT")?;
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if sender.send(name).await.is_err() {
                    return;
                }
            }
        });
        let shutdown = Self::new();
        tokio::spawn(shutdown.clone().follow(receiver, grace));
        Ok(shutdown)
    }

    /// Starts a drain without a signal. This happens when all work is done or a task failed.
    pub fn start(&self) {
        self.drain.cancel();
    }

    /// Cancels the tokens when signals arrive and when the grace period ends.
    async fn follow(self, mut signals: mpsc::Receiver<&'static str>, grace: watch::Receiver<Duration>) {
        tokio::select! {
            biased;
            () = self.drain.cancelled() => {}
            Some(name) = signals.recv() => info!(signal = name, grace_seconds = grace.borrow().as_secs_f64(), "draining"),
        }
        let grace = *grace.borrow();
        self.drain.cancel();
        tokio::select! {
            biased;
            () = self.hard.cancelled() => {}
            Some(name) = signals.recv() => warn!(signal = name, "received a second signal: stopping immediately"),
            () = tokio::time::sleep(grace) => warn!(grace_seconds = grace.as_secs_f64(), "grace period expired: stopping immediately"),
        }
        self.hard.cancel();
        // Receives and ignores further signals. Otherwise the channel would fill up.
        while signals.recv().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const GRACE: Duration = Duration::from_secs(20);

    fn following() -> (Shutdown, mpsc::Sender<&'static str>) {
        let (sender, receiver) = mpsc::channel(4);
        let shutdown = Shutdown::new();
        tokio::spawn(shutdown.clone().follow(receiver, watch::channel(GRACE).1));
        (shutdown, sender)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_signal_drains_and_the_second_stops_immediately() {
        let (shutdown, signals) = following();
        let start = Instant::now();
        signals.send("SIGTERM").await.unwrap();
        shutdown.drain.cancelled().await;
        assert!(!shutdown.hard.is_cancelled());
        signals.send("SIGTERM").await.unwrap();
        shutdown.hard.cancelled().await;
        assert!(start.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_daemon_stops_at_the_end_of_the_grace_period() {
        let (shutdown, signals) = following();
        let start = Instant::now();
        signals.send("SIGINT").await.unwrap();
        shutdown.hard.cancelled().await;
        assert!(start.elapsed() >= GRACE && start.elapsed() < GRACE + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_without_a_signal_has_the_same_grace_period() {
        let (shutdown, _signals) = following();
        shutdown.start();
        tokio::time::sleep(GRACE / 2).await;
        assert!(!shutdown.hard.is_cancelled());
        shutdown.hard.cancelled().await;
    }

    #[tokio::test]
    async fn sigterm_drains() {
        let shutdown = Shutdown::on_signals(watch::channel(GRACE).1).unwrap();
        let status = std::process::Command::new("sh")
            .args(["-c", "kill -TERM \"$0\"", &std::process::id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
        tokio::time::timeout(Duration::from_secs(5), shutdown.drain.cancelled()).await.unwrap();
    }
}
