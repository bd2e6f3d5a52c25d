//! Which of the daemon's batches run on the database now, so that the probe knows when it is alone with the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A clone counts the same batches.
#[derive(Debug, Clone, Default)]
pub struct Batches {
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Batches {
    /// One more batch, until what is returned is dropped.
    pub fn begin(&self) -> Running {
        self.counts.begun.fetch_add(1, Ordering::SeqCst);
        Running { counts: Arc::clone(&self.counts) }
    }

    /// A mark for [`Batches::none_since`]; none while a batch runs.
    pub fn quiet(&self) -> Option<u64> {
        // In this order: a batch that begins in between is counted as one that runs.
        let ended = self.counts.ended.load(Ordering::SeqCst);
        let begun = self.counts.begun.load(Ordering::SeqCst);
        (begun == ended).then_some(begun)
    }

    /// Whether no batch has begun since the mark was made.
    pub fn none_since(&self, mark: u64) -> bool {
        self.counts.begun.load(Ordering::SeqCst) == mark
    }
}

/// A batch that runs.
#[derive(Debug)]
pub struct Running {
    counts: Arc<Counts>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.counts.ended.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_quiet_when_no_batch_ran_from_mark_to_look() {
        let batches = Batches::default();
        let mark = batches.quiet().expect("none runs");
        assert!(batches.none_since(mark));
        let (one, two) = (batches.begin(), batches.clone().begin());
        assert!(batches.quiet().is_none() && !batches.none_since(mark));
        drop(one);
        assert!(batches.quiet().is_none());
        drop(two);
        assert!(!batches.none_since(mark), "it was not quiet in between");
        assert!(batches.quiet().is_some_and(|mark| batches.none_since(mark)));
    }
}
