//! Uses the control login to read the properties of the target from the catalog. This module
//! evaluates no expression of the user.

use serde::Deserialize;
use tokio_postgres::types::Json;

use crate::error::{Error, Kind, Result};
use crate::job::claim::Claim;
use crate::job::plan::{Assignment, KeyColumn};
use crate::pg::control::Control;
use crate::pg::row::Columns;

#[derive(Debug, Clone)]
pub struct Found {
    /// The table, quoted and with its schema.
    pub target: String,
    pub key: Vec<KeyColumn>,
    pub assignments: Vec<Assignment>,
    /// Whether the rows are stored in several tables, for example in partitions.
    pub spread: bool,
    /// The target's name without its schema, quoted.
    pub alias: String,
}

#[derive(Deserialize)]
struct Key {
    columns: Vec<KeyColumn>,
}

/// Repeats checks of `enqueue` (the submitter's rights, the table and its owners), and reads the
/// target.
/// The rights and the table may have changed after the job was enqueued, and a job may have been
/// inserted without `enqueue`.
pub async fn read(control: &Control, claim: &Claim) -> Result<Found> {
    const TARGET: &str = "
select format('%I.%I', n.nspname, c.relname), backfill._check_target(c.oid)::text, backfill._key_of(c.oid, $2::text[]::name[]), backfill._is_spread(c.oid), quote_ident(c.relname)
from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = $1";
    const ASSIGNMENTS: &str = "
select a.columns, a.expression, array(select backfill._type_name(t.atttypid, t.atttypmod) from unnest(a.columns) with ordinality u(name, n)
                                        join pg_attribute t on t.attrelid = $2 and t.attname = u.name and not t.attisdropped order by u.n)
  from backfill._assignments($1) a";
    const CHECKS: &str = "select backfill._check_submitter_rights($1), backfill._check_same_table($2, $3), backfill._check_owners($3, $4::text::name), backfill._check_statement_triggers($3, $5, $6, $7)";
    let kind = if claim.work() == crate::job::plan::Kind::Delete { "delete" } else { "update" };
    control
        .query_one(
            CHECKS,
            &[&claim.job_id, &claim.target, &claim.relation, &claim.run_as, &kind, &claim.set, &Json(&claim.options)],
        )
        .await?;
    let row =
        control.query_opt(TARGET, &[&claim.relation, &claim.key]).await?.ok_or_else(|| {
            Error::new(Kind::Refused, format!("table {} does not exist any more", claim.target))
                .hint("If the job is no longer needed, delete it with backfill.forget. Otherwise enqueue a new job for the current table.")
        })?;
    let Json(key): Json<Key> = row.read(2)?;
    let assignments: Vec<Assignment> = match &claim.set {
        Some(set) => control
            .query(ASSIGNMENTS, &[set, &claim.relation])
            .await?
            .iter()
            .map(|row| Ok(Assignment { columns: row.read(0)?, expression: row.read(1)?, types: row.read(2)? }))
            .collect::<Result<_>>()?,
        None => Vec::new(),
    };
    not_of_the_key(&assignments, &key.columns)?;
    let (spread, alias) = (row.read(3)?, row.read(4)?);
    Ok(Found { target: row.read(0)?, key: key.columns, assignments, spread, alias })
}

/// Refuses assignments to key columns. If the key of a row changed, the walk could miss the row or
/// reach it twice.
pub fn not_of_the_key(assignments: &[Assignment], key: &[KeyColumn]) -> Result<()> {
    for column in assignments.iter().flat_map(|assignment| &assignment.columns) {
        if key.iter().any(|part| &part.name == column) {
            return Err(Error::new(
                Kind::Refused,
                format!("the assignments (set) change column \"{column}\", which is part of the key"),
            )
            .hint("Use another unique key, or leave the column out of the assignments (set)."));
        }
    }
    Ok(())
}
