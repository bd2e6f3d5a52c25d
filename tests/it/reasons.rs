//! Tests of the reasons that the views show for a job that is held, waits for a worker, or is
//! slowed down.

use std::time::Duration;

use backfilld_testbed::cluster::Options;
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::standby::Standby;
use backfilld_testbed::wait;

use crate::proof::{PLUS_ONE, enqueue, exact, table, until_more_batches};
use crate::support::{BACKFILLD, SOON, backfilld, daemon, installed, run, sql, until_state, until_true, value};

/// A job that changes rows at its maximum rate is not waiting. The view shows what throttles the
/// job, and the share of the time in which its batches run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_with_a_rate_is_throttled_and_not_held() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    table(&cluster, "rated", 100_000).await;
    let daemon = daemon(&cluster).await;
    enqueue(&cluster, "rated", PLUS_ONE, r#"{"max_rows_per_second": 200, "max_batch_rows": 20}"#).await;
    let throttled = "select coalesce(throttled_by = 'rate' and throttled_text like 'limited to 200 rows per second%' and waiting_reason is null and waiting_text is null
        and time_share between 0 and 1 and rows_per_second between 50 and 400 and eta > clock_timestamp(), false) from backfill.jobs";
    until_true(&owner, SOON, throttled).await;
    // The time counts as throttled and not as held.
    wait::until(SOON, "the metric counts the throttled time", async || {
        let (_, metrics) = daemon.get("/metrics").await.unwrap();
        metrics.lines().any(|line| {
            line.starts_with("backfilld_throttled_seconds_total{database=\"main\",reason=\"rate\"}")
                && !line.ends_with(" 0")
        })
    })
    .await;
    let (_, metrics) = daemon.get("/metrics").await.unwrap();
    assert!(!metrics.contains("backfilld_hold_seconds_total{database=\"main\",reason=\"rate\"}"), "{metrics}");
    // The estimate of the remaining time is stable.
    let mut estimates = Vec::new();
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let left = "select extract(epoch from eta - clock_timestamp())::float8 from backfill.jobs";
        estimates.push(value::<Option<f64>>(&owner, left).await.unwrap_or(0.0));
    }
    let (least, most) =
        estimates.iter().fold((f64::MAX, 0.0_f64), |(least, most), left| (least.min(*left), most.max(*left)));
    assert!(least > 0.0 && most < least * 3.0, "{estimates:?}");
    // With a rate of one row in 10 s, no row is changed for a long time, so the job is held.
    sql(&cluster, r#"select backfill.tune('rated', '{"max_rows_per_second": 0.1}')"#).await;
    until_true(&owner, SOON, "select coalesce(waiting_reason = 'rate' and waiting_text like 'limited to%' and throttled_by is null, false) from backfill.jobs").await;
    let none = "select throttled_by is null and throttled_text is null and time_share is null and waiting_reason is null from backfill.jobs";
    sql(&cluster, r#"select backfill.cancel('rated')"#).await;
    until_state(&cluster, "rated", "cancelled", SOON).await;
    assert!(value::<bool>(&owner, none).await);
}

/// Each reason has a text that says what the job waits for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_reason_to_wait_has_a_text() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    for name in ["approval", "later", "closed", "first", "second", "third", "fourth"] {
        table(&cluster, name, 5_000).await;
    }
    run(
        &owner,
        "select backfill.enqueue('approval', 'approval', 'n = 1', needs_approval => true);
         select backfill.enqueue('later', 'later', 'n = 1', run_at => now() + interval '1 day')",
    )
    .await;
    let text = async |name: &str| {
        value::<String>(&owner, &format!("select coalesce(waiting_reason, 'null') || ': ' || coalesce(waiting_text, 'null') from backfill.jobs where name = '{name}'")).await
    };
    assert!(text("approval").await.starts_with(
        "approval: a member of backfill_operator must approve the job: select backfill.approve('approval')"
    ));
    assert!(text("later").await.starts_with("run_at: the job starts at 20"));
    run(&owner, "select backfill.enqueue('first', 'first', 'n = n + 1')").await;
    let told = text("first").await;
    assert!(
        told.starts_with("executor: no running daemon runs jobs as role \"owner\"")
            || told.starts_with("daemon: no daemon is running"),
        "{told}"
    );
    let _daemon = Daemon::builder(BACKFILLD, &cluster.owner_url())
        .config("databases: [{name: main, url: 'postgres://x', workers: 2}]\ndefaults: {max_rows_per_second: 50}")
        .start();
    // Two jobs occupy both workers, and the third and fourth wait for them.
    run(
        &owner,
        "select backfill.enqueue('second', 'second', 'n = n + 1'); select backfill.enqueue('third', 'third', 'n = n + 1');
         select backfill.enqueue('fourth', 'fourth', 'n = n + 1')",
    )
    .await;
    until_true(&owner, SOON, "select bool_and(coalesce(waiting_reason = 'worker' and waiting_text like 'no worker is free; running now: \"first\", \"second\". To start this job earlier%', false)) from backfill.jobs where name in ('third', 'fourth')").await;
    // A role that may not see these jobs does not learn their names.
    cluster.sql("postgres", "app", "create role clerk login; grant backfill_submitter to clerk; grant select, update on third to clerk; grant clerk to owner").await;
    let clerk = cluster.client("clerk", "app").await;
    run(&owner, "set role clerk; set role none").await;
    assert_eq!(value::<i64>(&clerk, "select count(*) from backfill.jobs").await, 0);
    sql(&cluster, "select backfill.pause_all()").await;
    until_true(&owner, SOON, "select bool_and(coalesce(waiting_reason = 'paused_all' and waiting_text like 'all jobs are paused%', false)) from backfill.jobs where name in ('first', 'third')").await;
}

