//! The application reads and updates single rows. Each of its sessions runs one statement per fixed
//! interval.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backfilld_testbed::server::connect;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_postgres::Client;

const CONNECTIONS: u64 = 8;
/// Statements are grouped into buckets of this duration. The 95th and 99th percentiles are computed
/// for each bucket, and each result is the median over the buckets. One slow bucket therefore does
/// not determine the result of a phase.
const BUCKET: Duration = Duration::from_millis(500);

const READ: &str = "select customer_id, total, status from public.orders where id = $1";
const UPDATE: &str =
    "update public.orders set status = case status when 'paid' then 'shipped' else 'paid' end where id = $1";

#[derive(Clone, Copy)]
struct Statement {
    at: Instant,
    write: bool,
    took: Duration,
}

#[derive(Default)]
struct Shared {
    counting: AtomicBool,
    statements: Mutex<Vec<Statement>>,
}

/// The application runs until this value is dropped.
pub struct Application {
    shared: Arc<Shared>,
    _sessions: JoinSet<()>,
}

/// The latencies that the application measured in one phase.
pub struct Phase {
    pub reads: Felt,
    pub writes: Felt,
}

/// Latencies, in seconds, of the reads or of the writes. `p50` is the median of all statements.
/// `p95` and `p99` are computed for each bucket of 500 ms that contains at least 20 statements.
/// `p95` and `p99` are the medians of the buckets' values.
#[derive(Debug, Clone, Copy)]
pub struct Felt {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

impl Application {
    pub async fn start(url: &str, statements_per_second: u64, rows: i64) -> Self {
        let shared = Arc::new(Shared::default());
        let mut sessions = JoinSet::new();
        let pace = Duration::from_secs_f64(CONNECTIONS as f64 / statements_per_second as f64);
        for number in 0..CONNECTIONS {
            let client = connect(url).await.unwrap();
            client.batch_execute("set application_name = 'shop'").await.unwrap();
            let start = Instant::now() + pace.mul_f64(number as f64 / CONNECTIONS as f64);
            sessions.spawn(session(client, number, rows, start, pace, Arc::clone(&shared)));
        }
        Self { shared, _sessions: sessions }
    }

    /// Measures the latencies from now on, for the duration `phase`.
    pub async fn feel(&self, phase: Duration) -> Phase {
        self.begin();
        tokio::time::sleep(phase).await;
        self.end()
    }

    pub fn begin(&self) {
        self.shared.statements.lock().unwrap().clear();
        self.shared.counting.store(true, Ordering::SeqCst);
    }

    pub fn end(&self) -> Phase {
        self.shared.counting.store(false, Ordering::SeqCst);
        let statements = std::mem::take(&mut *self.shared.statements.lock().unwrap());
        Phase { reads: Felt::of(&statements, false), writes: Felt::of(&statements, true) }
    }
}

async fn session(client: Client, number: u64, rows: i64, start: Instant, pace: Duration, shared: Arc<Shared>) {
    let (read, update) = (client.prepare(READ).await.unwrap(), client.prepare(UPDATE).await.unwrap());
    let mut ticks = tokio::time::interval_at(start, pace);
    // A late statement starts at once, and its waiting time counts as latency. Real users, too,
    // keep sending requests when the database is slow.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut free_since = start;
    let mut dice = 0x9e37_79b9_7f4a_7c15 ^ (number + 1);
    loop {
        let due = ticks.tick().await;
        let from = if free_since > due { due } else { Instant::now() };
        // Marsaglia's xorshift is sufficient to distribute the IDs.
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let id = ((dice >> 16) % rows.unsigned_abs()).cast_signed() + 1;
        let write = dice & 1 == 1;
        let answer = if write { client.execute(&update, &[&id]).await } else { client.execute(&read, &[&id]).await };
        answer.unwrap();
        free_since = Instant::now();
        if shared.counting.load(Ordering::Relaxed) {
            let statement = Statement { at: free_since, write, took: free_since - from };
            shared.statements.lock().unwrap().push(statement);
        }
    }
}

impl Felt {
    fn of(all: &[Statement], write: bool) -> Self {
        let these: Vec<&Statement> = all.iter().filter(|statement| statement.write == write).collect();
        let begun = these.iter().map(|statement| statement.at).min().expect("the application ran");
        let mut buckets: Vec<Vec<f64>> = Vec::new();
        for statement in &these {
            let bucket = (statement.at - begun).div_duration_f64(BUCKET) as usize;
            if buckets.len() <= bucket {
                buckets.resize(bucket + 1, Vec::new());
            }
            buckets[bucket].push(statement.took.as_secs_f64());
        }
        let over_buckets = |share: f64| {
            let each: Vec<f64> =
                buckets.iter().filter(|bucket| bucket.len() >= 20).map(|b| quantile(b, share)).collect();
            if each.is_empty() { f64::INFINITY } else { quantile(&each, 0.5) }
        };
        let took: Vec<f64> = these.iter().map(|statement| statement.took.as_secs_f64()).collect();
        Self { p50: quantile(&took, 0.5), p95: over_buckets(0.95), p99: over_buckets(0.99) }
    }
}

/// Returns a quantile by the nearest-rank method.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[((share * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len()) - 1]
}
