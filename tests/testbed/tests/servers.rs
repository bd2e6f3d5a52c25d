//! Tests that real servers behave as the testbed documents.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may panic on an unexpected row; tests/layering forbids the other methods"
)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use backfilld_testbed::cluster::{Cluster, Mode, Options};
use backfilld_testbed::standby::Standby;
use backfilld_testbed::{process, wait};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn owner_is_not_a_superuser_and_owns_the_database() {
    let cluster = Cluster::with_owner(Options::default().set("work_mem", "5MB").logical()).await;
    let owner = cluster.owner().await;
    owner.batch_execute("create schema s; create table s.t (id bigint primary key)").await.unwrap();
    let row = owner
        .query_one(
            "select rolsuper, pg_has_role('pg_read_all_stats', 'member'), current_setting('work_mem'),
                current_setting('wal_level') from pg_roles where rolname = current_user",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(
        (row.get::<_, bool>(0), row.get::<_, bool>(1), row.get::<_, &str>(2), row.get::<_, &str>(3)),
        (false, true, "5MB", "logical")
    );
}

#[tokio::test]
async fn committed_rows_survive_every_way_to_end_a_server() {
    let cluster = Cluster::with_owner(Options::default()).await;
    cluster.sql("owner", "app", "create table t (n int)").await;
    let port = cluster.port();
    for end in ["fast", "immediate", "kill"] {
        cluster.sql("owner", "app", "insert into t values (1)").await;
        match end {
            "fast" => cluster.stop(Mode::Fast).await,
            "immediate" => cluster.stop(Mode::Immediate).await,
            _ => cluster.kill_postmaster().await,
        }
        assert!(cluster.try_client("owner", "app").await.is_err(), "{end}");
        cluster.start_again().await;
        assert_eq!(cluster.port(), port);
    }
    assert_eq!(cluster.value::<i64>("owner", "app", "select count(*) from t").await, 3);
    assert!(cluster.log().contains("was not properly shut down"));
}

#[tokio::test]
async fn a_standby_follows_falls_behind_and_is_promoted() {
    let cluster = Cluster::with_owner(Options::default()).await;
    let standby = Standby::named(&cluster, "eu-1").await;
    let name = "select application_name from pg_stat_replication where state = 'streaming'";
    assert_eq!(cluster.value::<String>("postgres", "postgres", name).await, "eu-1");

    let count = "select count(*) from t";
    cluster.sql("owner", "app", "alter role owner set synchronous_commit = off").await;
    cluster.sql("owner", "app", "create table t (n int); insert into t values (1)").await;
    standby.wait_caught_up(SOON).await;
    assert_eq!(standby.value::<i64>("owner", "app", count).await, 1);

    standby.pause_replay().await;
    cluster.sql("owner", "app", "insert into t values (2)").await;
    assert_eq!(standby.value::<i64>("owner", "app", count).await, 1);
    standby.resume_replay().await;
    standby.wait_caught_up(SOON).await;
    assert_eq!(standby.value::<i64>("owner", "app", count).await, 2);

    standby.stop(Mode::Immediate).await;
    cluster.sql("owner", "app", "insert into t values (3)").await;
    standby.start_again().await;
    standby.wait_caught_up(SOON).await;

    cluster.stop(Mode::Immediate).await;
    standby.promote().await;
    standby.sql("owner", "app", "insert into t values (4)").await;
    assert_eq!(standby.value::<i64>("owner", "app", count).await, 4);
}

#[tokio::test]
async fn slowed_replay_lags_and_then_catches_up() {
    let cluster = Cluster::with_owner(Options::default()).await;
    let standby = Standby::of(&cluster).await;
    cluster.sql("owner", "app", "create table t (n int)").await;
    standby.wait_caught_up(SOON).await;

    let lag = "select pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint from pg_stat_replication";
    let slow = standby.slow_replay(0.0).await;
    cluster.sql("owner", "app", "insert into t select generate_series(1, 100000)").await;
    wait::until(SOON, "the WAL has arrived and waits for replay", async || {
        let received = "select flush_lsn >= pg_current_wal_lsn() from pg_stat_replication";
        cluster.value::<bool>("postgres", "postgres", received).await
    })
    .await;
    assert!(cluster.value::<i64>("postgres", "postgres", lag).await > 1_000_000);
    drop(slow);
    standby.wait_caught_up(SOON).await;
    assert_eq!(standby.value::<i64>("owner", "app", "select count(*) from t").await, 100_000);
}

#[tokio::test]
async fn a_dropped_cluster_leaves_neither_processes_nor_files() {
    let cluster = Cluster::start(Options::default()).await;
    let standby = Standby::of(&cluster).await;
    let slow = standby.slow_replay(0.0).await;
    let dirs = [cluster.dir().to_owned(), standby.dir().to_owned()];
    let pids = [cluster.pid(), standby.pid()];
    // A standby whose startup process is frozen is the hardest server to stop.
    drop(standby);
    drop(slow);
    drop(cluster);
    for (dir, pid) in dirs.into_iter().zip(pids) {
        assert!(!dir.exists(), "{} is left", dir.display());
        wait::until(SOON, "the server is gone", async || !process::exists(pid)).await;
    }
}
