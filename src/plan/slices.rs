//! Finds the upper bound of the walk and divides the key range into slices. The bounds between
//! slices come from a sample of pages. So the slices have about equal numbers of rows for any type
//! of key, even if the table has no statistics.

use std::time::Duration;

use crate::error::Result;
use crate::job::plan::{KeyColumn, Leaf, PlannedSlice};
use crate::key::{Key, KeyRange};
use crate::pg::connect::Session;
use crate::pg::ident::quote;
use crate::pg::keyset;
use crate::pg::row::{self, Columns};

/// Approximate number of pages that a sample reads. If the table is smaller, the sample reads the
/// whole table. 400 pages of 8 kB are about 3 MB.
const SAMPLE_PAGES: f64 = 400.0;
/// Approximate number of pages that a sample reads for a single slice. A single slice needs no
/// bounds, so the sample only serves to estimate the number of rows.
const ESTIMATE_PAGES: f64 = 100.0;
/// Maximum time for which the daemon waits for a planning statement. The session's
/// `statement_timeout` is shorter, so the server normally cancels the statement before this time.
const PLAN_LIMIT: Duration = Duration::from_secs(70);

/// Returns the last key in the order of the walk, and the snapshot in which the key was read. The
/// key is none if the table is empty.
pub async fn upper(executor: &Session, target: &str, key: &[KeyColumn]) -> Result<(Option<Key>, String)> {
    let sql = format!(
        "select s.snapshot, k.key from (select pg_catalog.pg_current_snapshot()::pg_catalog.text as snapshot) s
         left join (select {} as key from only {} order by {} limit 1) k on true",
        keyset::sent(&format!("array[{}]", key_texts(key))),
        target,
        keyset::reversed(key),
    );
    let row = executor.bounded(PLAN_LIMIT, executor.client.query_one(&sql, &[])).await?;
    Ok((row::key(&row, 1)?, row.read(0)?))
}

fn key_texts(key: &[KeyColumn]) -> String {
    key.iter().map(|column| keyset::as_text(column, &quote(&column.name))).collect::<Vec<_>>().join(", ")
}

const SIZE: &str = "
select pg_catalog.pg_relation_size($1::pg_catalog.oid) / pg_catalog.current_setting('block_size')::pg_catalog.int8, c.reltuples::pg_catalog.float8
from pg_catalog.pg_class c where c.oid = $1";

/// Divides the keys up to `upper` into `wanted` ranges with about equal numbers of rows, or into
/// fewer ranges if the table is small. Also returns the approximate number of rows.
pub async fn cut(
    executor: &Session,
    table: (u32, &str),
    key: &[KeyColumn],
    upper: &Key,
    wanted: u32,
) -> Result<(Vec<KeyRange>, i64)> {
    let sample = sample(executor, table, key, None, upper, wanted).await?;
    Ok((ranges(sample.bounds, upper), estimate(sample.rows, sample.percent, sample.known_rows)))
}

/// Returns the key in the middle of the keys after `from` and up to `upper`, and the approximate
/// number of rows on each side of this key. Returns none if the sample contains too few rows of the
/// range.
pub async fn halve(
    executor: &Session,
    table: (u32, &str),
    key: &[KeyColumn],
    from: Option<&Key>,
    upper: &Key,
) -> Result<Option<(Key, i64)>> {
    let sample = sample(executor, table, key, from, upper, 2).await?;
    Ok(sample.bounds.into_iter().next().map(|bound| (bound, estimate(sample.rows, sample.percent, 0.0) / 2)))
}

struct Sample {
    /// Keys that divide the sampled rows into equal parts.
    bounds: Vec<Key>,
    rows: i64,
    /// Percentage of the table's pages that the sample read.
    percent: f64,
    /// Number of rows according to the statistics.
    known_rows: f64,
}

