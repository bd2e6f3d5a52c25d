//! Counts the batches that this daemon currently runs on the database. The signal `probe_latency`
//! uses this count, and the time at which a batch began, to find out whether a batch ran at the
//! same time as a probe.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// Counts the daemon's running batches. All clones share the count.
#[derive(Debug, Clone, Default)]
pub struct InFlight {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    /// Start time of the first batch that began after the last call to [`InFlight::mark`].
    begun: Option<Instant>,
}

impl InFlight {
    /// Counts one more batch as running until the returned value is dropped.
    pub fn begin(&self) -> InFlightBatch {
        let mut state = self.state();
        state.running += 1;
        state.begun.get_or_insert_with(Instant::now);
        InFlightBatch { all: self.clone() }
    }

    /// Returns whether a batch runs now. After this call, [`InFlight::begun`] returns the start of
    /// the first batch that begins later. Only one caller may use this function, because each call
    /// resets `begun`.
    pub fn mark(&self) -> bool {
        let mut state = self.state();
        state.begun = None;
        state.running > 0
    }

    /// Returns the start time of the first batch that began after the last mark.
    pub fn begun(&self) -> Option<Instant> {
        self.state().begun
    }

    /// Locks the state. Ignores poisoning, because the counts are consistent even if a holder of
    /// the lock panicked.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running batch.
#[derive(Debug)]
pub struct InFlightBatch {
    all: InFlight,
}

impl Drop for InFlightBatch {
    fn drop(&mut self) {
        self.all.state().running -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn batches_that_run_at_the_mark_and_the_first_that_begins_after_it_are_known() {
        let in_flight = InFlight::default();
        assert!(!in_flight.mark());
        assert_eq!(in_flight.begun(), None);
        let one = in_flight.begin();
        let first = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        let two = in_flight.clone().begin();
        assert_eq!(in_flight.begun(), Some(first), "the first of two");
        assert!(in_flight.mark());
        drop(one);
        assert!(in_flight.mark(), "one of two is left");
        drop(two);
        assert!(!in_flight.mark());
        assert_eq!(in_flight.begun(), None);
    }
}
