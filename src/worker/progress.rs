//! Tracks the progress of a claim and the counts of its failures. The error policy bases its
//! decisions on these counts.

use std::collections::HashMap;

use crate::error::Kind;
use crate::job::batch::Outcome;
use crate::worker::hold_log::HoldLog;

/// Number of deferred rows at which a slice stops deferring rows. If this many rows are locked, the
/// whole table is probably locked. The walk then waits for locked rows instead.
const MOST_DEFERRED: u64 = 10_000;

#[derive(Debug, Default)]
pub struct Progress {
    /// Number of rows that were already deferred when the slice was claimed, plus the number of
    /// rows that this claim has deferred.
    deferred: u64,
    pub failures: Failures,
    pub hold_log: HoldLog,
}

impl Progress {
    pub fn new(deferred: u64) -> Self {
        Self { deferred, ..Self::default() }
    }

    /// Records that a batch committed, or that the walk passed a row without changing it.
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

/// Counts the failures since the last success. Each kind is counted separately, so that the
/// attempts spent on a locked table do not use up the attempts of another kind of failure.
#[derive(Debug, Default)]
pub struct Failures {
    in_a_row: u32,
    by_kind: HashMap<Kind, u32>,
    /// Number of consecutive failed batches that should have contained only the failing row but
    /// contained no row. Several such failures mean that the statement itself fails, for example
    /// because of a statement-level trigger.
    without_row: u32,
    /// Number of rows that were quarantined for errors that the statement may have caused, counted
    /// since the last commit of a whole batch.
    doubted_rows: u32,
}

impl Failures {
    /// Counts one more failure. Returns the number of failures of the given kind, including this
    /// one.
    pub fn add(&mut self, kind: Kind) -> u32 {
        self.in_a_row += 1;
        let count = self.by_kind.entry(kind).or_default();
        *count += 1;
        *count
    }

    /// Counts a batch of several rows that reached its time limit. Such a batch does not show that
    /// one of its rows is too slow.
    pub fn add_slow_batch(&mut self) -> u32 {
        self.in_a_row += 1;
        self.of(Kind::TimeLimit)
    }

    /// Counts a failed batch if it contained no row (`has_no_row`) although it should have
    /// contained the failing row. Any other failed batch resets the count to 0.
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

    /// Clears the counts after a commit. `doubted_rows` is kept until a whole batch commits,
    /// because quarantining a row is a commit too.
    pub fn clear(&mut self) {
        *self = Self { doubted_rows: self.doubted_rows, ..Self::default() };
    }

    /// Clears `doubted_rows` after a whole batch committed. The commit shows that the statement is
    /// not at fault.
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
