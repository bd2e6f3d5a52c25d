//! Walks one slice in key order. A walk stores its position and computes its next batch. This
//! module does not access a database.
//!
//! [`Walk::next`] creates a batch within the limits of a permit, and [`Walk::feedback`] records the
//! outcome of the batch. The permit limits the number of rows in a batch. The walk creates smaller
//! batches only while it searches for the row that makes batches fail.

use crate::job::batch::{Batch, BatchMode, Outcome};
use crate::job::checkpoint::Checkpoint;
use crate::job::permit::Permit;
use crate::key::Key;

/// State of the walk of one slice.
#[derive(Debug)]
pub struct Walk {
    checkpoint: Checkpoint,
    upper: Key,
    search: Search,
}

/// State of the search for a row that makes batches fail.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    mode: BatchMode,
    /// Number of suspects: the rows directly after the position, one of which makes batches fail.
    /// None if no search is in progress.
    suspects: Option<u32>,
    /// The next batch has the number of suspects divided by this number.
    parts: u32,
}

/// Number of parts into which the search divides the suspects.
const HALVES: u32 = 2;
/// Number of parts if a failed batch costs much more time than a batch that succeeds.
const EIGHTHS: u32 = 8;

impl Walk {
    pub fn new(checkpoint: Checkpoint, upper: Key) -> Self {
        Self { checkpoint, upper, search: Search { mode: BatchMode::Fast, suspects: None, parts: HALVES } }
    }

    /// Returns whether all rows of the slice have been passed. The caller checks this before it
    /// asks the gate for a permit. Otherwise a finished walk would wait for a permit.
    pub fn is_done(&self) -> bool {
        self.checkpoint.done
    }

    /// Returns the next batch. If there are suspects, the batch has only a part of them. A batch
    /// has at least one row, and never more rows than the permit allows.
    pub fn next(&self, permit: &Permit) -> Batch {
        let rows =
            self.search.suspects.map_or(permit.max_rows, |suspects| permit.max_rows.min(suspects / self.search.parts));
        Batch {
            checkpoint: self.checkpoint.clone(),
            upper: self.upper.clone(),
            rows: rows.max(1),
            mode: self.search.mode,
        }
    }

    /// Records that a batch committed.
    pub fn feedback(&mut self, outcome: &Outcome) {
        self.checkpoint.clone_from(&outcome.checkpoint);
        let scanned = u32::try_from(outcome.scanned).unwrap_or(u32::MAX);
        self.search.suspects = self.search.suspects.and_then(|left| left.checked_sub(scanned)).filter(|left| *left > 0);
        // Locked rows often lie next to each other, so after a batch that skipped rows, the next
        // batch also works row by row.
        let went_around = outcome.deferred > 0 || outcome.quarantined > 0;
        if self.search.suspects.is_none() && !went_around {
            self.search.mode = BatchMode::Fast;
        }
    }

    /// Records that one row was passed without being changed, because it was deferred or
    /// quarantined.
    pub fn row_skipped(&mut self, outcome: &Outcome) {
        self.checkpoint.clone_from(&outcome.checkpoint);
        self.search.suspects = None;
        self.search.mode = BatchMode::Fast;
    }

    /// Records that a batch of this many rows failed because of one of its rows. Each following
    /// batch has half of the rows that may be the cause, until the row is isolated. This search
    /// takes about `log2(rows)` batches, because the walk moves past a half that succeeds, and a
    /// half that fails contains the row.
    pub fn narrow(&mut self, rows: u32) {
        self.search = Search { suspects: Some(rows), parts: HALVES, ..self.search };
    }

    /// Like [`Self::narrow`], but for a batch that failed because it took too long. Each batch that
    /// contains the row costs the whole time limit, and each other batch is quick. So each
    /// following batch has an eighth of the rows that may be the cause.
    pub fn narrow_quickly(&mut self, rows: u32) {
        self.search = Search { suspects: Some(rows), parts: EIGHTHS, ..self.search };
    }

    /// Returns whether the next row is the one that makes batches fail.
    pub fn stands_alone(&self) -> bool {
        self.search.suspects == Some(1)
    }

    /// Makes batches work row by row and defer locked rows. This mode ends after a batch that skips
    /// no row, if no suspects are left. The mode also ends when a single row is skipped
    /// ([`Self::row_skipped`]).
    pub fn per_row(&mut self) {
        self.search.mode = BatchMode::PerRow;
    }

    /// Makes batches wait for locked rows.
    pub fn fast(&mut self) {
        self.search.mode = BatchMode::Fast;
    }

    /// Records that a batch failed, but might succeed with fewer rows. If a search for the failing
    /// row is in progress, halves the number of suspect rows.
    pub fn shrink(&mut self) {
        self.search.suspects = self.search.suspects.map(|left| (left / 2).max(1));
    }

    pub fn search(&self) -> Search {
        self.search
    }

    /// Continues a search that another claim began at the same position.
    pub fn resume(&mut self, search: Search) {
        self.search = search;
    }

