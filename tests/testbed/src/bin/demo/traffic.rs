//! The application: reads and writes at a fixed rate, and measures the latency of each statement.

use backfilld_testbed::SetupError;
use backfilld_testbed::server::{connect, describe};
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_postgres::{Client, Statement};

/// Each connection runs one statement per interval.
const PACE: Duration = Duration::from_millis(10);

const READ: &str = "select customer_id, total, status from public.orders where id = $1";
const UPDATE: &str =
    "update public.orders set status = case status when 'paid' then 'shipped' else 'paid' end where id = $1";
/// An insert by an application that already knows the new column and fills it.
const INSERT: &str = "insert into public.orders (id, customer_id, total, status, total_cents)
    values ($1, 1 + ($1::bigint % 50000)::int, 19.90, 'paid', 1990)";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The time of warm-up, installation and shutdown, in which statements are not counted.
    Pause,
    Before,
    During,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
}

#[derive(Debug)]
struct Sample {
    phase: u8,
    kind: Kind,
    took: Duration,
    failed: Option<String>,
}

#[derive(Debug)]
struct Shared {
    phase: AtomicU8,
    stop: tokio::sync::watch::Sender<bool>,
    samples: Mutex<Vec<Sample>>,
    next_id: AtomicI64,
    rows: i64,
}

/// Traffic that is running. On drop, its connections close.
pub struct Traffic {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Starts traffic on a table with the IDs 1 to `rows`.
    pub async fn start(url: &str, connections: u32, rows: i64) -> Result<Self, SetupError> {
        let shared = Arc::new(Shared {
            phase: AtomicU8::new(Phase::Pause as u8),
            stop: tokio::sync::watch::Sender::new(false),
            samples: Mutex::new(Vec::new()),
            next_id: AtomicI64::new(rows + 1),
            rows,
        });
        let mut tasks = Vec::new();
        for number in 0..connections {
            let session = Session::open(url, u64::from(number), Arc::clone(&shared)).await?;
            let start = Instant::now() + PACE * number / connections;
            tasks.push(tokio::spawn(session.run(start)));
        }
        Ok(Self { shared, tasks })
    }

    pub fn per_second(&self) -> u128 {
        self.tasks.len() as u128 * 1_000_000 / PACE.as_micros()
    }

    /// From now on, each statement that ends is counted in `phase`.
    pub fn enter(&self, phase: Phase) {
        self.shared.phase.store(phase as u8, Ordering::SeqCst);
    }

    pub async fn stop(mut self) -> Report {
        self.shared.stop.send_replace(true);
        for task in &mut self.tasks {
            let _ = task.await;
        }
        let samples = std::mem::take(&mut *self.shared.samples.lock().expect("no panic under this lock"));
        Report::of(&samples)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

struct Session {
    client: Client,
    read: Statement,
    update: Statement,
    insert: Statement,
    dice: u64,
    shared: Arc<Shared>,
}

impl Session {
    async fn open(url: &str, number: u64, shared: Arc<Shared>) -> Result<Self, SetupError> {
        let client = connect(url).await?;
        client.batch_execute("set application_name = 'shop'").await?;
        let read = client.prepare(READ).await?;
        let (update, insert) = (client.prepare(UPDATE).await?, client.prepare(INSERT).await?);
        Ok(Self { client, read, update, insert, dice: 0x9e37_79b9_7f4a_7c15 ^ (number + 1), shared })
    }

    async fn run(mut self, start: Instant) {
        let mut ticks = tokio::time::interval_at(start, PACE);
        // A late statement starts at once, and its waiting time counts as latency. Real users also
        // keep sending requests when the database is slow.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut stop = self.shared.stop.subscribe();
        let mut free_since = start;
        while !*stop.borrow_and_update() {
            let due = ticks.tick().await;
            let from = if free_since > due { due } else { Instant::now() };
            let (kind, outcome) = self.one().await;
            free_since = Instant::now();
            let failed = outcome.err().map(|error| describe(&error));
            let lost = failed.is_some() && self.client.is_closed();
            let phase = self.shared.phase.load(Ordering::SeqCst);
            let sample = Sample { phase, kind, took: free_since - from, failed };
            self.shared.samples.lock().expect("no panic under this lock").push(sample);
            if lost {
                break;
            }
        }
    }

    /// Runs one random statement: a read or an update of a random row, or an insert. On average,
    /// six of ten statements are reads, three are updates and one is an insert.
    async fn one(&mut self) -> (Kind, Result<(), tokio_postgres::Error>) {
        let id = (self.roll() % self.shared.rows.cast_unsigned()).cast_signed() + 1;
        match self.roll() % 10 {
            0..6 => (Kind::Read, self.client.query_one(&self.read, &[&id]).await.map(drop)),
            6..9 => (Kind::Write, self.client.execute(&self.update, &[&id]).await.map(drop)),
            _ => {
                let id = self.shared.next_id.fetch_add(1, Ordering::SeqCst);
                (Kind::Write, self.client.execute(&self.insert, &[&id]).await.map(drop))
            }
        }
    }

    /// Returns a random number. Marsaglia's xorshift is sufficient to distribute the IDs.
    fn roll(&mut self) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice >> 16
    }
}

/// Latencies by kind and phase.
#[derive(Debug)]
pub struct Report {
    lines: Vec<Line>,
    first_error: Option<String>,
}

#[derive(Debug)]
struct Line {
    what: &'static str,
    when: &'static str,
    /// The latencies in ascending order.
    took: Vec<Duration>,
    errors: usize,
}

impl Report {
    fn of(samples: &[Sample]) -> Self {
        let mut lines = Vec::new();
        for (kind, what) in [(Kind::Read, "reads"), (Kind::Write, "writes")] {
            for (phase, when) in [(Phase::Before, "before"), (Phase::During, "during")] {
                let these = || samples.iter().filter(move |sample| sample.kind == kind && sample.phase == phase as u8);
                let mut took: Vec<Duration> = these().map(|sample| sample.took).collect();
                took.sort_unstable();
                let errors = these().filter(|sample| sample.failed.is_some()).count();
                lines.push(Line { what, when, took, errors });
            }
        }
        Self { lines, first_error: samples.iter().find_map(|sample| sample.failed.clone()) }
    }

