//! Tests of windows: outside its window, a job waits and reports the time at which the window will
//! open. `src/window.rs` tests which times are inside a window.

use backfilld_testbed::cluster::Options;
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::wait;

use crate::proof::{PLUS_ONE, QUICK, exact, table};
use crate::support::{BACKFILLD, SOON, installed, run, until_state, until_true, value};

const ALWAYS: &str = r#"{"open": "* * * * *", "hours": 1}"#;

/// A window that opened one hour ago and closed half an hour ago, by the server's clock.
const CLOSED: &str = r#"format('{"open": "%s %s * * *", "hours": 0.5}', extract(minute from x), extract(hour from x))"#;
const AN_HOUR_AGO: &str = "(select (now() at time zone 'UTC') - interval '1 hour' as x)";

async fn closed(client: &tokio_postgres::Client) -> String {
    value(client, &format!("select {CLOSED} from {AN_HOUR_AGO} c")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_waits_for_its_window_begins_when_it_opens_and_stops_when_it_closes() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    table(&cluster, "t", 2000).await;
    let closed = closed(&owner).await;
    let daemon = Daemon::builder(BACKFILLD, &cluster.owner_url()).config(QUICK).start();
    daemon.wait_ready(SOON).await;
    run(&owner, &format!(r#"select backfill.enqueue('t', 't', '{PLUS_ONE}', options => '{{"window": {closed}, "max_batch_rows": 10, "max_rows_per_second": 1000}}')"#)).await;
    let waits = "select coalesce(waiting_reason = 'window' and waiting_text like 'the window of the job opens at 20%; to change it: backfill.tune(%', false) from backfill.jobs where name = 't'";
    until_true(&owner, SOON, waits).await;
    assert!(value::<bool>(&owner, "select state = 'queued' and started_at is null from backfill.jobs").await);
    // A daemon with `--until-idle` exits with code 3, because a job still waits for its window.
    let idle = Daemon::builder(BACKFILLD, &cluster.owner_url()).config(QUICK).arg("--until-idle").start();
    assert_eq!(idle.wait_exit(SOON).await.code(), Some(3), "{}", idle.output());

    run(&owner, &format!("select backfill.tune('t', '{{\"window\": {ALWAYS}}}')")).await;
    until_true(&owner, SOON, "select rows_changed > 100 from backfill.jobs").await;
    run(&owner, &format!("select backfill.tune('t', '{{\"window\": {closed}}}')")).await;
    until_true(&owner, SOON, "select waiting_reason = 'window' and state = 'running' and not exists (select from backfill.lease) from backfill.jobs").await;
    let changed: i64 = value(&owner, "select count(*) from t where n = 1").await;
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n = 1").await, changed);
    assert!(changed < 2000);
    run(&owner, "select backfill.tune('t', '{\"window\": null, \"max_rows_per_second\": null}')").await;
    until_state(&cluster, "t", "succeeded", SOON).await;
    exact(&cluster, "t", 2000).await.unwrap();
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.events where kind = 'window' and message like 'the window of the job is closed and opens at 20%'").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_of_the_whole_database_holds_all_its_jobs() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    table(&cluster, "t", 500).await;
    let config = |window: &str| format!("{QUICK}\ndatabases: [{{name: main, url: x, window: {window}}}]");
    let daemon = Daemon::builder(BACKFILLD, &cluster.owner_url()).config(config(&closed(&owner).await)).start();
    daemon.wait_ready(SOON).await;
    run(&owner, &format!("select backfill.enqueue('t', 't', '{PLUS_ONE}')")).await;
    until_true(&owner, SOON, "select coalesce(waiting_reason = 'window', false) from backfill.jobs").await;
    assert!(value::<bool>(&owner, "select state = 'queued' from backfill.jobs").await);
    assert!(value::<bool>(&owner, "select closed_until between now() + interval '22 hours' and now() + interval '24 hours' from backfill.workers").await);
    // No worker can claim the job while the window is closed, so the metric of the oldest queued
    // job does not count it. The page may be from before the daemon stored its window.
    let queued = "backfilld_queue_jobs{database=\"main\",state=\"queued\"} 1";
    let oldest = "backfilld_oldest_queued_timestamp_seconds{";
    wait::until(SOON, "the queue is shown without a waiting job", async || {
        let page = daemon.get("/metrics").await.unwrap().1;
        page.contains(queued) && !page.contains(oldest)
    })
    .await;
    daemon.reload(&config(ALWAYS));
    until_state(&cluster, "t", "succeeded", SOON).await;
    exact(&cluster, "t", 500).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_window_fails_its_job_with_the_reason_and_a_tune_fixes_it() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    table(&cluster, "t", 500).await;
    let _daemon = Daemon::builder(BACKFILLD, &cluster.owner_url()).config(QUICK).start();
    run(&owner, &format!(r#"select backfill.enqueue('t', 't', '{PLUS_ONE}', options => '{{"window": {{"open": "0 25 * * *", "hours": 1}}}}')"#)).await;
    until_true(&owner, SOON, "select state = 'failed' and error like 'option window: open is \"0 25 * * *\"%' and hint like '%backfill.tune%' from backfill.jobs").await;
    run(&owner, &format!("select backfill.tune('t', '{{\"window\": {ALWAYS}}}'); select backfill.retry('t')")).await;
    until_state(&cluster, "t", "succeeded", SOON).await;
    exact(&cluster, "t", 500).await.unwrap();
}
