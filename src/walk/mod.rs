//! Where the walk is and what comes next: `next()` gives the batch, `feedback()` takes what became of it. Pure: it
//! touches no database. Other strategies than the plain one keep their state here too.

pub mod meter;
pub mod sizer;

use crate::job::claim::Outcome;
use crate::job::options::Options;
use crate::key::{Batch, Key};
use crate::walk::sizer::Sizer;

/// The walk of one slice.
#[derive(Debug)]
pub struct Walk {
    position: Option<Key>,
    upper: Key,
    done: bool,
    sizer: Sizer,
}

impl Walk {
    pub fn new(position: Option<Key>, upper: Key, done: bool, options: &Options) -> Self {
        Self { position, upper, done, sizer: Sizer::new(options.target_batch_ms, options.max_batch_rows) }
    }

    /// The next batch, of at most `cap` rows; none at the end.
    pub fn next(&self, cap: Option<u64>) -> Option<Batch> {
        (!self.done).then(|| Batch {
            from: self.position.clone(),
            upper: self.upper.clone(),
            rows: cap
                .map_or(self.sizer.rows(), |cap| self.sizer.rows().min(u32::try_from(cap.max(1)).unwrap_or(u32::MAX))),
        })
    }

    /// A batch was committed.
    pub fn feedback(&mut self, batch: &Batch, outcome: &Outcome) {
        self.position.clone_from(&outcome.checkpoint.position);
        self.done = outcome.checkpoint.done;
        self.sizer.committed(batch.rows, outcome.scanned, outcome.took);
    }

    /// A batch failed, and fewer rows would do better: half of them next.
    pub fn shrink(&mut self) {
        self.sizer.shrink();
    }

    /// How many rows the next batch would have.
    pub fn rows(&self) -> u32 {
        self.sizer.rows()
    }

    pub fn position(&self) -> Option<&Key> {
        self.position.as_ref()
    }

    pub fn upper(&self) -> &Key {
        &self.upper
    }

    pub fn tune(&mut self, options: &Options) {
        self.sizer.tune(options.target_batch_ms, options.max_batch_rows);
    }
}
