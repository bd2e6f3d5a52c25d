//! Decides when the holder of a slice next asks the queue whether to split the slice.

use std::time::Duration;

use tokio::time::Instant;

/// Time between two requests to the queue. Each request costs a round trip.
const ASK: Duration = Duration::from_secs(1);
/// Time between an attempt that found no split point and the next attempt. The slice only becomes
/// smaller, so another attempt is unlikely to succeed soon.
const RETRY_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct SplitTimer {
    due: Instant,
}

impl SplitTimer {
    pub fn new() -> Self {
        Self { due: Instant::now() + ASK }
    }

    pub fn is_due(&self) -> bool {
        Instant::now() >= self.due
    }

    pub fn asked(&mut self) {
        self.due = Instant::now() + ASK;
    }

    pub fn rest(&mut self) {
        self.due = Instant::now() + RETRY_AFTER;
    }
}
