//! Measures the processor time of the daemon's own sessions on the server. Sessions that change
//! rows are not counted. The sampler and the queue share one pool. The guard, the heartbeat and the
//! listener have one session each. The operating system reports the processor time of each server
//! process.

use std::collections::BTreeMap;
use std::time::Duration;

use backfilld_testbed::cluster::Cluster;
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::standby::Standby;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::progress::{cancel, until_begun};
use crate::server::{BACKFILLD, SOON, daemon, number};

const ROWS: i64 = 8_000_000;
const TABLE: &str = "
create table public.heard (id bigint primary key, n bigint not null default 0) with (fillfactor = 50, autovacuum_enabled = off);
insert into public.heard select generate_series(1, ROWS);
alter table public.heard owner to owner";
const SESSIONS: &str = "select pid, application_name from pg_stat_activity where application_name like 'backfilld %' and application_name not like 'backfilld job %'";

/// The goals: the maximum processor time, in percent of a core.
const AT_REST: f64 = 1.0;
const AT_WORK: f64 = 3.0;

pub async fn measure(cluster: &Cluster) {
    cluster.sql("postgres", "app", &TABLE.replace("ROWS", &ROWS.to_string())).await;
    cluster.sql("postgres", "app", "vacuum analyze public.heard").await;
    let _standby = Standby::of(cluster).await;
    let phase = Duration::from_secs(number("SECONDS", 20).unsigned_abs());
    println!(
        "\n| percent of a core, with a standby | control pool | guard | heartbeat, listen | total | goal |\n|---|---|---|---|---|---|"
    );
    // Idle workers poll the queue twice per second. With a long poll interval, only the sampler,
    // the heartbeat and some gauges cause load.
    let sampler = Daemon::builder(BACKFILLD, &cluster.owner_url())
        .config("lease: {poll_ms: 60000}\ndatabases: [{name: main, url: x}]")
        .start();
    sampler.wait_ready(SOON).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    show("at rest, without polling the queue", measure_sessions(cluster, phase).await, AT_REST);
    drop(sampler);
    let daemon = daemon(cluster).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    show("at rest", measure_sessions(cluster, phase).await, AT_REST);
    let at_once = json!({"slices": 2, "max_rows_per_second": 150_000});
    show(
        "running, no other load",
        at_work(cluster, &daemon, "heard_alone", "n = n + 1", at_once, phase).await,
        AT_WORK,
    );
    // During a long batch, the guard checks repeatedly for blocked sessions.
    let slow = "n = n + 1 + length(pg_sleep(0.001)::text)";
    let long = json!({"slices": 2, "target_batch_ms": 200});
    show("running, in batches of 200 ms", at_work(cluster, &daemon, "heard_long", slow, long, phase).await, AT_WORK);
    let mut others = JoinSet::new();
    for _ in 0..8 {
        let client = cluster.owner().await;
        others.spawn(async move {
            loop {
                client.batch_execute("select 1").await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let usual = json!({"slices": 2, "max_rows_per_second": 100_000});
    show(
        "running, beside other load",
        at_work(cluster, &daemon, "heard_others", "n = n + 1", usual, phase).await,
        AT_WORK,
    );
}

async fn at_work(cluster: &Cluster, daemon: &Daemon, job: &str, set: &str, options: Value, phase: Duration) -> Costs {
    let owner = cluster.owner().await;
    let mut options = options;
    options["verify"] = json!("none");
    options["vacuum"] = json!("off");
    let enqueue = "select backfill.enqueue($1, 'public.heard', $2, options => $3)";
    owner.query_one(enqueue, &[&job, &set, &options]).await.unwrap();
    until_begun(daemon, job).await;
    // The job is set up in its first seconds. They are not part of the measurement.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let seen = measure_sessions(cluster, phase).await;
    cancel(&owner, job).await;
    cluster.sql("postgres", "app", "vacuum public.heard").await;
    seen
}

/// For each purpose, the processor time of its sessions in percent of a core.
type Costs = BTreeMap<String, f64>;

async fn measure_sessions(cluster: &Cluster, phase: Duration) -> Costs {
    let superuser = cluster.superuser("app").await;
    let (before, begun) = (used(&superuser).await, Instant::now());
    tokio::time::sleep(phase).await;
    let after = used(&superuser).await;
    let mut percent = Costs::new();
    for (pid, (name, seconds)) in after {
        let seconds = seconds - before.get(&pid).map_or(0.0, |(_, seconds)| *seconds);
        *percent.entry(name).or_default() += 100.0 * seconds / begun.elapsed().as_secs_f64();
    }
    percent
}

/// For each of the daemon's sessions, returns its purpose and its processor time so far, in
/// seconds.
async fn used(superuser: &tokio_postgres::Client) -> BTreeMap<i32, (String, f64)> {
    let rows = superuser.query(SESSIONS, &[]).await.unwrap();
    rows.iter()
        .map(|row| {
            let pid: i32 = row.get(0);
            // The first number in the file is the processor time in nanoseconds.
            let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
            let nanos: f64 = text.split_whitespace().next().unwrap().parse().unwrap();
            (pid, (row.get::<_, String>(1).replace("backfilld ", ""), nanos / 1e9))
        })
        .collect()
}

fn show(name: &str, costs: Costs, goal: f64) {
    let of = |name: &str| costs.get(name).copied().unwrap_or_default();
    let together: f64 = costs.values().sum();
    println!(
        "| {name} | {:.2} | {:.2} | {:.2} | {together:.2} | {goal} |",
        of("control"),
        of("guard"),
        of("heartbeat") + of("listen")
    );
}
