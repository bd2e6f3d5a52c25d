//! Troubles on the way: how often each came in a row, and what the operator is told of it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use deadpool_postgres::Pool;

use crate::error::{Error, Kind, Result};
use crate::job::retry::{deadly, deadly_to_all};
use crate::key::{Batch, Key};
use crate::queue::claim as queue;

/// A trouble that stays is told again after so long. A walk among many bad or locked rows meets thousands.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

/// What was told of late, of each job; shared by the workers of one database.
#[derive(Debug, Clone, Default)]
pub struct Told(Arc<Mutex<HashMap<(i64, Kind), Instant>>>);

impl Told {
    /// Whether to tell this kind of trouble of a job; from now on it was told.
    pub fn is_news(&self, job_id: i64, kind: Kind) -> bool {
        let now = Instant::now();
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now.duration_since(*at) < TOLD_AGAIN);
        match told.entry((job_id, kind)) {
            Entry::Vacant(place) => {
                place.insert(now);
                true
            }
            Entry::Occupied(_) => false,
        }
    }
}

/// A connection may be lost so often for reasons that no row has.
const USUAL_LOSSES: u32 = 2;
/// A row that was changed alone, and took the connection with it this often, does so by its nature: where the server said that it
/// ended the session, and where it said nothing, as when the network fails.
const EXPLAINED_LOSSES_OF_A_ROW: u32 = 3;
const SILENT_LOSSES_OF_A_ROW: u32 = 10;
/// The server, too.
const FALLS: u32 = 5;
/// After so long a loss has nothing to do with the one before.
const ANOTHER_LOSS: Duration = Duration::from_secs(600);

/// Connections that were lost with a batch in flight, by slice; shared by the workers of one database. A row whose trigger
/// ends its session, or the server, would be met again with each claim.
#[derive(Debug, Clone, Default)]
pub struct Losses(Arc<Mutex<HashMap<i64, Loss>>>);

#[derive(Debug, Clone)]
pub(super) struct Loss {
    at: Instant,
    /// Where the batch began. Who comes further has not met the row yet.
    from: Option<Key>,
    rows: u32,
    /// The row was alone, and known.
    row: bool,
    /// The server said why. When it goes down it says nothing.
    explained: bool,
    message: String,
    /// Since when the server counts; anew with each fall.
    counts_since: Option<String>,
    /// It is not known yet what the last one was.
    open: bool,
    losses: u32,
    /// Of them, with the row alone: explained, and not.
    alone: u32,
    alone_in_silence: u32,
    /// With the server.
    falls: u32,
}

impl Losses {
    /// A connection was lost with this batch; `row`: it was one row, known by its key.
    pub(super) fn add(&self, slice: i64, batch: &Batch, row: bool, error: &Error) {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, loss| now.duration_since(loss.at) < ANOTHER_LOSS);
        let before = all.remove(&slice);
        let moved = before.as_ref().is_some_and(|before| before.from != batch.from);
        let of_before = |count: fn(&Loss) -> u32| before.as_ref().map_or(0, count);
        let loss = Loss {
            at: now,
            from: batch.from.clone(),
            rows: batch.rows,
            row,
            explained: error.sqlstate.is_some(),
            message: error.message.clone(),
            open: true,
            losses: of_before(|before| before.losses),
            alone: if moved { 0 } else { of_before(|before| before.alone) },
            alone_in_silence: if moved { 0 } else { of_before(|before| before.alone_in_silence) },
            falls: if moved { 0 } else { of_before(|before| before.falls) },
            counts_since: before.and_then(|before| before.counts_since),
        };
        all.insert(slice, loss);
    }

    /// What is known of a slice's losses when it is claimed again.
    pub(super) async fn look(&self, pool: &Pool, slice: i64) -> Result<Option<Loss>> {
        if !self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&slice) {
            return Ok(None);
        }
        let since = queue::counts_since(pool).await?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(loss) = all.get_mut(&slice) else { return Ok(None) };
        loss.settle(since);
        Ok(Some(loss.clone()))
    }

    pub(super) fn of(&self, slice: i64) -> Option<Loss> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&slice).cloned()
    }

    pub(super) fn forget(&self, slice: i64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&slice);
    }
}

impl Loss {
    fn settle(&mut self, counts_since: Option<String>) {
        if std::mem::take(&mut self.open) {
            let fell = match &self.counts_since {
                Some(before) => counts_since.as_ref() != Some(before),
                None => !self.explained,
            };
            self.falls += u32::from(fell);
            self.losses += u32::from(!fell);
            self.alone += u32::from(!fell && self.row && self.explained);
            self.alone_in_silence += u32::from(!fell && self.row && !self.explained);
        }
        self.counts_since = counts_since;
    }

    /// The rows among which to look for the one that does it.
    pub fn suspects(&self) -> Option<u32> {
        (self.losses > USUAL_LOSSES).then_some(self.rows)
    }

    /// Why the row that stands alone is not tried again.
    pub fn of_the_row(&self) -> Option<Error> {
        let by_its_nature = self.alone >= EXPLAINED_LOSSES_OF_A_ROW || self.alone_in_silence >= SILENT_LOSSES_OF_A_ROW;
        by_its_nature.then(|| deadly(&self.message))
    }

    /// Why the batch is not tried again.
    pub fn of_the_server(&self) -> Option<Error> {
        (self.falls >= FALLS).then(|| deadly_to_all(&self.message))
    }
}

/// Failures since the last success. Each kind has a count of its own: a table that was locked for a while has not
/// used up the tries of another trouble.
#[derive(Debug, Default)]
pub(super) struct Failures {
    in_a_row: u32,
    by_kind: HashMap<Kind, u32>,
}

impl Failures {
    /// One more; how many of its kind that makes.
    pub fn add(&mut self, kind: Kind) -> u32 {
        self.in_a_row += 1;
        let count = self.by_kind.entry(kind).or_default();
        *count += 1;
        *count
    }

    pub fn of(&self, kind: Kind) -> u32 {
        self.by_kind.get(&kind).copied().unwrap_or(0)
    }

    pub fn in_a_row(&self) -> u32 {
        self.in_a_row
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_trouble_that_stays_is_told_once_a_minute_for_each_job_and_kind() {
        let told = Told::default();
        let mut lines = 0;
        for _ in 0..3 * 60 * 5 {
            lines += u32::from(told.clone().is_news(7, Kind::LockTimeout));
            tokio::time::advance(Duration::from_millis(200)).await;
        }
        assert_eq!(lines, 3);
        assert!(told.is_news(8, Kind::LockTimeout) && told.is_news(7, Kind::Data));
    }

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
}
