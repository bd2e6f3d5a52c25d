//! Builds the statements for the negative control of the exactly-once tests. These statements
//! commit the rows and the checkpoint in two separate transactions, so the tests must fail with
//! them. The statements exist only in builds with failpoints.

use super::batch::{BatchKind, fragments};
use super::fragments::ANSWER;
use super::table::Table;
use crate::job::batch::BatchMode;
use crate::job::plan::Plan;
use crate::pg::keyset;

/// Returns the statement that changes the rows of a batch but not its checkpoint. Parameters: $1
/// position, $2 rows, $3 upper.
pub fn rows(plan: &Plan, kind: &BatchKind, from_start: bool) -> String {
    let parts = fragments(plan, kind, Table::default(), BatchMode::Fast, from_start);
    // The statement of a normal batch has three more parameters before these.
    let renumbered = |text: &str| text.replace("$4", "$1").replace("$5", "$2").replace("$6", "$3");
    format!(
        "with {queries}
select {sent} as key, s.scanned, s.changed, s.done from {counts} s where $1::pg_catalog.text[] is null or true",
        sent = keyset::sent("s.key"),
        queries = renumbered(&parts.queries),
        counts = renumbered(&parts.counts),
    )
}

/// Returns the statement that advances the checkpoint. It runs in a second transaction, after the
/// statement that [`rows`] returns. Parameters: $1 slice, $2 token, $3 ctid, $4 from, $5 to, $6
/// scanned, $7 changed, $8 done.
pub fn checkpoint() -> String {
    format!(
        "select {ANSWER}, {sent} as key, $6::pg_catalog.int8 as scanned, $7::pg_catalog.int8 as changed,
       $8::pg_catalog.bool as done, 0::pg_catalog.float8 as took, 0::pg_catalog.int8 as deferred, 0::pg_catalog.int8 as quarantined
from backfill.advance($1, $2, $3::pg_catalog.text::pg_catalog.tid, $4, $5, $6, $7, 0, $8) a",
        sent = keyset::sent("$5::pg_catalog.text[]"),
    )
}
