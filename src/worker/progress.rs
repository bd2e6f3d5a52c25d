//! How far a claim is, and what stood in its way: the counts from which the error policy decides.

use std::collections::HashMap;

use crate::error::Kind;
use crate::job::batch::Outcome;
use crate::worker::hold_log::HoldLog;

/// Beyond this many deferred rows the whole table is likely locked: the walk waits for locked rows.
const MOST_DEFERRED: u64 = 10_000;

#[derive(Debug, Default)]
pub struct Progress {
    /// Rows that this slice has deferred so far.
    deferred: u64,
    pub failures: Failures,
    pub hold_log: HoldLog,
}

impl Progress {
    pub fn new(deferred: u64) -> Self {
        Self { deferred, ..Self::default() }
    }

    /// A batch was committed, or a row was passed without being changed.
    pub fn committed(&mut self, outcome: &Outcome) {
        self.failures.clear();
        self.deferred += outcome.deferred;
    }

    pub fn has_deferred_rows(&self) -> bool {
        self.deferred > 0
    }

    pub fn may_defer_more(&self) -> bool {
        self.deferred < MOST_DEFERRED
    }
}

/// Failures since the last success. Each kind has a count of its own: a table that was locked for a while has not used
/// up the tries of another failure.
#[derive(Debug, Default)]
pub struct Failures {
    in_a_row: u32,
    by_kind: HashMap<Kind, u32>,
    /// Of batches that have no row: the statement itself is at fault, by a trigger of its own.
    without_row: u32,
    /// Rows quarantined one after the other of which nobody knows whether they are at fault.
    doubted_rows: u32,
}

impl Failures {
    /// Counts one more; returns how many of its kind that makes.
    pub fn add(&mut self, kind: Kind) -> u32 {
        self.in_a_row += 1;
        let count = self.by_kind.entry(kind).or_default();
        *count += 1;
        *count
    }

    /// Counts a batch whose row should have been the one that fails, and that had none.
    pub fn count_without_row(&mut self, has_no_row: bool) {
        self.without_row = if has_no_row { self.without_row + 1 } else { 0 };
    }

    pub fn without_row(&self) -> u32 {
        self.without_row
    }

    pub fn doubt_row(&mut self) {
        self.doubted_rows += 1;
    }

    pub fn doubted_rows(&self) -> u32 {
        self.doubted_rows
    }

    pub fn of(&self, kind: Kind) -> u32 {
        self.by_kind.get(&kind).copied().unwrap_or(0)
    }

    pub fn in_a_row(&self) -> u32 {
        self.in_a_row
    }

    /// Something was committed. The rows in doubt stay so until a whole batch is: quarantining one commits too.
    pub fn clear(&mut self) {
        *self = Self { doubted_rows: self.doubted_rows, ..Self::default() };
    }

    /// A batch was committed, so the statement is not at fault.
    pub fn clear_doubts(&mut self) {
        self.doubted_rows = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_failure_has_tries_of_its_own() {
        let mut failures = Failures::default();
        for _ in 0..9 {
            failures.add(Kind::LockTimeout);
        }
        assert_eq!((failures.add(Kind::StalePlan), failures.of(Kind::LockTimeout), failures.in_a_row()), (1, 9, 10));
        failures.clear();
        assert_eq!((failures.of(Kind::LockTimeout), failures.in_a_row()), (0, 0));
    }

    #[test]
    fn rows_in_doubt_are_counted_until_a_batch_succeeds() {
        let mut failures = Failures::default();
        failures.doubt_row();
        failures.clear();
        failures.doubt_row();
        assert_eq!(failures.doubted_rows(), 2);
        failures.clear_doubts();
        assert_eq!(failures.doubted_rows(), 0);
    }
}