    pub fn position(&self) -> Option<&Key> {
        self.checkpoint.position.as_ref()
    }

    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Records the new `ctid` of the checkpoint's row, after a retry of deferred rows has updated
    /// this row. The position of the walk does not change.
    pub fn checkpoint_moved(&mut self, ctid: String) {
        self.checkpoint.ctid = ctid;
    }

    pub fn upper(&self) -> &Key {
        &self.upper
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::job::claim::Desired;

    fn start() -> Checkpoint {
        Checkpoint { position: None, done: false, ctid: String::new() }
    }

    fn permit(max_rows: u32) -> Permit {
        Permit { max_rows, target: Duration::from_millis(10) }
    }

    /// Walks rows 1 to `end`. The rows in `bad_rows` cannot be changed. The numbers in `permits`
    /// are used in turn as the sizes of the permits. `narrow` is called after each batch that
    /// failed. Returns the numbers of batches and of failed batches, and the rows that were
    /// skipped.
    fn walked(
        end: u64,
        bad_rows: &BTreeSet<u64>,
        permits: &[u32],
        narrow: fn(&mut Walk, u32),
    ) -> (u64, u64, BTreeSet<u64>) {
        let mut walk = Walk::new(start(), Key(vec![end.to_string()]));
        let (mut batches, mut failed, mut left, mut at) = (0, 0, BTreeSet::new(), 0);
        let mut permits = permits.iter().cycle();
        while !walk.is_done() {
            let most = *permits.next().expect("permits");
            let batch = walk.next(&permit(most));
            assert!((1..=most).contains(&batch.rows));
            batches += 1;
            assert!(batches < 20 * (end + 1), "the walk does not end");
            let until = (at + u64::from(batch.rows)).min(end);
            let answer = |scanned: u64, at: u64, done| Outcome {
                checkpoint: Checkpoint { position: Some(Key(vec![at.to_string()])), done, ctid: String::new() },
                scanned,
                changed: scanned,
                deferred: 0,
                quarantined: 0,
                took: Duration::from_micros(5 * scanned),
                desired: Desired::Running,
                revision: 0,
            };
            if !bad_rows.iter().any(|row| (at + 1..=until).contains(row)) {
                let done = at + u64::from(batch.rows) > end;
                walk.feedback(&answer(until - at, until, done));
                at = until;
            } else if batch.rows == 1 && walk.stands_alone() {
                at += 1;
                left.insert(at);
                walk.row_skipped(&answer(1, at, false));
            } else {
                failed += 1;
                narrow(&mut walk, batch.rows);
            }
        }
        (batches, failed, left)
    }

    proptest! {
        #[test]
        fn exactly_the_rows_that_can_not_be_changed_are_skipped(
            end in 0u64..3000, bad_rows in prop::collection::btree_set(1u64..3000, 0..12),
            permits in prop::collection::vec(1u32..2000, 1..5)
        ) {
            let bad_rows: BTreeSet<u64> = bad_rows.into_iter().filter(|row| *row <= end).collect();
            prop_assert_eq!(&walked(end, &bad_rows, &permits, Walk::narrow).2, &bad_rows);
            prop_assert_eq!(&walked(end, &bad_rows, &permits, Walk::narrow_quickly).2, &bad_rows);
        }
    }

    #[test]
    fn batches_go_row_by_row_for_as_long_as_rows_are_skipped() {
        let mut walk = Walk::new(start(), Key(vec!["9000".into()]));
        walk.per_row();
        for (deferred, quarantined, then) in
            [(3, 0, BatchMode::PerRow), (0, 2, BatchMode::PerRow), (0, 0, BatchMode::Fast)]
        {
            assert_eq!(walk.next(&permit(10)).mode, BatchMode::PerRow);
            let outcome = Outcome {
                checkpoint: Checkpoint { position: Some(Key(vec!["1".into()])), done: false, ctid: String::new() },
                scanned: 10,
                changed: 10 - deferred - quarantined,
                deferred,
                quarantined,
                took: Duration::from_millis(1),
                desired: Desired::Running,
                revision: 0,
            };
            walk.feedback(&outcome);
            assert_eq!(walk.next(&permit(10)).mode, then);
        }
    }

    #[test]
    fn a_row_is_found_in_about_log2_tries() {
        let (clean, _, _) = walked(100_000, &BTreeSet::new(), &[2000], Walk::narrow);
        for row in [1, 50_000, 77_777, 100_000] {
            let (batches, _, _) = walked(100_000, &BTreeSet::from([row]), &[2000], Walk::narrow);
            assert!(batches <= clean + 2 * 11 + 4, "row {row}: {batches} batches, {clean} without it");
            // After the first failure with 2000 rows, the search uses batches of 250, 31, 3 and 1
            // rows.
            let (_, failed, _) = walked(100_000, &BTreeSet::from([row]), &[2000], Walk::narrow_quickly);
            assert!(failed <= 6, "row {row}: {failed} failed batches");
        }
    }
}