    /// Returns an error if a statement of the application failed, or if one of the two phases had
    /// no reads or no writes.
    pub fn verdict(&self) -> Result<(), SetupError> {
        if let Some(error) = &self.first_error {
            return Err(SetupError(format!("a statement of the application failed: {error}")));
        }
        match self.lines.iter().find(|line| line.took.is_empty()) {
            Some(line) => Err(SetupError(format!("the application ran no {} {} the job", line.what, line.when))),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["count", "p50", "p95", "p99", "max", "errors"];
        writeln!(f, "  {:<16}{}", "", head.map(|word| format!("{word:>11}")).concat())?;
        for line in &self.lines {
            let shown = [0.50, 0.95, 0.99, 1.0].map(|share| format!("{:>8.2} ms", line.quantile(share)));
            let (count, errors) = (line.took.len(), line.errors);
            writeln!(f, "  {:<8}{:<8}{count:>11}{}{errors:>11}", line.what, line.when, shown.concat())?;
        }
        Ok(())
    }
}

impl Line {
    /// Returns a quantile in milliseconds by the nearest-rank method.
    fn quantile(&self, share: f64) -> f64 {
        let rank = (share * self.took.len() as f64).ceil() as usize;
        self.took.get(rank.saturating_sub(1)).map_or(0.0, |took| took.as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(kind: Kind, phase: Phase, millis: u64) -> Sample {
        Sample { phase: phase as u8, kind, took: Duration::from_millis(millis), failed: None }
    }

    #[test]
    fn quantiles_are_by_the_nearest_rank() {
        let samples: Vec<Sample> = (1..=100).rev().map(|n| sample(Kind::Read, Phase::Before, n)).collect();
        let report = Report::of(&samples);
        let line = &report.lines[0];
        assert_eq!([0.5, 0.95, 0.99, 1.0].map(|share| line.quantile(share)), [50.0, 95.0, 99.0, 100.0]);
    }

    #[test]
    fn a_failed_statement_or_no_traffic_at_all_is_a_failure() {
        let mut samples = Vec::new();
        for kind in [Kind::Read, Kind::Write] {
            samples.extend([sample(kind, Phase::Before, 1), sample(kind, Phase::During, 1)]);
        }
        assert!(Report::of(&samples).verdict().is_ok());
        assert!(Report::of(&samples[..2]).verdict().is_err());
        samples[0].failed = Some("gone".to_owned());
        assert!(Report::of(&samples).verdict().is_err());
    }
}
