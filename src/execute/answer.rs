//! Reads the results of the statements that process rows.

use std::time::Duration;

use tokio_postgres::Row;

use crate::error::{Error, Kind, Result};
use crate::job::batch::{Outcome, RetryOutcome};
use crate::job::checkpoint::Checkpoint;
use crate::job::claim::Desired;
use crate::pg::row::{self, Columns};

/// Reads the result of a batch.
pub(super) fn outcome(answer: &[Row]) -> Result<Outcome> {
    let none = || Error::new(Kind::Internal, "a batch was committed, but it did not return its checkpoint");
    answer.first().ok_or_else(none).and_then(read)
}

/// Reads the result row of a statement that moved a checkpoint.
pub(super) fn read(row: &Row) -> Result<Outcome> {
    let position = row::key(row, "key")?.ok_or_else(|| row::unreadable("the key is null"))?;
    Ok(Outcome {
        checkpoint: Checkpoint { position: Some(position), done: row.read("done")?, ctid: row.read("new_ctid")? },
        scanned: count(row, "scanned")?,
        changed: count(row, "changed")?,
        deferred: count(row, "deferred")?,
        quarantined: count(row, "quarantined")?,
        // `took` is negative if the server's clock was set back during the batch.
        took: Duration::try_from_secs_f64(row.read("took")?).unwrap_or_default(),
        desired: Desired::read(row.read("desired")?),
        revision: row.read("revision")?,
    })
}

/// Reads the result of a retry of deferred rows.
pub(super) fn retried(answer: &[Row]) -> Result<RetryOutcome> {
    let row = answer.first().ok_or_else(|| {
        Error::new(Kind::Internal, "a retry of deferred rows was committed, but it did not return its outcome")
    })?;
    Ok(RetryOutcome {
        ctid: row.read("new_ctid")?,
        changed: count(row, "changed")?,
        deferred: count(row, "deferred")?,
        quarantined: count(row, "quarantined")?,
        desired: Desired::read(row.read("desired")?),
        revision: row.read("revision")?,
    })
}

fn count(row: &Row, column: &str) -> Result<u64> {
    Ok(u64::try_from(row.read::<i64>(column)?).unwrap_or(0))
}
