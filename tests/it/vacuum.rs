//! Tests about dead rows. The job's vacuum frees the space of replaced row versions, and yields to
//! other sessions. Batches pause while an autovacuum of their table runs.

use backfilld_testbed::cluster::Options;

use crate::support::{SOON, daemon, installed, run, sql, until_state, until_true, value};

/// Two equal tables have no free space. For each table, one job changes all of its rows. One of the
/// two jobs runs its own vacuum, and the other one does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_vacuumed_in_step_does_not_double() {
    let cluster = installed(Options::default().set("autovacuum", "off")).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table with_it (id int primary key, n int not null default 0, pad text);
         insert into with_it select i, 0, repeat('x', 80) from generate_series(1, 100000) i;
         create table without (like with_it including all); insert into without select * from with_it",
    )
    .await;
    run(&owner, "vacuum analyze with_it").await;
    run(&owner, "vacuum analyze without").await;
    let size = async |table: &str| value::<i64>(&owner, &format!("select pg_relation_size('{table}')")).await as f64;
    let before = size("with_it").await;
    let _daemon = daemon(&cluster).await;
    // With a fixed batch time, the growth does not depend on other load. Otherwise other load would
    // make the batches smaller, and small batches reuse the space that earlier batches left on a
    // page.
    for (table, vacuum) in [("with_it", "run"), ("without", "off")] {
        run(&owner, &format!(r#"select backfill.enqueue('{table}', '{table}', 'n = n + 1', options => '{{"vacuum": "{vacuum}", "slices": 2, "target_batch_ms": 200}}')"#)).await;
        until_state(&cluster, table, "succeeded", SOON * 3).await;
        assert_eq!(value::<i64>(&owner, &format!("select count(*) from {table} where n <> 1")).await, 0);
    }
    let (with_it, without) = (size("with_it").await / before, size("without").await / before);
    // A batch changes up to a twentieth of this small table. When a vacuum begins, the dead rows of
    // several batches of each slice may already take space.
    assert!(with_it < 1.5 && without > 1.8, "{with_it:.2} times its size with the vacuum, {without:.2} times without");
}

/// An ALTER TABLE of another session does not wait until the job's vacuum is complete. The vacuum
/// yields and is postponed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_vacuum_yields_to_sessions_that_it_blocks() {
    let cluster = installed(Options::default().set("autovacuum", "off")).await;
    let owner = cluster.owner().await;
    let superuser = cluster.superuser("app").await;
    run(
        &owner,
        "create table t (id int primary key, n int not null default 0, pad text);
         insert into t select i, 0, repeat('x', 500) from generate_series(1, 60000) i; create index on t (pad, id)",
    )
    .await;
    run(&owner, "vacuum analyze t").await;
    // With these settings, a vacuum takes several seconds.
    run(&superuser, "alter database app set vacuum_cost_delay = '10ms'; alter database app set vacuum_cost_limit = 20")
        .await;
    // Measure how long an ALTER TABLE would wait for a vacuum that runs to its end.
    run(&owner, "update t set n = 0 where id <= 6000").await;
    let began = tokio::time::Instant::now();
    run(&cluster.owner().await, "vacuum t").await;
    let alone = began.elapsed();
    let daemon = daemon(&cluster).await;
    run(&owner, r#"select backfill.enqueue('t', 't', 'n = n + 1', options => '{"vacuum": "run", "throttle": "off"}')"#)
        .await;
    let (mut met, mut longest) = (0, std::time::Duration::ZERO);
    while met < 3 && value::<bool>(&owner, "select state <> 'succeeded' from backfill.jobs").await {
        let on_it = "select exists (select from pg_stat_progress_vacuum where relid = 't'::regclass)";
        if !value::<bool>(&superuser, on_it).await {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            continue;
        }
        met += 1;
        let started = tokio::time::Instant::now();
        run(&owner, "alter table t alter pad set statistics 50").await;
        longest = longest.max(started.elapsed());
    }
    assert!(met > 0, "no vacuum ran");
    assert!(longest * 2 < alone, "an ALTER TABLE waited {longest:?}, a vacuum takes {alone:?}");
    assert!(daemon.output().contains("vacuum postponed"), "{}", daemon.output());
    run(&superuser, "alter database app reset all").await;
    until_state(&cluster, "t", "succeeded", SOON * 3).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n <> 1").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_pause_for_autovacuum_on_their_own_table_only() {
    let cluster = installed(Options::default().set("autovacuum", "on").set("autovacuum_naptime", "1s")).await;
    let owner = cluster.owner().await;
    // Up to PostgreSQL 14, an idle session does not report its last counters, and autovacuum
    // depends on these counters. These statements therefore run in a separate session, which
    // reports its counters when it ends.
    sql(
        &cluster,
        "create table t (id int primary key, n int not null default 0) with (autovacuum_enabled = off);
         insert into t select generate_series(1, 60000); update t set n = 0;
         create table u (id int primary key, n int not null default 0) with (autovacuum_enabled = off); insert into u select generate_series(1, 1000)",
    )
    .await;
    let _daemon = daemon(&cluster).await;
    // With these settings, autovacuum is certain to start, and runs slowly enough for the test.
    run(&owner, "alter table t set (autovacuum_enabled = on, autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1, autovacuum_analyze_threshold = 1000000000)").await;
    let superuser = cluster.superuser("app").await;
    until_true(&superuser, SOON, "select exists (select from pg_stat_progress_vacuum where relid = 't'::regclass)")
        .await;
    run(
        &owner,
        r#"select backfill.enqueue('t', 't', 'n = n + 1', options => '{"max_rows_per_second": 100000}');
           select backfill.enqueue('u', 'u', 'n = n + 1'); select backfill.enqueue('heedless', 't', 'n = n + 0', 'id <= 100', options => '{"vacuum": "off"}')"#,
    )
    .await;
    until_true(&owner, SOON, "select coalesce(waiting_reason = 'vacuum' and waiting_text like 'pausing for autovacuum on this table%', false) from backfill.jobs where name = 't'").await;
    for job in ["u", "heedless"] {
        until_state(&cluster, job, "succeeded", SOON).await;
    }
    assert_eq!(value::<String>(&owner, "select state from backfill.jobs where name = 't'").await, "running");
    run(&superuser, "alter system set autovacuum = off").await;
    run(&superuser, "select pg_reload_conf(); select pg_cancel_backend(pid) from pg_stat_progress_vacuum").await;
    until_state(&cluster, "t", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n <> 1").await, 0);
}

/// If the role is not allowed to vacuum the table, the job runs without a vacuum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_walk_continues_with_a_warning_if_the_role_may_not_vacuum() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    let superuser = cluster.superuser("app").await;
    run(&superuser, "create table t (id int primary key, n int not null default 0); insert into t select generate_series(1, 5000); grant select, update on t to owner").await;
    let daemon = daemon(&cluster).await;
    run(&owner, r#"select backfill.enqueue('t', 't', 'n = n + 1', options => '{"vacuum": "run"}')"#).await;
    until_state(&cluster, "t", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n <> 1").await, 0);
    assert!(daemon.output().contains("role owner lacks the privilege to vacuum public.t"), "{}", daemon.output());
}