/// The synchronous standby has disconnected, so commits wait for it. The view shows this as the
/// reason why the job waits, and the daemon still counts as running.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_waits_for_a_standby_is_a_reason() {
    const ROWS: i64 = 2_000;
    let cluster = installed(Options::default()).await;
    table(&cluster, "synced", ROWS).await;
    table(&cluster, "later", 1).await;
    let owner = cluster.owner().await;
    let standby = Standby::named(&cluster, "s1").await;
    let daemon = daemon(&cluster).await;
    enqueue(&cluster, "synced", PLUS_ONE, r#"{"max_rows_per_second": 100, "max_batch_rows": 10}"#).await;
    until_more_batches(&owner, "synced", 2).await;
    drop(standby);
    cluster.sql("postgres", "postgres", "alter system set synchronous_standby_names = 's1'").await;
    cluster.sql("postgres", "postgres", "select pg_reload_conf()").await;
    // The transaction that ends the claim waits for the standby.
    run(&owner, "set synchronous_commit = local; select backfill.pause('synced')").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    run(&owner, "set synchronous_commit = local; select backfill.resume('synced')").await;
    until_true(&owner, SOON, "select coalesce(waiting_reason = 'commit' and waiting_text like '%synchronous_standby_names is ''s1''%', false) from backfill.jobs").await;
    assert!(value::<bool>(&owner, "select bool_or(alive) from backfill.workers").await);
    wait::until(SOON, "the daemon is ready", async || {
        daemon.get("/readyz").await.is_ok_and(|(status, _)| status == 200)
    })
    .await;
    // `enqueue` reports that its commit waits for the standby, and then stops waiting.
    let mut command = tokio::process::Command::new(BACKFILLD);
    let command = command
        .args(["enqueue", "later", "--target", "later", "--set", PLUS_ONE])
        .env("BACKFILLD_DATABASE_URL", cluster.owner_url())
        .kill_on_drop(true);
    let output = tokio::time::timeout(SOON, command.output()).await.expect("the command ends").unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(
        told.contains("waiting: the commit waits for a synchronous standby (synchronous_standby_names is 's1')"),
        "{told}"
    );
    assert!(told.contains("canceling wait for synchronous replication"), "{told}");
    let findings = backfilld(&cluster, &["doctor"]).await;
    assert!(findings.contains("no synchronous standby is connected"), "{findings}");
    cluster.sql("postgres", "postgres", "alter system reset synchronous_standby_names").await;
    cluster.sql("postgres", "postgres", "select pg_reload_conf()").await;
    run(&owner, r#"select backfill.tune('synced', '{"max_rows_per_second": 100000, "max_batch_rows": 1000}')"#).await;
    until_state(&cluster, "synced", "succeeded", SOON).await;
    exact(&cluster, "synced", ROWS).await.unwrap();
}

/// The login has a connection limit. The daemon works with 6 connections. With fewer, the job's
/// waiting text reports the limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_works_with_six_connections_and_says_if_it_has_fewer() {
    let cluster = installed(Options::default()).await;
    for name in ["few", "none"] {
        table(&cluster, name, 500).await;
    }
    let config = "databases: [{name: main, url: 'postgres://x', workers: 1}]";
    cluster.sql("postgres", "app", "alter role owner connection limit 6").await;
    // The test itself must not use a connection of the role.
    let enqueue = |name: &str| {
        format!("set role owner; select backfill.enqueue('{name}', '{name}', 'n = n + 1', run_as => 'owner')")
    };
    cluster.sql("postgres", "app", &enqueue("few")).await;
    let watcher = cluster.client("postgres", "app").await;
    let daemon = Daemon::builder(BACKFILLD, &cluster.owner_url()).config(config).start();
    until_true(&watcher, SOON, "select state = 'succeeded' from backfill.jobs where name = 'few'").await;
    // The daemon keeps five sessions open, in addition to the worker's session.
    let sessions = "select count(*) = 5 from pg_stat_activity where usename = 'owner'";
    until_true(&watcher, SOON, sessions).await;
    cluster.sql("postgres", "app", "alter role owner connection limit 5").await;
    cluster.sql("postgres", "app", &enqueue("none")).await;
    until_true(&watcher, SOON, "select coalesce(waiting_reason = 'connections' and waiting_text like '%uses up to 11 connections%', false) from backfill.jobs where name = 'none'").await;
    cluster.sql("postgres", "app", "alter role owner connection limit 6").await;
    until_true(&watcher, SOON, "select state = 'succeeded' from backfill.jobs where name = 'none'").await;
    assert!(daemon.ended().is_none());
}

