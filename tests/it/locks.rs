//! Tests of locks that other sessions hold for seconds, on the tables of schema `backfill` or on
//! the table of a job, at each stage of the job. No job fails, and the daemon keeps running.

use std::time::Duration;

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::wait;

use crate::proof::{PLUS_ONE, PLUS_ONE_OF_ANOTHER_ROW, QUICK, enqueue, exact, table};
use crate::support::{BACKFILLD, SOON, installed, run, until_state, until_true, value};

/// Locks a table in the strongest mode for this time.
async fn lock(cluster: &Cluster, table: &str, time: Duration) {
    let owner = cluster.owner().await;
    run(&owner, &format!("begin; lock table {table} in access exclusive mode")).await;
    tokio::time::sleep(time).await;
    run(&owner, "commit").await;
}

/// Jobs are continuously enqueued, planned, walked, verified and finished. Meanwhile, another
/// session locks the tables of the schema one after the other. In production, a `vacuum full` can
/// cause such a lock, or a statement that waits behind a `pg_dump`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_wait_for_locks_on_the_tables_of_the_queue() {
    const ROWS: i64 = 300;
    let cluster = installed(Options::default()).await;
    let daemon = Daemon::builder(BACKFILLD, &cluster.owner_url()).start();
    daemon.wait_ready(SOON).await;
    let owner = cluster.owner().await;
    let tables: Vec<String> = owner
        .query("select format('backfill.%I', relname) from pg_class where relnamespace = 'backfill'::regnamespace and relkind = 'r' order by relname", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(tables.len() > 10 && tables.contains(&"backfill.job".to_owned()), "{tables:?}");
    let locking = async {
        for table in &tables {
            lock(&cluster, table, Duration::from_millis(1500)).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // This is longer than the lock timeout of the daemon's own statements.
        lock(&cluster, "backfill.job", Duration::from_secs(8)).await;
        lock(&cluster, "backfill.slice", Duration::from_secs(7)).await;
    };
    let mut locking = std::pin::pin!(locking);
    let mut names = Vec::new();
    let enqueueing = async {
        loop {
            let name = format!("l{}", names.len());
            table(&cluster, &name, ROWS).await;
            let set = if names.len() % 2 == 0 { PLUS_ONE } else { PLUS_ONE_OF_ANOTHER_ROW };
            enqueue(&cluster, &name, set, r#"{"slices": 2, "max_batch_rows": 20, "max_rows_per_second": 1000}"#).await;
            names.push(name);
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
    };
    tokio::select! {
        () = &mut locking => {}
        () = enqueueing => {}
    }
    assert!(names.len() > 5, "{names:?}");
    for name in &names {
        until_state(&cluster, name, "succeeded", SOON).await;
        exact(&cluster, name, ROWS).await.unwrap();
    }
    assert!(daemon.ended().is_none(), "the daemon ended");
}

/// An index is created, or the table is locked, before and while the job is planned, walked and
/// verified.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_waits_for_locks_on_its_table_at_each_moment() {
    const ROWS: i64 = 2_000;
    let cluster = installed(Options::default()).await;
    let daemon = Daemon::builder(BACKFILLD, &cluster.owner_url()).start();
    daemon.wait_ready(SOON).await;
    for (n, mode) in ["access exclusive", "share", "share row exclusive", "exclusive"].into_iter().enumerate() {
        let name = format!("held{n}");
        table(&cluster, &name, ROWS).await;
        let owner = cluster.owner().await;
        // The lock is held while the job is planned.
        run(&owner, &format!("begin; lock table {name} in {mode} mode")).await;
        let options = r#"{"slices": 2, "max_batch_rows": 50, "max_rows_per_second": 500}"#;
        let enqueued = {
            let (cluster, name) = (&cluster, name.clone());
            async move { enqueue(cluster, &name, PLUS_ONE, options).await }
        };
        let release = async {
            tokio::time::sleep(Duration::from_millis(3500)).await;
            run(&owner, "commit").await;
        };
        tokio::join!(enqueued, release);
        // The job is walked, and then verified.
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            run(&owner, &format!("begin; lock table {name} in {mode} mode")).await;
            tokio::time::sleep(Duration::from_millis(700)).await;
            run(&owner, "commit").await;
        }
        until_state(&cluster, &name, "succeeded", SOON).await;
        exact(&cluster, &name, ROWS).await.unwrap();
    }
    assert!(daemon.ended().is_none(), "the daemon ended");
}

/// The table is locked after the job was enqueued and before the job is planned. All the time, even
/// after heartbeats, the job names the session that holds the lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_names_the_session_for_whose_lock_its_planning_waits() {
    let cluster = installed(Options::default()).await;
    let daemon = Daemon::builder(BACKFILLD, &cluster.owner_url()).config(QUICK).start();
    daemon.wait_ready(SOON).await;
    table(&cluster, "busy", 100).await;
    let owner = cluster.owner().await;
    run(&owner, "select backfill.pause_all()").await;
    enqueue(&cluster, "busy", PLUS_ONE, "{}").await;
    let locker = cluster.owner().await;
    let pid: i32 = value(&locker, "select pg_backend_pid()").await;
    run(&locker, "begin; lock table busy in access exclusive mode").await;
    run(&owner, "select backfill.resume_all()").await;
    let told = format!(
        "select coalesce(waiting_reason || ': ' || waiting_text = 'locked_rows: planning waits for a lock on table public.busy; sessions that have locked it, or wait to lock it: process {pid} of role owner', false) from backfill.jobs where name = 'busy'"
    );
    until_true(&owner, SOON, &told).await;
    // The attempts last 2 s each, and each of them sends several heartbeats.
    let claimed = "select coalesce(max(claimed_at)::text, '') from backfill.lease";
    let mut claims = std::collections::BTreeSet::new();
    wait::until(SOON, "planning is tried again", async || {
        assert!(value::<bool>(&owner, &told).await, "the reason vanished");
        claims.insert(value::<String>(&owner, claimed).await);
        claims.len() > 3
    })
    .await;
    run(&locker, "commit").await;
    until_state(&cluster, "busy", "succeeded", SOON).await;
    exact(&cluster, "busy", 100).await.unwrap();
}