async fn sample(
    executor: &Session,
    (relation, target): (u32, &str),
    key: &[KeyColumn],
    from: Option<&Key>,
    upper: &Key,
    wanted: u32,
) -> Result<Sample> {
    let row = executor.bounded_ours(PLAN_LIMIT, executor.client.query_one(SIZE, &[&relation])).await?;
    let pages = row.read::<i64>(0)?.max(1);
    let known_rows: f64 = row.read(1)?;
    let sample_pages = if wanted > 1 { SAMPLE_PAGES } else { ESTIMATE_PAGES };
    #[allow(clippy::cast_precision_loss)]
    let percent = (100.0 * sample_pages / pages as f64).min(100.0);
    let sample = format!(
        "with s as materialized (select {columns}, pg_catalog.row_number() over (order by {ordered}) as n
                                  from only {target} tablesample system ($1::pg_catalog.float4)
                                 where {until} and (($4::pg_catalog.text[]) is null or {after})),
         c as (select pg_catalog.count(*) as rows from s)
         select c.rows, {texts} from c left join s on s.n operator(pg_catalog.=) any (array(select c.rows operator(pg_catalog.*) i operator(pg_catalog./) $3::pg_catalog.int8 from pg_catalog.generate_series(1, $3::pg_catalog.int8 operator(pg_catalog.-) 1) i where c.rows operator(pg_catalog.>=) (100 operator(pg_catalog.*) $3::pg_catalog.int8)))
         order by s.n",
        columns = key.iter().enumerate().map(|(n, column)| format!("{} as k{n}", quote(&column.name))).collect::<Vec<_>>().join(", "),
        ordered = keyset::ordered(key),
        until = keyset::until(key, "$2"),
        after = keyset::after(key, "$4"),
        texts = keyset::sent(&format!("array[{}]", key.iter().enumerate().map(|(n, column)| keyset::as_text(column, &format!("s.k{n}"))).collect::<Vec<_>>().join(", "))),
    );
    #[allow(clippy::cast_possible_truncation)]
    let (share, from) = (percent as f32, from.map(|key| &key.0));
    let rows = executor
        .bounded(PLAN_LIMIT, executor.client.query(&sample, &[&share, &upper.0, &i64::from(wanted), &from]))
        .await?;
    let mut bounds: Vec<Key> = Vec::new();
    for row in &rows {
        let Some(bound) = row::key(row, 1)? else { continue };
        if bounds.last() != Some(&bound) && bound != *upper {
            bounds.push(bound);
        }
    }
    let sampled = rows.first().map_or(Ok(0), |row| row.read(0))?;
    Ok(Sample { bounds, rows: sampled, percent, known_rows })
}

/// Estimates the number of rows from the sample and the table's statistics, which may be old or
/// missing. The statistics are used only if the sample did not read the whole table, and if the two
/// estimates differ by less than a factor of 2.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
fn estimate(sampled: i64, percent: f64, known_rows: f64) -> i64 {
    let seen = sampled as f64 * 100.0 / percent;
    if percent >= 100.0 || known_rows <= 0.0 || !(0.5..2.0).contains(&(seen / known_rows)) {
        seen.round() as i64
    } else {
        known_rows.round() as i64
    }
}

/// Returns the ranges as planned slices, each with an equal share of the rows.
pub fn planned(ranges: Vec<KeyRange>, rows: i64, leaf: Option<&Leaf>) -> Vec<PlannedSlice> {
    let share = rows / i64::try_from(ranges.len().max(1)).unwrap_or(1);
    ranges
        .into_iter()
        .map(|range| PlannedSlice { leaf: leaf.cloned(), range: Some(range), rows_estimated: share })
        .collect()
}

fn ranges(bounds: Vec<Key>, upper: &Key) -> Vec<KeyRange> {
    let mut lower = None;
    let mut ranges = Vec::with_capacity(bounds.len() + 1);
    for bound in bounds.into_iter().chain([upper.clone()]) {
        ranges.push(KeyRange { lower: lower.replace(bound.clone()), upper: bound });
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key(vec![text.into()])
    }

    #[test]
    fn ranges_follow_one_another_from_the_start_to_the_upper_bound() {
        let made = ranges(vec![key("10"), key("20")], &key("30"));
        assert_eq!(made.len(), 3);
        assert_eq!(made[0].lower, None);
        for pair in made.windows(2) {
            assert_eq!(pair[1].lower.as_ref(), Some(&pair[0].upper));
        }
        assert_eq!(made[2].upper, key("30"));
    }

    #[test]
    fn wrong_statistics_are_not_trusted() {
        assert_eq!(estimate(1000, 10.0, 9_000.0), 9_000);
        assert_eq!(estimate(1000, 10.0, 100.0), 10_000);
        assert_eq!(estimate(1000, 100.0, 1_200.0), 1_000);
        assert_eq!(estimate(0, 100.0, -1.0), 0);
    }
}
