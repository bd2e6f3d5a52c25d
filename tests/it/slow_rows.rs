//! Tests of rows that take a long time to change, and of the option `max_row_ms`.

use std::time::Duration;

use backfilld::error::Kind;
use backfilld::worker::error_policy::action;
use backfilld_testbed::cluster::{Cluster, Options};
use tokio_postgres::Client;

use crate::support::{SOON, backfilld, daemon, installed, run, until_state, until_true, value};

/// A table of 300 rows, and a function that takes the number of milliseconds that table `delay`
/// contains for the row. A test can change `delay` while the function is running.
const TABLE: &str = "
create table t (id int primary key, n int not null default 0);
insert into t select generate_series(1, 300);
create table delay (id int primary key, ms int not null);
create function slow(row_id int) returns int language plpgsql volatile as $$
declare
  began timestamptz := clock_timestamp();
begin
  while clock_timestamp() < began + (select d.ms from public.delay d where d.id = row_id) * interval '1 ms' loop
    perform pg_sleep(0.01);
  end loop;
  return 1;
end $$;";

async fn prepared(delays: &str) -> (Cluster, Client) {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    run(&owner, &format!("insert into delay values {delays}")).await;
    (cluster, owner)
}

async fn enqueue(owner: &Client, options: &str) {
    run(owner, &format!("select backfill.enqueue('j', 't', 'n = n + slow(id)', options => '{options}')")).await;
}

const CHANGED: &str = "select count(*) from t where n = 1";

/// Returns the number of batches whose outcome is not `committed`.
async fn failed_batches(daemon: &backfilld_testbed::daemon::Daemon) -> u64 {
    let (_, page) = daemon.get("/metrics").await.unwrap();
    let lines = page.lines().filter(|line| line.starts_with("backfilld_batches_total{"));
    let failed = lines.filter(|line| !line.contains("outcome=\"committed\""));
    failed.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Each of three rows takes longer than `deadlock_timeout` and longer than the time limit of a
/// batch, but not longer than `max_row_ms`.
#[tokio::test]
async fn rows_that_take_longer_than_a_batch_may_are_changed_if_max_row_ms_allows_it() {
    let (cluster, owner) = prepared("(150, 3000), (151, 1200), (300, 2500)").await;
    enqueue(&owner, r#"{"max_row_ms": 20000, "verify": "coverage"}"#).await;
    let _daemon = daemon(&cluster).await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, CHANGED).await, 300);
}

