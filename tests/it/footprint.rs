//! Compares the metrics of a job's footprint with the server's own figures, and tests the metric of
//! the rate limit.

use std::time::Duration;

use backfilld_testbed::cluster::Options;
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::wait;
use tokio_postgres::Client;

use crate::support::{SOON, daemon, installed, run, until_state, until_true, value};

/// Returns the value of the first series that has all of these labels, or `None` if no series has
/// them.
async fn metric(daemon: &Daemon, name: &str, labels: &[&str]) -> Option<f64> {
    let (_, text) = daemon.get("/metrics").await.unwrap();
    let is_it = |line: &&str| line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label));
    let line = text.lines().find(is_it)?;
    line.rsplit(' ').next()?.parse().ok()
}

async fn until_metric(daemon: &Daemon, name: &str, labels: &[&str], is: impl Fn(f64) -> bool) {
    let what = format!("{name} {labels:?}");
    wait::until(SOON, &what, async || metric(daemon, name, labels).await.is_some_and(&is)).await;
}

/// Creates two tables with free space on their pages. `indexed` has an index on the column that the
/// jobs assign.
async fn tables(owner: &Client) {
    run(
        owner,
        "create table roomy (id int primary key, n int not null default 0, pad text) with (fillfactor = 40, autovacuum_enabled = off);
         create table indexed (like roomy including all) with (fillfactor = 40, autovacuum_enabled = off);
         create index indexed_n on indexed (n);
         insert into roomy select i, 0, repeat('x', 100) from generate_series(1, 20000) i;
         insert into indexed select * from roomy;",
    )
    .await;
}

const SLOWLY: &str = r#"options => '{"max_rows_per_second": 4000, "max_batch_rows": 200}'"#;

#[tokio::test]
async fn the_hot_ratio_distinguishes_hot_updates_from_others() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    tables(&owner).await;
    let daemon = daemon(&cluster).await;
    // At this rate, each job takes 20 s.
    for (job, table) in [("hot", "roomy"), ("cold", "indexed")] {
        let enqueue = format!(
            "select backfill.enqueue('{job}', '{table}', 'n = id', options => '{{\"max_rows_per_second\": 1000, \"max_batch_rows\": 200}}')"
        );
        run(&owner, &enqueue).await;
    }
    // The ratios are reported until the jobs end. The jobs are paused before that, and the ratio of
    // `hot` then agrees with the server's statistics.
    until_metric(&daemon, "backfilld_job_hot_ratio", &["job_name=\"hot\""], |ratio| ratio > 0.95).await;
    until_metric(&daemon, "backfilld_job_hot_ratio", &["job_name=\"cold\""], |ratio| ratio == 0.0).await;
    for job in ["hot", "cold"] {
        run(&owner, &format!("select backfill.pause('{job}')")).await;
        until_state(&cluster, job, "paused", SOON).await;
    }
    let server: f64 =
        value(&owner, "select n_tup_hot_upd::float8 / n_tup_upd from pg_stat_user_tables where relname = 'roomy'")
            .await;
    until_metric(&daemon, "backfilld_job_hot_ratio", &["job_name=\"hot\""], |hot| (hot - server).abs() < 0.05).await;
}

