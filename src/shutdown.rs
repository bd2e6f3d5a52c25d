//! Stopping: SIGTERM or SIGINT asks to drain, a second one or the end of the grace time cuts off.
//!
//! Shutdown is an argument of every long-lived task. `drain` is looked at between batches only; `hard` may end a batch
//! in flight, whose transaction the server then rolls back.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error::{Error, Kind, Result};

/// Two tokens; `hard` is never cancelled before `drain`. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Finish the batch in flight, give the leases back, stop.
    pub drain: CancellationToken,
    /// Stop now.
    pub hard: CancellationToken,
}

impl Shutdown {
    /// One that no signal reaches.
    pub fn new() -> Self {
        Self::default()
    }

    /// Listen for SIGTERM and SIGINT from now on: when this returns, neither ends the process by itself any more.
    /// `grace` runs from the first signal, or from whoever else cancels `drain`; what it is then holds.
    pub fn on_signals(grace: watch::Receiver<Duration>) -> Result<Self> {
        let listen = |kind, name: &str| {
            signal(kind).map_err(|error| Error::new(Kind::Internal, format!("cannot listen for {name}: {error}")))
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

    /// Stop for a reason of our own: the work is done, or a task failed.
    pub fn start(&self) {
        self.drain.cancel();
    }

    /// Signals in, tokens out.
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
            Some(name) = signals.recv() => warn!(signal = name, "second signal: stopping at once"),
            () = tokio::time::sleep(grace) => warn!(grace_seconds = grace.as_secs_f64(), "grace is over: stopping at once"),
        }
        self.hard.cancel();
        // Further signals must find a listener, or the sender's channel would fill up unseen.
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
    async fn the_first_signal_drains_and_the_second_cuts_off() {
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
    async fn grace_ends() {
        let (shutdown, signals) = following();
        let start = Instant::now();
        signals.send("SIGINT").await.unwrap();
        shutdown.hard.cancelled().await;
        assert!(start.elapsed() >= GRACE && start.elapsed() < GRACE + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_of_our_own_has_the_same_grace() {
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
