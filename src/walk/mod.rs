//! Where the walk is and what comes next: `next()` gives the batch, `feedback()` takes what became of it. Pure: it
//! touches no database. Other strategies than the plain one keep their state here too.

pub mod meter;
pub mod sizer;

use std::time::Duration;

use crate::job::claim::Outcome;
use crate::job::options::Options;
use crate::key::{Batch, Care, Key};
use crate::walk::sizer::Sizer;

/// Until somebody says what to aim at.
const FIRST_TARGET: Duration = Duration::from_millis(10);

/// The walk of one slice.
#[derive(Debug)]
pub struct Walk {
    position: Option<Key>,
    upper: Key,
    done: bool,
    sizer: Sizer,
    care: Care,
    /// One of so many next rows makes every batch fail that holds it.
    suspects: Option<u32>,
}

impl Walk {
    pub fn new(position: Option<Key>, upper: Key, done: bool, options: &Options) -> Self {
        let sizer = Sizer::new(FIRST_TARGET, options.max_batch_rows);
        Self { position, upper, done, sizer, care: Care::Plain, suspects: None }
    }

    /// The next batch, of at most `cap` rows; none at the end.
    pub fn next(&self, cap: Option<u64>) -> Option<Batch> {
        let rows = self.suspects.map_or_else(|| self.sizer.rows(), |suspects| (suspects / 2).max(1));
        (!self.done).then(|| Batch {
            from: self.position.clone(),
            upper: self.upper.clone(),
            rows: cap.map_or(rows, |cap| rows.min(u32::try_from(cap.max(1)).unwrap_or(u32::MAX))),
            care: self.care,
        })
    }

    /// A batch was committed.
    pub fn feedback(&mut self, batch: &Batch, outcome: &Outcome) {
        self.position.clone_from(&outcome.checkpoint.position);
        self.done = outcome.checkpoint.done;
        self.sizer.committed(batch.rows, outcome.scanned, outcome.took);
        let scanned = u32::try_from(outcome.scanned).unwrap_or(u32::MAX);
        self.suspects = self.suspects.and_then(|left| left.checked_sub(scanned)).filter(|left| *left > 0);
        // Where one row is in somebody's hands the next ones often are too.
        let went_around = outcome.locked > 0 || outcome.refused > 0;
        if self.suspects.is_none() && !went_around {
            self.care = Care::Plain;
        }
    }

    /// One row was left behind.
    pub fn left_behind(&mut self, outcome: &Outcome) {
        self.position.clone_from(&outcome.checkpoint.position);
        self.suspects = None;
        self.care = Care::Plain;
    }

    /// A batch of so many rows failed because of one of them: half of them next, until it stands alone. In `log2(rows)`
    /// tries, for a half that succeeds is done with, and one that fails has the row.
    pub fn narrow(&mut self, rows: u32) {
        self.suspects = Some(rows);
    }

    /// Whether the next row is known to be the one that can't be changed.
    pub fn stands_alone(&self) -> bool {
        self.suspects == Some(1)
    }

    /// Goes around what is locked, until a batch meets no such row.
    pub fn careful(&mut self) {
        self.care = Care::Careful;
    }

    /// Waits for what is locked instead of going around it.
    pub fn plain(&mut self) {
        self.care = Care::Plain;
    }

    /// A batch failed, and fewer rows would do better: half of them next.
    pub fn shrink(&mut self) {
        self.sizer.shrink();
        self.suspects = self.suspects.map(|left| (left / 2).max(1));
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
        self.sizer.tune(options.max_batch_rows);
    }

    /// How long the next batch should take.
    pub fn aim(&mut self, target: Duration) {
        self.sizer.aim(target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::claim::{Checkpoint, Desired};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Walks rows 1 to `end`, of which some can't be changed; returns how many batches it took, and which rows were
    /// left behind.
    fn walked(end: u64, poison: &BTreeSet<u64>, most: u32) -> (u64, BTreeSet<u64>) {
        let options = Options { max_batch_rows: most, ..Options::default() };
        let mut walk = Walk::new(None, Key(vec![end.to_string()]), false, &options);
        let (mut batches, mut left, mut at) = (0, BTreeSet::new(), 0);
        while let Some(batch) = walk.next(None) {
            batches += 1;
            assert!(batches < 20 * (end + 1), "does not end");
            let until = (at + u64::from(batch.rows)).min(end);
            let answer = |scanned: u64, at: u64, done| Outcome {
                checkpoint: Checkpoint { position: Some(Key(vec![at.to_string()])), done, place: String::new() },
                scanned,
                changed: scanned,
                locked: 0,
                refused: 0,
                took: Duration::from_micros(5 * scanned),
                desired: Desired::Running,
                revision: 0,
            };
            if !poison.iter().any(|row| (at + 1..=until).contains(row)) {
                let done = at + u64::from(batch.rows) > end;
                walk.feedback(&batch, &answer(until - at, until, done));
                at = until;
            } else if batch.rows == 1 && walk.stands_alone() {
                at += 1;
                left.insert(at);
                walk.left_behind(&answer(1, at, false));
            } else {
                walk.narrow(batch.rows);
            }
        }
        (batches, left)
    }

    proptest! {
        #[test]
        fn exactly_the_rows_that_can_not_be_changed_are_left_behind(
            end in 0u64..3000, poison in prop::collection::btree_set(1u64..3000, 0..12), most in 1u32..2000
        ) {
            let poison: BTreeSet<u64> = poison.into_iter().filter(|row| *row <= end).collect();
            prop_assert_eq!(walked(end, &poison, most).1, poison);
        }
    }

    #[test]
    fn care_lasts_as_long_as_there_is_something_to_go_around() {
        let mut walk = Walk::new(None, Key(vec!["9000".into()]), false, &Options::default());
        walk.careful();
        for (locked, refused, then) in [(3, 0, Care::Careful), (0, 2, Care::Careful), (0, 0, Care::Plain)] {
            let batch = walk.next(None).expect("not at its end");
            assert_eq!(batch.care, Care::Careful);
            let outcome = Outcome {
                checkpoint: Checkpoint { position: Some(Key(vec!["1".into()])), done: false, place: String::new() },
                scanned: 10,
                changed: 10 - locked - refused,
                locked,
                refused,
                took: Duration::from_millis(1),
                desired: Desired::Running,
                revision: 0,
            };
            walk.feedback(&batch, &outcome);
            assert_eq!(walk.next(None).expect("not at its end").care, then);
        }
    }

    #[test]
    fn a_row_is_found_in_about_log2_tries() {
        let (clean, _) = walked(100_000, &BTreeSet::new(), 2000);
        for row in [1, 50_000, 77_777, 100_000] {
            let (batches, _) = walked(100_000, &BTreeSet::from([row]), 2000);
            assert!(batches <= clean + 2 * 11 + 4, "row {row}: {batches} batches, {clean} without it");
        }
    }
}
