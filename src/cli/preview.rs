//! `backfilld preview`: shows what a job would do. It changes nothing and also works on a standby.

use std::time::Duration;

use clap::Args;

use super::spec::SpecArgs;
use super::{session, show};
use crate::config::Config;
use crate::error::Result;
use crate::pg::connect::within;
use crate::pg::row::Columns;

#[derive(Debug, Args)]
pub struct PreviewArgs {
    #[command(flatten)]
    spec: SpecArgs,
    /// Print a JSON object: rows, bytes and seconds as numbers, sample rows before and after the
    /// change, and the query plan
    #[arg(long)]
    json: bool,
}

/// Reads the preview. The casts resolve names with the `search_path` of the login, as in psql.
const PREVIEW: &str = "
select pg_catalog.jsonb_pretty(p.x), t.items, t.texts
from (select backfill._preview(case when $3::pg_catalog.text is null then 'delete' else 'update' end, $1, $2::pg_catalog.text::pg_catalog.regclass,
        $3, $4, $5::pg_catalog.text[]::pg_catalog.name[], $6::pg_catalog.text::pg_catalog.name,
        $7::pg_catalog.text::pg_catalog.jsonb, backfill._caller_settings()) as x offset 0) p
cross join lateral (select pg_catalog.array_agg(l.item order by l.n) as items, pg_catalog.array_agg(l.value order by l.n) as texts
                      from backfill._preview_text(p.x) with ordinality l(item, value, n)) t";

/// Maximum time of a preview. The server samples a bounded number of rows for a bounded time, but
/// the user's expressions can take an unlimited time for a single row.
const LIMIT: Duration = Duration::from_secs(60);

pub(super) async fn run(config: &Config, args: PreviewArgs) -> Result<u8> {
    print(config, &args.spec, None, None, args.json).await
}

/// Prints the preview of a spec. If `name` is given, the preview also shows whether a job named
/// `name` exists.
pub(super) async fn print(
    config: &Config,
    spec: &SpecArgs,
    name: Option<&str>,
    run_as: Option<&str>,
    json: bool,
) -> Result<u8> {
    let options = spec.options.merged()?.to_string();
    let session = session::open_plain(config).await?;
    let timeout = format!("set statement_timeout = {}", LIMIT.as_millis());
    within(LIMIT, session.client.batch_execute(&timeout)).await?;
    let SpecArgs { target, set, filter, key, .. } = spec;
    let row = within(
        LIMIT + Duration::from_secs(5),
        session.client.query_one(PREVIEW, &[&name, target, set, filter, key, &run_as, &options]),
    )
    .await
    .map_err(|error| spec.explain(error))?;
    if json {
        let object: &str = row.read(0)?;
        show::line(object)?;
        return Ok(0);
    }
    let items: Vec<&str> = row.read(1)?;
    let texts: Vec<&str> = row.read(2)?;
    show::print(&labelled(&items, &texts))?;
    Ok(0)
}

/// Formats the preview in the same way as `status` formats one job. The second and later lines of a
/// text are indented below its first line.
fn labelled(items: &[&str], texts: &[&str]) -> String {
    let mut page = String::new();
    for (item, text) in items.iter().zip(texts) {
        for (at, line) in text.lines().enumerate() {
            page.push_str(format!("{:<17} {line}", if at == 0 { item } else { "" }).trim_end());
            page.push('\n');
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_lines_of_a_text_are_indented() {
        let page = labelled(&["walks", "plan of a batch"], &["id", "Update on t\n  ->  Index Scan"]);
        let expected = "walks             id\nplan of a batch   Update on t\n                    ->  Index Scan\n";
        assert_eq!(page, expected);
    }
}
