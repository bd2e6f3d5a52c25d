//! When the holder of a slice next asks whether to cut it.

use std::time::Duration;

use tokio::time::Instant;

/// Between two questions to the queue, which cost a round trip each.
const ASK: Duration = Duration::from_secs(1);
/// After a cut that was not worth it: what remains only gets less.
const REST: Duration = Duration::from_secs(30);

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
        self.due = Instant::now() + REST;
    }
}
