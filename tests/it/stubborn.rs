//! Jobs that don't go as they should: rows that are locked, slow or trapped, and expressions that hide what they read.

use std::time::Duration;

use backfilld_testbed::cluster::Options;
use backfilld_testbed::daemon::Daemon;

use crate::support::{BACKFILLD, SOON, daemon, installed, run, until_state, until_true, value};

#[tokio::test]
async fn a_sweep_changes_no_row_twice_whose_expression_reads_it_as_a_whole() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table w (id int primary key, n int not null default 0); insert into w select generate_series(1, 1000);
        create function inc(w) returns int language sql immutable as 'select $1.n + 1';
        create function look(i int) returns int language sql stable as 'select n + 1 from w where id = i';
        create view v as select * from w;
        create table w2 (like w including all); insert into w2 select * from w;
        create table w3 (like w including all); insert into w3 select * from w;
        create table w4 (like w including all); insert into w4 select * from w",
    )
    .await;
    run(
        &owner,
        "select backfill.enqueue('whole', 'w', 'n = inc(w)', 'n < 3');
        select backfill.enqueue('json', 'w2', $$n = (to_jsonb(w2) ->> 'n')::int + 1$$, 'n < 3');
        select backfill.enqueue('function', 'w3', 'n = look(id) * 0 + n + 1', 'n < 3');
        select backfill.enqueue('subquery', 'w4', 'n = (select x.n + 1 from w4 x where x.id = w4.id)', 'n < 3')",
    )
    .await;
    let _daemon = daemon(&cluster).await;
    for (name, table) in [("whole", "w"), ("json", "w2"), ("function", "w3"), ("subquery", "w4")] {
        until_state(&cluster, name, "succeeded", SOON).await;
        assert_eq!(value::<i64>(&owner, &format!("select count(*) from {table} where n <> 1")).await, 0, "{name}");
        let swept = format!("select count(*) from backfill.events where name = '{name}' and kind = 'sweep'");
        assert_eq!(value::<i64>(&owner, &swept).await, 0, "{name}");
    }
}

#[tokio::test]
async fn a_rerun_fences_who_still_holds_a_slice_of_the_ended_run() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, n int not null default 0);
        insert into t select generate_series(1, 40000); analyze t; create table trap (at int); insert into trap values (300)",
    )
    .await;
    let application = cluster.owner().await;
    application.batch_execute("begin; select 1 from t where id between 20000 and 40000 for update").await.unwrap();
    // The slice with the trap starts when the other one is held too.
    let starter = cluster.owner().await;
    starter.batch_execute("begin; select 1 from t where id = 1 for update").await.unwrap();
    run(&owner, r#"select backfill.enqueue('j', 't', 'n = n + 1 / (case when exists (select from trap where at = t.id) then 0 else 1 end)', options => '{"slices": 2, "max_row_errors": 0}')"#).await;
    // After the plan and the slice that fails: who waits for the application's rows gives its slice back late.
    let _daemon = Daemon::builder(BACKFILLD, &cluster.owner_url())
        .env("BACKFILLD_FAILPOINT", "before_giving_back:3=sleep:3000")
        .start();
    until_true(&owner, SOON, "select count(*) = 2 from backfill.slices where holder is not null and name = 'j'").await;
    starter.batch_execute("commit").await.unwrap();
    until_true(&owner, SOON, "select state = 'failed' from backfill.jobs where name = 'j'").await;
    // The other slice waits for the application's rows.
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.lease").await, 1);
    run(&owner, "delete from trap; update t set n = 0 where n <> 0 and id < 20000; select backfill.rerun('j')").await;
    assert_eq!(
        value::<i64>(
            &owner,
            "select count(*) from backfill.lease l join backfill.slice s on s.id = l.slice_id where s.run = 1"
        )
        .await,
        0
    );
    application.batch_execute("commit").await.unwrap();
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n <> 1").await, 0);
}

#[tokio::test]
async fn a_pause_is_heeded_within_a_second_while_a_row_is_locked() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, n int not null default 0); insert into t select generate_series(1, 1000)",
    )
    .await;
    let application = cluster.owner().await;
    application.batch_execute("begin; select 1 from t where id = 1 for update").await.unwrap();
    run(&owner, "select backfill.enqueue('j', 't', 'n = n + 1')").await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select waiting_reason is not distinct from 'locked_rows' from backfill.jobs").await;
    run(&owner, "select backfill.pause('j', 'somebody is in the way')").await;
    until_true(&owner, Duration::from_millis(1500), "select state = 'paused' from backfill.jobs").await;
    application.batch_execute("commit").await.unwrap();
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n = 0").await, 1);
    run(&owner, "select backfill.resume('j')").await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n <> 1").await, 0);
}

#[tokio::test]
async fn a_row_that_takes_longer_than_a_batch_may_is_refused_and_the_row_says_so() {
    let cluster = installed(Options::default().set("deadlock_timeout", "100ms")).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, n int not null default 0); insert into t select generate_series(1, 10)",
    )
    .await;
    run(&owner, "select backfill.enqueue('j', 't', 'n = n + (select 1 from pg_sleep(case when id = 7 then 0.5 else 0 end))::int', options => '{\"throttle\": \"off\"}')").await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select state = 'failed' from backfill.jobs").await;
    let said: String = value(&owner, "select key || message from backfill.row_errors").await;
    assert!(said.contains(r#"{"id": 7}it takes longer than a batch may, which is 0.7 of deadlock_timeout"#), "{said}");
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n = 1").await, 9);
}

#[tokio::test]
async fn a_trigger_that_raises_our_own_code_fails_the_job_instead_of_looking_like_a_fence() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, n int not null default 0); insert into t select generate_series(1, 10);
        create function liar() returns trigger language plpgsql as $$ begin raise exception using errcode = 'BF006', message = 'not me'; end $$;
        create trigger liar before update on t for each row execute function liar()").await;
    run(&owner, "select backfill.enqueue('j', 't', 'n = n + 1')").await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select state = 'failed' from backfill.jobs").await;
    let said: String = value(&owner, "select error || ' ' || hint from backfill.jobs").await;
    assert!(said.contains("not me") && said.contains("trigger"), "{said}");
}
