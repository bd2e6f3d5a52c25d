//! Measures how long other sessions wait for a batch: sessions that change rows at the position of
//! the walk, and sessions that run DDL.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use backfilld_testbed::cluster::Cluster;
use backfilld_testbed::wait;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::sample::Sample;
use crate::server::SOON;

/// Number of waits after which the measurement of a setting ends. With fewer waits, a 99th
/// percentile is not meaningful.
const ENOUGH: usize = 200;
/// A statement counts as a wait if its duration exceeds the median duration without a walk by more
/// than this number of seconds.
const A_WAIT: f64 = 0.001;
const LONGEST: Duration = Duration::from_secs(240);
const ROWS: i64 = 200_000;
/// The update of each row takes 5 ms, and each row of a batch stays locked until the batch ends.
const SLOW: &str = "n = n + 1 + length(pg_sleep(0.005)::text)";
const FAST: &str = "n = n + 1";

pub async fn measure(cluster: &Cluster) {
    println!(
        "\n| extra wait of sessions that change rows at the position of the walk | statements | waited | p50, ms | p99, ms | longest, ms | goal for p99, ms |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (rows, set) in [("fast rows", FAST), ("rows of 5 ms", SLOW)] {
        for (sessions, goal) in [(1, 60), (50, 100)] {
            let name = format!("{rows}, {sessions} session{}", if sessions == 1 { "" } else { "s" });
            meet(cluster, &name, set, sessions, goal).await;
        }
    }
    ddl(cluster).await;
}

async fn table(cluster: &Cluster) -> Client {
    let owner = cluster.owner().await;
    let made = format!(
        "drop table if exists public.hot; create table public.hot (id int primary key, n int not null default 0, seen int not null default 0) with (fillfactor = 50, autovacuum_enabled = off); insert into public.hot select generate_series(1, {ROWS})"
    );
    owner.batch_execute(&made).await.unwrap();
    cluster.sql("postgres", "app", "vacuum analyze public.hot").await;
    owner
}

async fn begin(owner: &Client, set: &str) {
    let job = owner.query_one("select name from backfill.jobs where name = 'hot'", &[]).await;
    if job.is_ok() {
        owner.batch_execute("select backfill.forget('hot')").await.unwrap();
    }
    let enqueue = "select backfill.enqueue('hot', 'public.hot', $1, options => '{\"verify\": \"none\"}')";
    owner.query_one(enqueue, &[&set]).await.unwrap();
    wait::until(SOON, "the walk has begun", async || {
        owner.query_one("select rows_changed > 0 from backfill.jobs where name = 'hot'", &[]).await.unwrap().get(0)
    })
    .await;
}

async fn end(owner: &Client) {
    // The cancel is refused if the job has already finished.
    let _ = owner.batch_execute("select backfill.cancel('hot')").await;
    let over = "select state in ('cancelled', 'succeeded') from backfill.jobs where name = 'hot'";
    wait::until(SOON, "the job is over", async || owner.query_one(over, &[]).await.unwrap().get(0)).await;
}

/// Measures sessions that repeatedly change rows just after the last known position of the walk.
/// The sessions start again every 5 s, until there are [`ENOUGH`] waits or [`LONGEST`] has passed.
async fn meet(cluster: &Cluster, name: &str, set: &str, sessions: usize, goal: u32) {
    let owner = table(cluster).await;
    let place = Arc::new(AtomicI64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let alone = hot(cluster, sessions, &place, &stop, Duration::from_secs(3)).await;
    let usual = quantile(&alone, 0.5);
    begin(&owner, set).await;
    let following = tokio::spawn(follow(cluster.owner().await, Arc::clone(&place), Arc::clone(&stop)));
    let (mut all, mut waits) = (0, Vec::new());
    let begun = Instant::now();
    while waits.len() < ENOUGH && begun.elapsed() < LONGEST {
        let took = hot(cluster, sessions, &place, &stop, Duration::from_secs(5)).await;
        all += took.len();
        waits.extend(took.iter().map(|seconds| seconds - usual).filter(|extra| *extra > A_WAIT));
    }
    stop.store(true, Ordering::Relaxed);
    following.await.unwrap();
    end(&owner).await;
    let shown = |share| if waits.is_empty() { 0.0 } else { quantile(&waits, share) * 1e3 };
    println!(
        "| {name} | {all} | {} | {:.1} | {:.1} | {:.1} | {goal} |",
        waits.len(),
        shown(0.5),
        shown(0.99),
        shown(1.0)
    );
}

async fn follow(client: Client, place: Arc<AtomicI64>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let passed = "select coalesce(max(position[1]::bigint), 0) from backfill.slices where name = 'hot' and holder is not null";
        place.store(client.query_one(passed, &[]).await.unwrap().get(0), Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Runs the sessions for `phase`, and returns the duration of each of their statements in seconds.
async fn hot(
    cluster: &Cluster,
    sessions: usize,
    place: &Arc<AtomicI64>,
    stop: &Arc<AtomicBool>,
    phase: Duration,
) -> Vec<f64> {
    let mut running = JoinSet::new();
    for number in 0..sessions {
        let (client, place, stop) = (cluster.owner().await, Arc::clone(place), Arc::clone(stop));
        running.spawn(async move {
            let update = client.prepare("update public.hot set seen = seen + 1 where id = $1").await.unwrap();
            let (begun, mut took) = (Instant::now(), Vec::new());
            while begun.elapsed() < phase && !stop.load(Ordering::Relaxed) {
                // Each session has a separate row, so that the sessions do not wait for each other.
                let row = place.load(Ordering::Relaxed) + 1 + i64::try_from(number).unwrap();
                let asked = Instant::now();
                client.execute(&update, &[&i32::try_from(row.min(ROWS)).unwrap()]).await.unwrap();
                took.push(asked.elapsed().as_secs_f64());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            took
        });
    }
    running.join_all().await.concat()
}

/// Measures DDL while a walk of slow rows is running: how long `alter table add column` takes, and
/// how long `create index concurrently` waits for its lock.
async fn ddl(cluster: &Cluster) {
    println!("\n| statement | executions | time, ms | goal, ms |\n|---|---|---|---|");
    let owner = table(cluster).await;
    begin(&owner, SLOW).await;
    let mut add = Sample::default();
    for column in 0..20 {
        let asked = Instant::now();
        owner.batch_execute(&format!("alter table public.hot add column c{column} int")).await.unwrap();
        add.add(asked.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    println!("| `alter table add column`, until it has finished | 20 | {add:.0} | 250 |");
    let mut lock = Sample::default();
    for index in 0..5 {
        let building = cluster.owner().await;
        let asked = Instant::now();
        let built = tokio::spawn(async move {
            building.batch_execute(&format!("create index concurrently i{index} on public.hot (seen)")).await.unwrap();
        });
        let held = "select exists (select from pg_locks where relation = 'public.hot'::regclass and mode = 'ShareUpdateExclusiveLock' and granted)";
        wait::until(SOON, "the index build has its lock", async || {
            built.is_finished() || owner.query_one(held, &[]).await.unwrap().get(0)
        })
        .await;
        lock.add(asked.elapsed().as_secs_f64() * 1e3);
        built.await.unwrap();
    }
    println!("| `create index concurrently`, until it has its lock | 5 | {lock:.0} | 250 |");
    end(&owner).await;
}

/// Returns a quantile by the nearest-rank method.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[((share * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len()) - 1]
}
