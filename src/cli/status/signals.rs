//! Formats the table of the signals. If a job is unfinished, `status` shows this table below the
//! jobs.

use crate::cli::show::Align::{Left, Right};
use crate::cli::statement::TextRow;
use crate::cli::{session, show};
use crate::error::Result;
use crate::pg::connect::Session;
use crate::text;

/// Reads the signals. Signals that hold jobs come first, then the signals with the highest
/// utilization. A value in bytes is shown with its unit, any other value as a plain number.
const SIGNALS: &str = "
select s.signal, s.source, s.kind, s.value::float8 as value, s.\"limit\"::float8 as limit, s.utilization::float8 as utilization, extract(epoch from s.age)::float8 as age,
       s.signal in ('replica_lag_bytes', 'slot') as in_bytes,
       case when s.holding then 'holding: ' || coalesce(s.reason, '') else coalesce(s.reason, '') end as reason
  from backfill.signals s
 order by s.holding desc, s.utilization desc nulls last, s.signal, s.source";
/// Returns one line of the table.
fn cells(row: &TextRow) -> Result<Vec<String>> {
    let number = |name| row.read::<Option<f64>>(name);
    let in_bytes: bool = row.read("in_bytes")?;
    let show = |value: f64| {
        if in_bytes { format!("{} MiB", text::figure(value / f64::from(1 << 20))) } else { text::figure(value) }
    };
    Ok(vec![
        row.read("signal")?,
        row.read("source")?,
        row.read("kind")?,
        number("value")?.map_or_else(|| "?".to_owned(), show),
        number("limit")?.map_or_else(String::new, show),
        number("utilization")?.map_or_else(String::new, |share| format!("{} %", text::fixed(100.0 * share, 0))),
        format!("{:.1} s", number("age")?.unwrap_or_default()),
        row.read("reason")?,
    ])
}

/// Returns a table of all signals, or an empty text if no daemon has reported a signal.
pub(super) async fn read(session: &Session) -> Result<String> {
    let rows = session::rows(session, SIGNALS, &[]).await?;
    if rows.is_empty() {
        return Ok(String::new());
    }
    let head = [
        ("SIGNAL", Left),
        ("SOURCE", Left),
        ("KIND", Left),
        ("VALUE", Right),
        ("LIMIT", Right),
        ("USED", Right),
        ("AGE", Right),
        ("REASON", Left),
    ];
    let cells = rows.iter().map(cells).collect::<Result<Vec<_>>>()?;
    Ok(show::table(&head, &cells).join("\n") + "\n")
}