/// A daemon starts with so few connections that it may be unable to open a session for its
/// heartbeat. It still counts as running.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_without_a_connection_for_its_heartbeat_counts_as_running() {
    let cluster = installed(Options::default()).await;
    table(&cluster, "t", 500).await;
    cluster.sql("postgres", "app", "alter role owner connection limit 4").await;
    cluster
        .sql("postgres", "app", "set role owner; select backfill.enqueue('t', 't', 'n = n + 1', run_as => 'owner')")
        .await;
    let watcher = cluster.client("postgres", "app").await;
    let config = "lease: {ttl_seconds: 5}\ndatabases: [{name: main, url: 'postgres://x', workers: 1}]";
    let daemon = Daemon::builder(BACKFILLD, &cluster.owner_url()).config(config).start();
    wait::until(SOON, "a session cannot be opened", async || {
        daemon.output().contains("too many connections for role \"owner\"; the daemon uses up to 11 connections as its control login, and needs at least 6")
    })
    .await;
    until_true(&watcher, SOON, "select coalesce(bool_or(alive), false) from backfill.workers").await;
    // The loop takes longer than the TTL of the registration.
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(value::<bool>(&watcher, "select bool_or(alive) from backfill.workers").await);
        assert!(value::<bool>(&watcher, "select waiting_reason is distinct from 'daemon' from backfill.jobs").await);
    }
    cluster.sql("postgres", "app", "alter role owner connection limit -1").await;
    until_true(&watcher, SOON, "select state = 'succeeded' from backfill.jobs").await;
}
