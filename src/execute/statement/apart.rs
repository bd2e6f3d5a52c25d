//! Builds the statements of a batch that handles its rows and its checkpoint in two separate
//! statements. There are two cases:
//! - a verification whose rows are read on a standby
//! - the negative control of the exactly-once tests, which deliberately commits the rows and the
//!   checkpoint in two transactions, so that the tests must fail

use super::batch::{BatchKind, fragments};
use super::fragments::{ANSWER, TOOK, unchanged};
use super::table::Table;
use crate::job::batch::BatchMode;
use crate::job::plan::Plan;
use crate::pg::keyset;

/// Returns the statement that processes the rows of a batch but does not move its checkpoint.
/// Parameters: $1 position, $2 rows, $3 upper.
pub fn rows(plan: &Plan, kind: &BatchKind, table: Table, from_start: bool) -> String {
    let parts = fragments(plan, kind, table, BatchMode::Fast, from_start);
    // The statement of a normal batch has three more parameters before these.
    let renumbered = |text: &str| text.replace("$4", "$1").replace("$5", "$2").replace("$6", "$3");
    format!(
        "with {queries}
select {sent} as key, s.scanned, s.changed, s.unresolved, s.done, {TOOK} as took from {counts} s
where $1::pg_catalog.text[] is null or true",
        sent = keyset::sent("s.key"),
        queries = renumbered(&parts.queries),
        counts = renumbered(&parts.counts),
    )
}

/// Returns the statement that advances the checkpoint. It runs after the statement that [`rows`]
/// returns. With `checked`, it also checks that the table is still the one for which the job was
/// planned. Parameters: $1 slice, $2 token, $3 ctid, $4 from, $5 to, $6 scanned, $7 changed, $8
/// unresolved, $9 done, $10 duration of the first statement in seconds.
pub fn checkpoint(checked: Option<(&Plan, Table)>) -> String {
    format!(
        "select {ANSWER}, {sent} as key, $6::pg_catalog.int8 as scanned, $7::pg_catalog.int8 as changed,
       $9::pg_catalog.bool as done, $10::pg_catalog.float8 as took, 0::pg_catalog.int8 as deferred, 0::pg_catalog.int8 as quarantined
from backfill.advance($1, $2, $3::pg_catalog.text::pg_catalog.tid, $4, $5, $6, $7, $8, $9) a
where {unchanged}",
        sent = keyset::sent("$5::pg_catalog.text[]"),
        unchanged = checked.map_or_else(|| "true".to_owned(), |(plan, table)| unchanged(plan, table)),
    )
}
