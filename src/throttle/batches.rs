//! Which of the daemon's batches run on the database now, so that the probe knows whether it meets one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// A clone counts the same batches.
#[derive(Debug, Clone, Default)]
pub struct Batches {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    /// When the first batch began since the last mark.
    begun: Option<Instant>,
}

impl Batches {
    /// One more batch, until what is returned is dropped.
    pub fn begin(&self) -> Running {
        let mut state = self.state();
        state.running += 1;
        state.begun.get_or_insert_with(Instant::now);
        Running { batches: self.clone() }
    }

    /// Whether a batch runs now. [`Batches::begun`] counts from here; there is one who marks.
    pub fn mark(&self) -> bool {
        let mut state = self.state();
        state.begun = None;
        state.running > 0
    }

    /// When the first batch began since the last mark.
    pub fn begun(&self) -> Option<Instant> {
        self.state().begun
    }

    /// Counts are right whatever happened to who held the lock.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A batch that runs.
#[derive(Debug)]
pub struct Running {
    batches: Batches,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.batches.state().running -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_runs_at_the_mark_and_what_begins_first_after_it_are_known() {
        let batches = Batches::default();
        assert!(!batches.mark());
        assert_eq!(batches.begun(), None);
        let one = batches.begin();
        let first = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        let two = batches.clone().begin();
        assert_eq!(batches.begun(), Some(first), "the first of two");
        assert!(batches.mark());
        drop(one);
        assert!(batches.mark(), "one of two is left");
        drop(two);
        assert!(!batches.mark());
        assert_eq!(batches.begun(), None);
    }
}
