//! Compares a job of one slice, and a job of two slices, with a single `UPDATE` of the whole table.

use crate::sample::Sample;
use backfilld_testbed::cluster::Cluster;
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::{process, wait};
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::Client;

/// Autovacuum is off, because it would otherwise work during some runs only.
const TABLE: &str = "
drop table if exists public.orders;
create table public.orders (
    id bigint primary key,
    customer_id int not null,
    total numeric(12,2) not null,
    status text not null,
    created_at timestamptz not null default now(),
    total_cents bigint
) with (autovacuum_enabled = off)";
const FILL: &str = "insert into public.orders (id, customer_id, total, status, created_at)
    select n, 1 + n % 50000, (n * 7919 % 1000000) / 100.0, 'paid', now() - n * interval '1 second'
    from generate_series(1::bigint, $1) n";
const SET: &str = "total_cents = round(total * 100)::bigint";
const UNFILLED: &str =
    "select count(*) from public.orders where total_cents is distinct from round(total * 100)::bigint";

const ENQUEUE: &str = "select backfill.enqueue(name => $1, target => 'public.orders', set => $2, options => $3)";
/// Returns the duration of the job, the number of changed rows, and the job's error, if any. The
/// duration, in seconds, begins with the planner's claim and ends with the transaction that
/// finishes the job.
const TOOK: &str = "select extract(epoch from finished_at - started_at)::float8, rows_changed, error
    from backfill.job where name = $1 and finished_at is not null";

/// Time limit of a wait. It is long enough for a large table on a slow disk.
const LONG: Duration = Duration::from_secs(3600);

/// The speed in each turn relative to the single UPDATE. If the ratio is above 1.0, the job is
/// faster.
pub struct Ratios {
    one: Sample,
    two: Sample,
}

#[derive(Clone, Copy)]
enum Run {
    Update,
    Slices(u8),
}

pub async fn measure(cluster: &Cluster, daemon: &Daemon, rows: i64, pairs: i64) -> Ratios {
    let owner = cluster.owner().await;
    let superuser = cluster.superuser("app").await;
    let mut runs = [Run::Update, Run::Slices(1), Run::Slices(2)];
    let mut seconds = [Sample::default(), Sample::default(), Sample::default()];
    let mut processor = [Sample::default(), Sample::default(), Sample::default()];
    let mut ratios = Ratios { one: Sample::default(), two: Sample::default() };
    for pair in 0..pairs {
        let mut took = [0.0; 3];
        for run in runs {
            rebuild(&owner, &superuser, rows).await;
            let before = processor_seconds(cluster, daemon);
            let (place, seconds) = match run {
                Run::Update => (0, update(&owner).await),
                Run::Slices(n) => (n.into(), job(&owner, &format!("speed_{rows}_{pair}_{n}"), n, rows).await),
            };
            processor[place].add(processor_seconds(cluster, daemon) - before);
            took[place] = seconds;
            assert_eq!(owner.query_one(UNFILLED, &[]).await.unwrap().get::<_, i64>(0), 0);
        }
        // The order rotates, so that the same run does not always come first.
        runs.rotate_left(1);
        for (sample, took) in seconds.iter_mut().zip(took) {
            sample.add(took);
        }
        ratios.one.add(took[0] / took[1]);
        ratios.two.add(took[0] / took[2]);
        eprintln!(
            "turn {} of {pairs}: {:.2} s, 1 slice {:.2} s, 2 slices {:.2} s",
            pair + 1,
            took[0],
            took[1],
            took[2]
        );
    }
    println!(
        "| {rows} rows, {pairs} turns | seconds | processor seconds | speed relative to UPDATE |\n|---|---|---|---|"
    );
    println!("| single UPDATE | {} | {} | |", seconds[0], processor[0]);
    println!("| job, 1 slice | {} | {} | {} |", seconds[1], processor[1], ratios.one);
    println!("| job, 2 slices | {} | {} | {} |", seconds[2], processor[2], ratios.two);
    println!("\nhighest resident memory of the daemon: {:.1} MB\n", resident_mb(daemon));
    ratios
}

pub fn compare(small: &Ratios, big: &Ratios) {
    println!("| ratio of the large table divided by that of the small one | |\n|---|---|");
    println!("| 1 slice | {:.2} |", big.one.median() / small.one.median());
    println!("| 2 slices | {:.2} |\n", big.two.median() / small.two.median());
}

async fn rebuild(owner: &Client, superuser: &Client, rows: i64) {
    owner.batch_execute(TABLE).await.unwrap();
    owner.execute(FILL, &[&rows]).await.unwrap();
    owner.batch_execute("vacuum analyze public.orders").await.unwrap();
    superuser.batch_execute("checkpoint").await.unwrap();
}

async fn update(owner: &Client) -> f64 {
    let started = Instant::now();
    owner.batch_execute(&format!("update public.orders set {SET}")).await.unwrap();
    started.elapsed().as_secs_f64()
}

async fn job(owner: &Client, name: &str, slices: u8, rows: i64) -> f64 {
    let options = serde_json::json!({"throttle": "off", "vacuum": "off", "verify": "none", "slices": slices});
    owner.query_one(ENQUEUE, &[&name, &SET, &options]).await.unwrap();
    let ended = wait::until_ok(LONG, "the job has ended", async || {
        // Poll rarely, because each poll takes processor time from the measured job.
        tokio::time::sleep(Duration::from_millis(100)).await;
        owner.query_opt(TOOK, &[&name]).await.unwrap().ok_or("it runs")
    })
    .await;
    assert_eq!((ended.get(1), ended.get::<_, Option<&str>>(2)), (Some(rows), None));
    ended.get(0)
}

/// Returns the processor time of the server and the daemon so far, in seconds. The time is read
/// from `/proc/PID/stat` in ticks of 10 ms. It includes the processor time of child processes that
/// have ended.
fn processor_seconds(cluster: &Cluster, daemon: &Daemon) -> f64 {
    let mut ticks = 0;
    for pid in process::working_in(&cluster.data_dir()).into_iter().chain([daemon.pid()]) {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
        ticks += fields.skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
    }
    ticks as f64 / 100.0
}

fn resident_mb(daemon: &Daemon) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|kb| kb.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}