#[tokio::test]
async fn table_and_index_growth_matches_the_servers_sizes() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table parts (id int, n int, pad text, primary key (id)) partition by range (id);
         create table parts_1 partition of parts for values from (0) to (5000) with (autovacuum_enabled = off);
         create table parts_2 partition of parts for values from (5000) to (30000) with (autovacuum_enabled = off);
         create index parts_n on parts (n);
         insert into parts select i, 0, repeat('x', 100) from generate_series(1, 20000) i",
    )
    .await;
    const SIZES: &str = "select array[sum(pg_table_size(c.oid)), sum(pg_indexes_size(c.oid))]::float8[] from pg_class c where c.relname in ('parts_1', 'parts_2')";
    let before: Vec<f64> = value(&owner, SIZES).await;
    let daemon = daemon(&cluster).await;
    // A fixed batch time makes the growth independent of other load. Without it, load would make
    // the batches smaller, and small batches reuse the space that earlier batches left on a page.
    run(&owner, r#"select backfill.enqueue('grows', 'parts', 'n = id', options => '{"max_rows_per_second": 3000, "max_batch_rows": 200, "target_batch_ms": 200, "verify": "none"}')"#).await;
    until_true(&owner, SOON, "select rows_changed > 15000 from backfill.jobs").await;
    run(&owner, "select backfill.pause('grows')").await;
    until_state(&cluster, "grows", "paused", SOON).await;
    let after: Vec<f64> = value(&owner, SIZES).await;
    let (heap, indexes) = (after[0] / before[0], after[1] / before[1]);
    assert!(heap > 1.5 && indexes > 1.1, "{before:?} {after:?}");
    let near = |reported: f64, expected: f64| (reported - expected).abs() < 0.01;
    until_metric(&daemon, "backfilld_job_heap_growth_ratio", &["job_name=\"grows\""], |reported| near(reported, heap))
        .await;
    until_metric(&daemon, "backfilld_job_index_growth_ratio", &["job_name=\"grows\""], |reported| {
        near(reported, indexes)
    })
    .await;
    // A daemon that has just started reports the same growth, because the plan stores the initial
    // sizes.
    let other = crate::support::daemon(&cluster).await;
    until_metric(&other, "backfilld_job_heap_growth_ratio", &["job_name=\"grows\""], |reported| near(reported, heap))
        .await;

    // While another session locks a leaf exclusively, the daemon stays ready and still reports the
    // growth.
    let locker = cluster.owner().await;
    run(&locker, "begin; lock table parts_1 in access exclusive mode").await;
    let asked = tokio::time::Instant::now();
    while asked.elapsed() < Duration::from_secs(7) {
        assert_eq!(daemon.get("/readyz").await.unwrap().0, 200);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let reported = metric(&daemon, "backfilld_job_heap_growth_ratio", &["job_name=\"grows\""]).await;
    assert!(reported.is_some_and(|reported| near(reported, heap)), "{reported:?}");
    run(&locker, "rollback").await;
    run(&owner, "select backfill.resume('grows')").await;
    until_state(&cluster, "grows", "succeeded", SOON).await;
}

#[tokio::test]
async fn the_wal_of_batches_is_counted_if_the_server_reports_it_per_session() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    tables(&owner).await;
    run(&owner, "create table others (id int, pad text)").await;
    let daemon = daemon(&cluster).await;
    let superuser = cluster.superuser("app").await;
    run(&superuser, "checkpoint").await;
    let start: String = value(&superuser, "select pg_current_wal_lsn()::text").await;
    run(&owner, &format!("select backfill.enqueue('writes', 'roomy', 'n = id', {SLOWLY})")).await;
    until_state(&cluster, "writes", "succeeded", SOON).await;
    let all: f64 = value(&superuser, &format!("select pg_wal_lsn_diff(pg_current_wal_lsn(), '{start}')::float8")).await;
    let (bytes, per_row) = ("backfilld_wal_bytes_total", "backfilld_job_wal_bytes_per_row");
    let label = ["job_name=\"writes\""];
    if cluster.major() < 18 {
        assert_eq!((metric(&daemon, bytes, &label).await, metric(&daemon, per_row, &label).await), (None, None));
        return;
    }
    let counted = metric(&daemon, bytes, &label).await.unwrap();
    assert!(counted > 0.6 * all && counted <= all, "{counted} of {all}");
    let reported = metric(&daemon, per_row, &label).await.unwrap();
    assert!((reported - counted / 20_000.0).abs() < 1.0, "{reported} for each of 20,000 rows, {counted} in all");
    // WAL that other sessions write is not counted for the job.
    run(&owner, &format!("select backfill.enqueue('less', 'roomy', 'n = 0', 'id <= 4000', {SLOWLY})")).await;
    run(&owner, "insert into others select i, repeat('x', 1000) from generate_series(1, 50000) i").await;
    until_state(&cluster, "less", "succeeded", SOON).await;
    let counted = metric(&daemon, bytes, &["job_name=\"less\""]).await.unwrap();
    assert!(counted < 20e6, "{counted} bytes for 4,000 rows, while another session wrote 50 MB");
}

#[tokio::test]
async fn the_rate_limit_is_reported_while_there_is_one() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    tables(&owner).await;
    let daemon = daemon(&cluster).await;
    let limit = "backfilld_rate_limit_rows_per_second";
    assert_eq!(metric(&daemon, limit, &[]).await, None, "a limit is reported without a job");
    run(&owner, r#"select backfill.enqueue('j', 'roomy', 'n = n + 1', options => '{"max_rows_per_second": 400, "slices": 2, "throttle": "off"}')"#).await;
    // Each of the two slices gets half of the rate, and the gauge shows the rate of the whole job.
    until_metric(&daemon, limit, &["database=\"main\""], |rate| (rate - 400.0).abs() < 1.0).await;
    run(&owner, r#"select backfill.tune('j', '{"max_rows_per_second": 200}')"#).await;
    until_metric(&daemon, limit, &["database=\"main\""], |rate| (rate - 200.0).abs() < 1.0).await;
    run(&owner, "select backfill.pause('j')").await;
    until_state(&cluster, "j", "paused", SOON).await;
    wait::until(SOON, "no limit is reported", async || metric(&daemon, limit, &[]).await.is_none()).await;
}
