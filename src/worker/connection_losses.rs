//! Counts connections that were lost while a batch was in flight. A trigger may end its session or
//! crash the server when a batch changes one particular row. Each new claim would then reach this
//! row again. From the counts, the worker finds out whether such a row, a crashing server or a
//! failing network is the cause.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::job::batch::Batch;
use crate::key::Key;
use crate::pg::control::Control;
use crate::queue::claim as queue;
use crate::worker::error_policy::{deadly, deadly_to_all};

/// Number of connections that one slice may lose before a row is suspected. After one more loss,
/// the worker searches for the row that causes the losses.
const USUAL_LOSSES: u32 = 2;
/// If the connection is lost this many times while a batch changes the same single row, this row
/// counts as the cause. `EXPLAINED_LOSSES_OF_A_ROW` applies to losses for which the server reported
/// a reason. `SILENT_LOSSES_OF_A_ROW` applies to losses without a message from the server, for
/// example because the network failed.
const EXPLAINED_LOSSES_OF_A_ROW: u32 = 3;
const SILENT_LOSSES_OF_A_ROW: u32 = 10;
/// Minimum and maximum of [`Loss::probe`].
const SHORTEST_PROBE: Duration = Duration::from_secs(1);
const LONGEST_PROBE: Duration = Duration::from_secs(10);
/// If the server crashes this number of times during the same batch, the batch counts as the cause.
const CRASHES: u32 = 5;
/// Time after which a further loss counts as unrelated to the previous loss.
const ANOTHER_LOSS: Duration = Duration::from_secs(600);

/// Holds the connection losses of each slice. The workers of one database share this map.
#[derive(Debug, Clone, Default)]
pub struct ConnectionLosses(Arc<Mutex<HashMap<i64, Loss>>>);

#[derive(Debug, Clone)]
pub struct Loss {
    at: Instant,
    /// Time from the beginning of the batch to the loss.
    took: Duration,
    /// The batch that was in flight.
    batch: LostBatch,
    message: String,
    /// Time of the last reset of the server's statistics. Each crash changes this time. None until
    /// the first loss has been counted. If the server reported no reason for that first loss, the
    /// loss counts as a crash.
    counts_since: Option<String>,
    /// Whether the last loss still has to be counted, either as a crash or as a lost connection.
    open: bool,
    counts: LossCounts,
}

#[derive(Debug, Clone)]
struct LostBatch {
    /// The batch began directly after this key. If this key changes, the walk has made progress,
    /// and the counts for a single row and for crashes start again from 0.
    from: Option<Key>,
    rows: u32,
    /// Whether the batch consisted of only one row, and the key of this row was known.
    one_row: bool,
    /// The SQLSTATE, if the server reported the reason. A server process that crashes reports
    /// nothing.
    sqlstate: Option<String>,
}

#[derive(Debug, Clone, Copy, Default)]
struct LossCounts {
    /// Losses of the connection without a crash of the server.
    connection: u32,
    /// The part of `connection` that occurred during a batch of one row with a known key. `one_row`
    /// counts the losses for which the server reported a reason, and `one_row_in_silence` counts
    /// the others.
    one_row: u32,
    one_row_in_silence: u32,
    /// Crashes of the server.
    crashes: u32,
}

impl ConnectionLosses {
    /// Records that the connection was lost during this batch, after the time `took`. `row` is true
    /// if the batch was one row with a known key.
    pub fn add(&self, slice: i64, batch: &Batch, row: bool, took: Duration, error: &Error) {
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
            took,
            batch: LostBatch {
                from: batch.from().cloned(),
                rows: batch.rows,
                one_row: row,
                sqlstate: error.sqlstate.clone(),
            },
            message: error.message.clone(),
            open: true,
            counts,
            counts_since: before.and_then(|before| before.counts_since),
        };
        all.insert(slice, loss);
    }

    /// Counts the last connection loss of a slice as a crash or as a lost connection. Then returns
    /// the losses of the slice. Called when the slice is claimed again.
    pub async fn settle(&self, control: &Control, slice: i64) -> Result<Option<Loss>> {
        if !self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&slice) {
            return Ok(None);
        }
        let since = queue::counts_since(control).await?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(loss) = all.get_mut(&slice) else { return Ok(None) };
        loss.settle(since);
        Ok(Some(loss.clone()))
    }

    pub fn of(&self, slice: i64) -> Option<Loss> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&slice).cloned()
    }

    /// Forgets the losses that a single row seemed to cause, because a session that did not work on
    /// the row was lost as well.
    pub fn acquit(&self, slice: i64) {
        if let Some(loss) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&slice) {
            loss.counts.one_row = 0;
            loss.counts.one_row_in_silence = 0;
        }
    }

    pub fn forget(&self, slice: i64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&slice);
    }
}

impl Loss {
    fn settle(&mut self, counts_since: Option<String>) {
        if std::mem::take(&mut self.open) {
            let (one_row, explained) = (self.batch.one_row, self.batch.sqlstate.is_some());
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

    /// Returns the size of the last lost batch if the connection was lost more than `USUAL_LOSSES`
    /// times. The cause is then probably one row of this batch. Otherwise returns none.
    pub fn suspects(&self) -> Option<u32> {
        (self.counts.connection > USUAL_LOSSES).then_some(self.batch.rows)
    }

    /// Returns the error of the isolated row if that row must not be tried again.
    pub fn of_the_row(&self) -> Option<Error> {
        let by_its_nature = self.counts.one_row >= EXPLAINED_LOSSES_OF_A_ROW
            || self.counts.one_row_in_silence >= SILENT_LOSSES_OF_A_ROW;
        by_its_nature.then(|| deadly(&self.message, self.batch.sqlstate.as_deref()))
    }

    /// Returns the time that a session must survive without working on the row, before the row
    /// counts as the cause. This time is three times as long as the last attempt, but at least
    /// `SHORTEST_PROBE` and at most `LONGEST_PROBE`. If something other than the row ends each
    /// session of the job, it almost certainly ends this session during this time.
    pub fn probe(&self) -> Duration {
        (self.took * 3).clamp(SHORTEST_PROBE, LONGEST_PROBE)
    }

    /// Returns an error if the batch has crashed the server so often that it must not be tried
    /// again.
    pub fn of_the_server(&self) -> Option<Error> {
        (self.counts.crashes >= CRASHES).then(|| deadly_to_all(&self.message))
    }
}
