//! Plans a job whose target consists of several tables: the partitions of a table, or an
//! inheritance parent and its children. Each leaf has its own key, columns and upper bound, and at
//! least one slice.

use tokio_postgres::types::Json;

use crate::error::{Error, Kind, Result};
use crate::job::claim::Claim;
use crate::job::plan::{Assignment, Leaf, PlannedSlice};
use crate::pg::connect::Session;
use crate::pg::control::Control;
use crate::pg::pools::CONTROL_LIMIT;
use crate::pg::row::Columns;
use crate::plan::{catalog, expressions, slices};

/// A leaf and its number of pages.
struct Found {
    leaf: Leaf,
    pages: i64,
}

/// Properties that all leaves of a job share.
#[derive(Debug, Clone, Copy)]
pub struct Common<'a> {
    pub assignments: &'a [Assignment],
    /// Attribute numbers of the job's columns in the target.
    pub columns: &'a [i16],
    /// Quoted name by which the expressions refer to the target.
    pub alias: &'a str,
    /// Whether an expression reads a row as text.
    pub rows_as_text: bool,
}

/// Returns the slices of each leaf, in key order within a leaf. `wanted` is the number of slices
/// that all leaves together should have. `only` restricts the result to one leaf.
pub async fn cut(
    control: &Control,
    executor: &Session,
    claim: &Claim,
    common: Common<'_>,
    only: Option<u32>,
    wanted: u32,
) -> Result<Vec<PlannedSlice>> {
    let found = read(control, claim, common.columns, only).await?;
    let pages: Vec<i64> = found.iter().map(|found| found.pages).collect();
    let mut parts = Vec::new();
    for (Found { mut leaf, .. }, wanted) in found.into_iter().zip(shares(&pages, wanted)) {
        catalog::not_of_the_key(common.assignments, &leaf.key)?;
        if common.rows_as_text {
            same_columns(control, claim, &leaf).await?;
        }
        try_change(executor, claim, common, &leaf).await?;
        leaf.upper = slices::upper(executor, &leaf.target, &leaf.key).await?.0;
        let Some(upper) = leaf.upper.clone() else {
            parts.push(PlannedSlice { leaf: Some(leaf), range: None, rows_estimated: 0 });
            continue;
        };
        let (ranges, rows) = slices::cut(executor, (leaf.relation, &leaf.target), &leaf.key, &upper, wanted).await?;
        parts.extend(slices::planned(ranges, rows, Some(&leaf)));
    }
    Ok(parts)
}

/// Returns the slices of a leaf that was attached after the job was planned. The claimed slice
/// becomes the first of these slices.
pub async fn attached(control: &Control, executor: &Session, claim: &Claim, wanted: u32) -> Result<Vec<PlannedSlice>> {
    let (Some(plan), Some(leaf)) = (&claim.plan, claim.leaf) else {
        return Err(Error::new(
            Kind::Internal,
            "a slice has no upper bound and belongs to no partition or child table",
        ));
    };
    let common = Common {
        assignments: &plan.assignments,
        columns: &plan.columns,
        alias: plan.alias.as_deref().unwrap_or(&plan.target),
        rows_as_text: plan.rows_as_text,
    };
    cut(control, executor, claim, common, Some(leaf), wanted).await
}

async fn read(control: &Control, claim: &Claim, columns: &[i16], only: Option<u32>) -> Result<Vec<Found>> {
    const LEAVES: &str = "
select leaf, name, key, attnums, fingerprint, pages from backfill._leaf_plans($1, $2::text[]::name[], $3, $4)";
    let rows = control.query(LEAVES, &[&claim.relation, &claim.key, &columns, &only]).await?;
    let read = |row: &tokio_postgres::Row| -> Result<Found> {
        let Json(key) = row.read(2)?;
        Ok(Found {
            leaf: Leaf {
                relation: row.read(0)?,
                target: row.read(1)?,
                key,
                columns: row.read(3)?,
                fingerprint: row.read(4)?,
                upper: None,
            },
            pages: row.read(5)?,
        })
    };
    rows.iter().map(read).collect()
}

/// Refuses a leaf if the names or the order of its columns differ from those of the target. The
/// text of a row contains the columns in the leaf's order, so an expression that reads this text
/// would return another value for the leaf than for the target.
async fn same_columns(control: &Control, claim: &Claim, leaf: &Leaf) -> Result<()> {
    const SAME: &str = "
select (select pg_catalog.array_agg(a.attname order by a.attnum) from pg_catalog.pg_attribute a where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped)
     = (select pg_catalog.array_agg(a.attname order by a.attnum) from pg_catalog.pg_attribute a where a.attrelid = $2 and a.attnum > 0 and not a.attisdropped)";
    let row = control.query_one(SAME, &[&claim.relation, &leaf.relation]).await?;
    if row.read::<Option<bool>>(0)? == Some(true) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Refused,
        format!("{}, a partition or child of {}, has different columns or a different column order", leaf.target, claim.target),
    )
    .detail(
        "An expression converts a whole row to text. This text would differ between this partition or child and the table named in the job.",
    )
    .hint("The expressions of a job cannot be changed. Enqueue the job under another name, and write the names of the columns in the expression, for example concat_ws(',', a, b) instead of t::text."))
}

/// Runs EXPLAIN on the statement that changes the leaf, so that the server reports errors now and
/// not in the first batch. For example, the role may lack a privilege only on this leaf, or a
/// column may be generated only in this leaf.
async fn try_change(executor: &Session, claim: &Claim, common: Common<'_>, leaf: &Leaf) -> Result<()> {
    let target = format!("{} as {}", leaf.target, common.alias);
    let change = expressions::change(&target, common.assignments, claim.filter.as_deref());
    executor
        .bounded(CONTROL_LIMIT, executor.client.query(&format!("explain (costs off) {change}"), &[]))
        .await
        .map(drop)
        .map_err(|error| error.context(format!("{}, a partition or child of {}", leaf.target, claim.target)))
}

/// Divides `wanted` slices among the leaves by size. Each leaf gets at least one slice, so the
/// total may exceed `wanted`.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn shares(pages: &[i64], wanted: u32) -> Vec<u32> {
    let all: f64 = pages.iter().map(|&pages| pages as f64).sum();
    if all <= 0.0 {
        return vec![1; pages.len()];
    }
    let exact = |pages: i64| f64::from(wanted) * pages as f64 / all;
    let mut shares: Vec<u32> = pages.iter().map(|&pages| exact(pages).floor().max(1.0) as u32).collect();
    let mut left = wanted.saturating_sub(shares.iter().sum());
    let mut order: Vec<usize> = (0..pages.len()).collect();
    order.sort_by(|&a, &b| exact(pages[b]).fract().total_cmp(&exact(pages[a]).fract()));
    for leaf in order {
        if left == 0 {
            break;
        }
        shares[leaf] += 1;
        left -= 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_distributed_by_size_and_each_leaf_gets_one() {
        assert_eq!(shares(&[900, 100], 10), [9, 1]);
        // Four slices are wanted, but the empty leaf gets a fifth one.
        assert_eq!(shares(&[900, 100, 0], 4), [3, 1, 1]);
        assert_eq!(shares(&[10, 10, 10], 8), [3, 3, 2]);
        assert_eq!(shares(&[0, 0], 4), [1, 1]);
        assert_eq!(shares(&[5; 1000], 8), vec![1; 1000]);
        assert_eq!(shares(&[], 8), Vec::<u32>::new());
    }
}