#[tokio::test]
async fn a_row_that_takes_too_long_is_found_in_few_attempts_and_can_be_changed_after_a_tune() {
    let (cluster, owner) = prepared("(170, 3600000)").await;
    enqueue(&owner, "{}").await;
    let daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select state = 'failed' from backfill.jobs").await;
    let said: String = value(&owner, "select key || message from backfill.row_errors").await;
    assert!(said.contains(r#"{"id": 170}the statement for this row takes longer than max_row_ms (2000 ms)"#), "{said}");
    assert_eq!(value::<i64>(&owner, CHANGED).await, 299);
    // The failed batches: one of up to a few hundred rows, one of an eighth of these rows, one of
    // an eighth of those, and two of the slow row alone.
    let failed = failed_batches(&daemon).await;
    assert!(failed <= 6, "{failed} failed batches");

    run(&owner, "update delay set ms = 3000").await;
    let hint: String = value(&owner, "select hint from backfill.jobs").await;
    assert!(hint.contains(r#"select backfill.tune('j', '{"max_row_ms": 20000}')"#), "{hint}");
    run(&owner, r#"select backfill.tune('j', '{"max_row_ms": 60000}'); select backfill.retry('j')"#).await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, CHANGED).await, 300);
}

/// The statement that changes the slow row would run for an hour if it were not cancelled.
#[tokio::test]
async fn tune_pause_and_cancel_end_the_statement_of_a_slow_row() {
    let (cluster, owner) = prepared("(7, 3600000)").await;
    enqueue(&owner, r#"{"max_row_ms": 3600000}"#).await;
    let _daemon = daemon(&cluster).await;
    let slow = "select count(*) = 1 from pg_stat_activity where application_name like 'backfilld job%' and state = 'active' and clock_timestamp() > query_start + interval '1 s'";
    until_true(&owner, SOON, slow).await;
    run(&owner, "select backfill.pause('j')").await;
    until_state(&cluster, "j", "paused", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where id = 7 and n = 0").await, 1);

    run(&owner, "select backfill.resume('j')").await;
    until_true(&owner, SOON, slow).await;
    run(&owner, r#"select backfill.tune('j', '{"max_row_ms": 200}')"#).await;
    until_true(&owner, SOON, "select state = 'failed' from backfill.jobs").await;
    assert_eq!(value::<i64>(&owner, CHANGED).await, 299);

    run(&owner, r#"select backfill.tune('j', '{"max_row_ms": 3600000}'); select backfill.retry('j')"#).await;
    until_true(&owner, SOON, slow).await;
    run(&owner, "select backfill.cancel('j')").await;
    until_state(&cluster, "j", "cancelled", SOON).await;
    until_true(&owner, SOON, "select count(*) = 0 from pg_stat_activity where application_name like 'backfilld job%'")
        .await;
    assert_eq!(value::<i64>(&owner, CHANGED).await, 299);
}

/// Each batch changes one row, which takes 150 ms of the 450 ms that `max_row_ms` allows. The
/// server is suspended repeatedly, each time for longer than `max_row_ms`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_not_blamed_for_a_suspended_server() {
    let (cluster, owner) = prepared("(0, 0)").await;
    run(&owner, "truncate delay; insert into delay select id, 150 from t; analyze delay").await;
    enqueue(&owner, r#"{"max_row_ms": 450, "max_batch_rows": 1}"#).await;
    let daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select rows_changed > 3 from backfill.jobs").await;
    for (suspended, running) in [(600, 100), (800, 60), (1200, 20)] {
        for _ in 0..6 {
            cluster.suspend(Duration::from_millis(suspended)).await;
            tokio::time::sleep(Duration::from_millis(running)).await;
        }
    }
    run(&owner, r#"truncate delay; select backfill.tune('j', '{"max_batch_rows": 1000}')"#).await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, CHANGED).await, 300, "{}", daemon.output());
    assert!(daemon.output().contains(action(Kind::Stalled).1), "{}", daemon.output());
}

/// The job writes into each row the `statement_timeout` of the batch that changes the row.
#[tokio::test]
async fn a_changed_deadlock_timeout_takes_effect_while_a_claim_runs() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, limit_of_batch text);
        insert into t select generate_series(1, 20000);
        select backfill.enqueue('j', 't', 'limit_of_batch = current_setting(''statement_timeout'')', options => '{\"max_rows_per_second\": 200}')",
    )
    .await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select count(*) > 0 from t where limit_of_batch = '700ms'").await;
    let claims = "select count(distinct s.slice) from backfill.slices s where s.holder is not null";
    assert_eq!(value::<i64>(&owner, claims).await, 1);
    let admin = cluster.superuser("app").await;
    run(&admin, "alter system set deadlock_timeout = '300ms'").await;
    run(&admin, "select pg_reload_conf()").await;
    until_true(&owner, SOON, "select count(*) > 0 from t where limit_of_batch = '210ms'").await;
    run(&owner, "select backfill.cancel('j')").await;
}

#[tokio::test]
async fn a_preview_measures_slow_expressions() {
    let (cluster, owner) = prepared("(0, 0)").await;
    run(&owner, "truncate delay; insert into delay select id, 1100 from t; analyze t").await;
    let text = backfilld(&cluster, &["preview", "--target", "t", "--set", "n = n + slow(id)"]).await;
    assert!(text.contains("from the time that the expressions took in the sample"), "{text}");
    assert!(text.contains("a row that takes longer than max_row_ms (2000 ms) is quarantined"), "{text}");
    // 300 rows at 1.1 s each.
    let time = text.lines().find(|line| line.starts_with("time ")).unwrap_or_else(|| panic!("{text}"));
    assert!(time.contains("about 6 minutes at "), "{time}");
}

/// The batch locks its row for 1.5 s and then needs a row that the application has locked. The
/// application takes the two locks in the opposite order, and waits for the row that the batch has
/// locked.
#[tokio::test]
async fn the_application_never_loses_a_deadlock_against_a_slow_row() {
    let cluster = installed(Options::default().set("deadlock_timeout", "300ms")).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, n int not null default 0); insert into t values (1);
        create table other (id int primary key, n int not null default 0); insert into other values (1);
        create function cross_lock() returns trigger language plpgsql as $$ begin
          perform pg_sleep(1.5); update public.other set n = n + 1; return null; end $$;
        create trigger cross_lock after update on t for each row when (new.n = 1) execute function cross_lock();
        select backfill.enqueue('j', 't', 'n = n + 1', options => '{\"max_row_ms\": 10000, \"verify\": \"coverage\"}')",
    )
    .await;
    let _daemon = daemon(&cluster).await;
    let application = cluster.owner().await;
    let holds = "select count(*) = 1 from pg_stat_activity where application_name like 'backfilld job%' and wait_event = 'PgSleep'";
    for _ in 0..5 {
        until_true(&owner, SOON, holds).await;
        // An error here, for example a lost deadlock, fails the test.
        run(&application, "begin; update other set n = n; update t set n = n; commit").await;
    }
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert_eq!(value::<i32>(&owner, "select n from t").await, 1);
}

/// A deferred trigger makes the commit of the row's transaction slow. The server does not apply
/// `statement_timeout` during a commit.
#[tokio::test]
async fn a_row_that_is_slow_at_commit_is_changed_or_quarantined() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, n int not null default 0); insert into t select generate_series(1, 60);
        create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(4); return null; end $$;
        create constraint trigger slow after update on t deferrable initially deferred for each row when (new.id = 7) execute function slow();
        select backfill.enqueue('j', 't', 'n = 1', 'n = 0')",
    )
    .await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select state = 'failed' from backfill.jobs").await;
    let said: String = value(&owner, "select key || message from backfill.row_errors").await;
    assert!(said.contains(r#"{"id": 7}the statement for this row takes longer than max_row_ms (2000 ms)"#), "{said}");
    assert_eq!(value::<i64>(&owner, CHANGED).await, 59);
    run(&owner, r#"select backfill.tune('j', '{"max_row_ms": 30000}'); select backfill.retry('j')"#).await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, CHANGED).await, 60);
}

/// The trigger of the job's row does not return, ignores cancel requests, and so keeps the row
/// locked. A session of the application waits for this lock.
#[tokio::test]
async fn the_application_does_not_wait_for_a_slow_row_that_ignores_cancel_requests() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, n int not null default 0); insert into t values (1);
        create function stubborn() returns trigger language plpgsql as $$ begin
          loop begin perform pg_sleep(3600); exception when query_canceled then null; end; end loop; end $$;
        create trigger stubborn after update on t for each row when (new.n = 1) execute function stubborn();
        select backfill.enqueue('j', 't', 'n = n + 1', options => '{\"max_row_ms\": 3600000}')",
    )
    .await;
    let _daemon = daemon(&cluster).await;
    let holds = "select count(*) = 1 from pg_stat_activity where application_name like 'backfilld job%' and wait_event = 'PgSleep'";
    until_true(&owner, SOON, holds).await;
    let application = cluster.owner().await;
    run(&application, "set statement_timeout = '60s'; update t set n = n").await;
}
