//! Connections that were lost with a batch in flight. A row whose trigger ends its session, or the server, would be met
//! again with each claim: this tells such a row, and such a server, from a network that fails.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use deadpool_postgres::Pool;

use crate::error::{Error, Result};
use crate::job::batch::Batch;
use crate::key::Key;
use crate::queue::claim as queue;
use crate::worker::error_policy::{deadly, deadly_to_all};

/// A connection may be lost so often for reasons that no row has.
const USUAL_LOSSES: u32 = 2;
/// A row that was changed alone, and took the connection with it this often, does so by its nature: where the server said that it
/// ended the session, and where it said nothing, as when the network fails.
const EXPLAINED_LOSSES_OF_A_ROW: u32 = 3;
const SILENT_LOSSES_OF_A_ROW: u32 = 10;
/// A server that crashed this often with the same batch does so because of it.
const CRASHES: u32 = 5;
/// After so long a loss has nothing to do with the one before.
const ANOTHER_LOSS: Duration = Duration::from_secs(600);

/// By slice; shared by the workers of one database.
#[derive(Debug, Clone, Default)]
pub struct ConnectionLosses(Arc<Mutex<HashMap<i64, Loss>>>);

#[derive(Debug, Clone)]
pub struct Loss {
    at: Instant,
    /// The batch in flight.
    batch: LostBatch,
    message: String,
    /// Since when the server's statistics count; it changes with each crash.
    counts_since: Option<String>,
    /// It is not known yet whether the last loss was a crash of the server.
    open: bool,
    counts: LossCounts,
}

#[derive(Debug, Clone)]
struct LostBatch {
    /// Where it began. A walk that comes further has not met the row yet.
    from: Option<Key>,
    rows: u32,
    /// It was one row, known by its key.
    one_row: bool,
    /// The server said why. When it crashes it says nothing.
    explained: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct LossCounts {
    /// Of the connection alone.
    connection: u32,
    /// Of them, with one row alone: explained by the server, and not.
    one_row: u32,
    one_row_in_silence: u32,
    /// Crashes of the server.
    crashes: u32,
}

impl ConnectionLosses {
    /// A connection was lost with this batch; `row`: it was one row, known by its key.
    pub fn add(&self, slice: i64, batch: &Batch, row: bool, error: &Error) {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, loss| now.duration_since(loss.at) < ANOTHER_LOSS);
        let before = all.remove(&slice);
        let mut counts = before.as_ref().map_or_else(LossCounts::default, |before| before.counts);
        if before.as_ref().is_some_and(|before| before.batch.from.as_ref() != batch.from()) {
            counts = LossCounts { connection: counts.connection, ..LossCounts::default() };
        }
        let loss = Loss {
            at: now,
            batch: LostBatch {
                from: batch.from().cloned(),
                rows: batch.rows,
                one_row: row,
                explained: error.sqlstate.is_some(),
            },
            message: error.message.clone(),
            open: true,
            counts,
            counts_since: before.and_then(|before| before.counts_since),
        };
        all.insert(slice, loss);
    }

    /// What is known of a slice's losses when it is claimed again.
    pub async fn settle(&self, pool: &Pool, slice: i64) -> Result<Option<Loss>> {
        if !self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&slice) {
            return Ok(None);
        }
        let since = queue::counts_since(pool).await?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(loss) = all.get_mut(&slice) else { return Ok(None) };
        loss.settle(since);
        Ok(Some(loss.clone()))
    }

    pub fn of(&self, slice: i64) -> Option<Loss> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&slice).cloned()
    }

    pub fn forget(&self, slice: i64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&slice);
    }
}

impl Loss {
    fn settle(&mut self, counts_since: Option<String>) {
        if std::mem::take(&mut self.open) {
            let LostBatch { one_row, explained, .. } = self.batch;
            let crashed = match &self.counts_since {
                Some(before) => counts_since.as_ref() != Some(before),
                None => !explained,
            };
            self.counts.crashes += u32::from(crashed);
            self.counts.connection += u32::from(!crashed);
            self.counts.one_row += u32::from(!crashed && one_row && explained);
            self.counts.one_row_in_silence += u32::from(!crashed && one_row && !explained);
        }
        self.counts_since = counts_since;
    }

    /// The rows among which to look for the one that does it.
    pub fn suspects(&self) -> Option<u32> {
        (self.counts.connection > USUAL_LOSSES).then_some(self.batch.rows)
    }

    /// Why the row that stands alone is not tried again.
    pub fn of_the_row(&self) -> Option<Error> {
        let by_its_nature = self.counts.one_row >= EXPLAINED_LOSSES_OF_A_ROW
            || self.counts.one_row_in_silence >= SILENT_LOSSES_OF_A_ROW;
        by_its_nature.then(|| deadly(&self.message))
    }

    /// Why the batch is not tried again.
    pub fn of_the_server(&self) -> Option<Error> {
        (self.counts.crashes >= CRASHES).then(|| deadly_to_all(&self.message))
    }
}
