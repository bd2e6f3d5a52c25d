//! Prints live progress from the views of schema `backfill` and from pg_stat_replication.

use backfilld_testbed::SetupError;
use backfilld_testbed::daemon::Daemon;
use serde_json::Value;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::Client;

/// A log gets one line per second. A terminal gets several updates per second, all on the same
/// line.
const LOG_EVERY: Duration = Duration::from_secs(1);
const TERMINAL_EVERY: Duration = Duration::from_millis(200);
/// Time without progress after which the job is considered stuck. A small, busy machine may be
/// slow. A verification does not increase `rows_scanned`, so it must finish within this time.
const LIMIT: Duration = Duration::from_secs(600);

const JOB: &str = "select to_jsonb(j),
        extract(epoch from (to_jsonb(j)->>'eta')::timestamptz - clock_timestamp())::float8
    from backfill.jobs j where j.name = $1";
const LAG: &str = "select coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)), 0)::float8
    from pg_stat_replication";
const SIGNALS: &str = "select to_jsonb(s) from backfill.signals s where s.signal like 'replica_lag%'";

pub struct Progress<'a> {
    client: &'a Client,
    job: &'a str,
    terminal: bool,
}

/// The values that the demo observed for a job until the job finished.
#[derive(Debug, Default)]
pub struct Seen {
    pub state: String,
    pub rows_changed: f64,
    /// The job's row in the view `backfill.jobs`. It is printed after a failure.
    pub view: Value,
    worst_lag_bytes: f64,
    pub worst_utilization: f64,
}

impl Seen {
    pub fn worst_lag_mb(&self) -> f64 {
        self.worst_lag_bytes / 1e6
    }
}

impl<'a> Progress<'a> {
    pub fn new(client: &'a Client, job: &'a str) -> Self {
        Self { client, job, terminal: std::io::stdout().is_terminal() }
    }

    /// Shows the job's progress until the job has finished, whatever the outcome.
    pub async fn watch(&self, daemon: &Daemon) -> Result<Seen, SetupError> {
        let (mut deadline, mut rows) = (Instant::now() + LIMIT, 0.0);
        let mut next_line = Instant::now();
        let mut seen = Seen::default();
        loop {
            let line = self.poll(&mut seen).await?;
            if float(&seen.view, "rows_scanned") > rows {
                (deadline, rows) = (Instant::now() + LIMIT, float(&seen.view, "rows_scanned"));
            }
            let ended = matches!(seen.state.as_str(), "succeeded" | "failed" | "cancelled");
            if ended || Instant::now() >= next_line {
                next_line = Instant::now() + if self.terminal { TERMINAL_EVERY } else { LOG_EVERY };
                self.show(&line);
            }
            if ended {
                self.show_end();
                return Ok(seen);
            }
            if let Some(status) = daemon.ended() {
                return Err(SetupError(format!("the daemon ended with {status}; its output:\n{}", daemon.output())));
            }
            if Instant::now() > deadline {
                let (view, output) = (&seen.view, daemon.output());
                return Err(SetupError(format!(
                    "the job made no progress for {LIMIT:?}: {view}\noutput of the daemon:\n{output}"
                )));
            }
            tokio::time::sleep(TERMINAL_EVERY / 4).await;
        }
    }

    async fn poll(&self, seen: &mut Seen) -> Result<String, SetupError> {
        let job = self.client.query_one(JOB, &[&self.job]).await?;
        let (view, seconds_left): (Value, Option<f64>) = (job.get(0), job.get(1));
        let lag_bytes: f64 = self.client.query_one(LAG, &[]).await?.get(0);
        let mut lag_signals = String::new();
        for row in self.client.query(SIGNALS, &[]).await? {
            let signal: Value = row.get(0);
            seen.worst_utilization = seen.worst_utilization.max(float(&signal, "utilization"));
            if float(&signal, "utilization") > 0.0 && lag_signals.is_empty() {
                lag_signals = format!(" ({:.0} % of its limit)", float(&signal, "utilization") * 100.0);
            }
        }
        seen.worst_lag_bytes = seen.worst_lag_bytes.max(lag_bytes);
        seen.state = text(&view, "state");
        seen.rows_changed = float(&view, "rows_changed");
        let waiting = text(&view, "waiting_reason");
        let line = format!(
            "{:<10} {:>10} of {} rows {:>5.1} %  {:>8} rows/s  lag {:.1} MB{lag_signals}{}{}",
            seen.state,
            Number(seen.rows_changed).to_string(),
            Number(float(&view, "rows_estimated")),
            float(&view, "percent_done"),
            Number(float(&view, "rows_per_second")).to_string(),
            lag_bytes / 1e6,
            seconds_left.map_or(String::new(), |left| format!("  {:.0} s left", left.max(0.0))),
            if waiting.is_empty() { String::new() } else { format!("  waits: {waiting}") },
        );
        seen.view = view;
        Ok(line)
    }

    fn show(&self, line: &str) {
        if self.terminal {
            print!("\r\x1b[K{:<12} {line}", "progress");
            let _ = std::io::stdout().flush();
        } else {
            println!("{:<12} {line}", "progress");
        }
    }

    fn show_end(&self) {
        if self.terminal {
            println!();
        }
    }
}

/// Returns a field as a number. Views return `numeric` as a JSON number, and null if there is no
/// value yet.
fn float(row: &Value, field: &str) -> f64 {
    row.get(field).and_then(Value::as_f64).unwrap_or(0.0)
}

fn text(row: &Value, field: &str) -> String {
    row.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A whole number, formatted with thousands separators.
pub struct Number(pub f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:.0}", self.0.max(0.0));
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let shown = [0.0, 999.0, 1000.0, 1_234_567.4].map(|number| Number(number).to_string());
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
    }
}
