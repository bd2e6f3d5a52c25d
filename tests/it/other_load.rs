//! Tests the signals about other load on the server: `active_sessions`, without and with a limit,
//! and `probe_latency`, the latency that batches add to other statements.

use std::time::Duration;

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::wait;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::support::{NO_PROBE, SOON, daemon, daemon_with, installed, run, sql, until_state, until_true, value};

const TABLE: &str = "create table t (id int primary key, n int not null default 0);
    insert into t select generate_series(1, 60000)";

/// Starts sessions that run a short statement about every 10 ms until the returned value is
/// dropped.
async fn others(cluster: &Cluster, sessions: usize) -> JoinSet<()> {
    let mut at_work = JoinSet::new();
    for _ in 0..sessions {
        let client = cluster.owner().await;
        at_work.spawn(async move {
            loop {
                client.batch_execute("select 1").await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    }
    at_work
}

/// Waits until the metrics page has a line with this prefix. Unlike a query, this check opens no
/// session on the server.
async fn until_metric(daemon: &Daemon, line: &str) -> String {
    let mut page = String::new();
    wait::until(SOON, line, async || {
        page = daemon.get("/metrics").await.map(|(_, page)| page).unwrap_or_default();
        page.lines().any(|found| found.starts_with(line))
    })
    .await;
    page
}

async fn active_sessions(owner: &Client) -> f64 {
    value(owner, "select value from backfill.signals where signal = 'active_sessions' and source = 'other_load'").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_at_full_speed_on_an_otherwise_idle_server() {
    let cluster = installed(Options::default()).await;
    sql(&cluster, TABLE).await;
    let daemon = daemon(&cluster).await;
    // A session that sleeps in `backfill.wait` until the job ends does not count as load. An idle
    // session does not count either.
    let (waiting, idle) = (cluster.owner().await, cluster.owner().await);
    run(&idle, "select 1").await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    run(&waiting, "select backfill.enqueue('t', 't', 'n = n + 1')").await;
    let waits = tokio::spawn(async move { waiting.batch_execute("call backfill.wait('t')").await });
    let page = until_metric(&daemon, "backfilld_jobs_finished_total{database=\"main\",state=\"succeeded\"} 1").await;
    assert!(!page.contains("reason=\"load\""), "{page}");
    waits.await.unwrap().unwrap();
    let owner = cluster.owner().await;
    assert_eq!(active_sessions(&owner).await, 0.0);
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n = 1").await, 60_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_beside_other_load_speeds_up_gradually_and_reports_the_reason() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let daemon = daemon_with(&cluster, NO_PROBE).await;
    let at_work = others(&cluster, 4).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    run(&owner, "select backfill.enqueue('t', 't', 'n = n + 1', options => '{\"max_batch_rows\": 50}')").await;
    let there = "select coalesce(bool_or(value = 1 and kind = 'shown'), false) from backfill.signals where source = 'other_load'";
    until_true(&owner, SOON, there).await;
    let reason = "select coalesce(throttled_by = 'load' and throttled_text like 'other sessions are active: batches run __ \\% of the time', false) from backfill.jobs";
    until_true(&owner, SOON, reason).await;
    until_true(&owner, SOON, "select coalesce(max(duty_cycle) between 0.1 and 0.8, false) from backfill.workers").await;
    until_true(
        &owner,
        SOON,
        "select count(*) = 1 and bool_and(kind = 'load' and value >= 0) from backfill.signals where signal = 'probe_latency'",
    )
    .await;
    // Once the job runs at full speed under this load, `throttled_by` no longer reports `load`.
    until_true(&owner, SOON, "select throttled_by is null or state = 'succeeded' from backfill.jobs").await;
    until_state(&cluster, "t", "succeeded", SOON).await;
    drop(at_work);
    tokio::time::sleep(Duration::from_secs(17)).await;
    run(
        &owner,
        "update t set n = 0; select backfill.tune('t', '{\"max_rows_per_second\": 20000}'); select backfill.rerun('t')",
    )
    .await;
    until_metric(&daemon, "backfilld_jobs_finished_total{database=\"main\",state=\"succeeded\"} 2").await;
    assert_eq!(active_sessions(&owner).await, 0.0, "the other sessions are still counted after their end");
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n = 1").await, 60_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_sessions_are_counted_even_if_their_statements_are_hidden() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    cluster.create_role("stranger", "login").await;
    cluster.sql("postgres", "app", "revoke pg_read_all_stats from owner").await;
    let config = "databases: [{name: main, url: x, signals: [{name: active_sessions, limit: 2, cores: 2, interval_seconds: 1}]}]";
    let _daemon = daemon_with(&cluster, config).await;
    let mut strangers = Vec::new();
    for _ in 0..3 {
        let stranger = cluster.client("stranger", "app").await;
        run(&stranger, "begin; select 1").await;
        strangers.push(stranger);
    }
    let hidden = "select count(*) from pg_stat_activity where usename = 'stranger' and state is not null";
    assert_eq!(value::<i64>(&owner, hidden).await, 0, "owner may see the statements, so nothing is tested");
    // The sessions are reported each second while a job runs.
    run(&owner, TABLE).await;
    run(&owner, "select backfill.enqueue('t', 't', 'n = n + 1', options => '{\"max_rows_per_second\": 100}')").await;
    // The limit is two sessions for each of two cores. The session that polls may also count as
    // active.
    let counted = "select coalesce(bool_or(value in (3, 4) and \"limit\" = 4 and kind = 'load'), false) from backfill.signals where signal = 'active_sessions' and source = 'server'";
    until_true(&owner, SOON, counted).await;
}
