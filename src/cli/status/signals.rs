//! Formats the table of the signals, which `status` shows below the jobs if one of them is
//! unfinished.

use crate::cli::show::Align::{Left, Right};
use crate::cli::{session, show};
use crate::error::Result;
use crate::pg::connect::{Session, within};
use crate::pg::pools::CONTROL_LIMIT;

/// Reads the signals. Signals that hold jobs come first, then the signals with the highest
/// utilization. A value in bytes is shown with its unit, any other value as a plain number.
const SIGNALS: &str = "
select s.signal, s.source, s.kind, coalesce(show(s.value), '?'), coalesce(show(s.\"limit\"), ''),
       coalesce(to_char(100 * s.utilization, 'FM999,990') || ' %', ''), to_char(extract(epoch from s.age), 'FM999,990.0') || ' s',
       case when s.holding then 'holding: ' || coalesce(s.reason, '') else coalesce(s.reason, '') end
  from (select s.*, s.signal in ('replica_lag_bytes', 'slot') as in_bytes from backfill.signals s) s
 order by s.holding desc, s.utilization desc nulls last, s.signal, s.source";
const SHOWN: &str = "case when s.in_bytes then pg_size_pretty(FIGURE::numeric) when abs(FIGURE) >= 100 then to_char(FIGURE, 'FM999,999,999,990') else rtrim(to_char(FIGURE, 'FM990.999'), '.') end";

/// Returns a table of all signals, or an empty text if no daemon has reported a signal.
pub(super) async fn read(session: &Session) -> Result<String> {
    let shown = |figure: &str| SHOWN.replace("FIGURE", figure);
    let sql = SIGNALS.replace("show(s.value)", &shown("s.value")).replace("show(s.\"limit\")", &shown("s.\"limit\""));
    let rows = within(CONTROL_LIMIT, session.client.query(&sql, &[])).await.map_err(session::explain)?;
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
    let cells = rows.iter().map(|row| (0..head.len()).map(|at| row.try_get(at)).collect::<Result<Vec<String>, _>>());
    let cells = cells.collect::<Result<Vec<_>, _>>().map_err(crate::error::Error::from)?;
    Ok(show::table(&head, &cells).join("\n") + "\n")
}
