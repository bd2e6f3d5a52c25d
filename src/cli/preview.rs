//! `backfilld preview`: shows what a job would do. It changes nothing and also works on a standby.

use std::time::Duration;

use clap::Args;

use super::spec::SpecArgs;
use super::statement::{self, Literal};
use super::{session, show};
use crate::config::Config;
use crate::error::{Error, Kind, Result};

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
select pg_catalog.jsonb_pretty(p.x) as json, t.items::pg_catalog.text as items
from (select backfill._preview(case when $3::pg_catalog.text is null then 'delete' else 'update' end, $1, $2::pg_catalog.text::pg_catalog.regclass,
        $3, $4, $5::pg_catalog.text[]::pg_catalog.name[], $6::pg_catalog.text::pg_catalog.name,
        $7::pg_catalog.text::pg_catalog.jsonb, backfill._caller_settings()) as x offset 0) p
cross join lateral (select pg_catalog.json_agg(pg_catalog.json_build_array(l.item, l.value) order by l.n) as items
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
    let session = session::open(config).await?;
    let timeout = format!("set local statement_timeout = {}; set local lock_timeout = 0; ", LIMIT.as_millis());
    let SpecArgs { target, set, filter, key, .. } = spec;
    let values: [&dyn Literal; 7] = [&name, target, set, filter, key, &run_as, &options];
    let rows = statement::run(&session, &timeout, PREVIEW, &values, LIMIT + Duration::from_secs(5)).await;
    let rows = rows.map_err(|error| spec.explain(error))?;
    let row = rows.first().ok_or_else(|| Error::new(Kind::Unreadable, "preview returned no row"))?;
    if json {
        show::line(&row.read::<String>("json")?)?;
        return Ok(0);
    }
    let items: Vec<(String, String)> = serde_json::from_str(&row.read::<String>("items")?)
        .map_err(|error| Error::new(Kind::Unreadable, format!("could not read the preview: {error}")))?;
    show::print(&labelled(&items))?;
    Ok(0)
}

/// Formats the preview in the same way as `status` formats one job. The second and later lines of a
/// text are indented below its first line.
fn labelled(items: &[(String, String)]) -> String {
    let mut page = String::new();
    for (item, text) in items {
        for (at, line) in text.lines().enumerate() {
            page.push_str(format!("{:<17} {line}", if at == 0 { item.as_str() } else { "" }).trim_end());
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
        let items = [("walks", "id"), ("plan of a batch", "Update on t\n  ->  Index Scan")];
        let page = labelled(&items.map(|(item, text)| (item.to_owned(), text.to_owned())));
        let expected = "walks             id\nplan of a batch   Update on t\n                    ->  Index Scan\n";
        assert_eq!(page, expected);
    }
}
