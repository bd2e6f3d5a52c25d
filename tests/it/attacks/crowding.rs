//! A job that the daemon cannot parse, and jobs of an executor that cannot log in, must not delay
//! other jobs.

use super::Scene;
use crate::support::{SOON, refused, run, until_true, value};

/// A direct insert cannot create a job that the daemon cannot parse. If such a job exists
/// nevertheless, the daemon must not claim it repeatedly instead of other jobs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_job_does_not_delay_other_jobs() {
    let scene = Scene::set().await;
    scene.table("t", 10).await;
    let (mallory, ctl) = (scene.client("mallory").await, scene.client("ctl").await);
    let insert = |name: &str, settings: &str, key: &str| {
        format!(
            "insert into backfill.job (name, kind, relation, target, set_sql, run_as, settings, key) values ('{name}', 'update', 't'::regclass, 't', 'a = 1', 'e', '{settings}', {key})"
        )
    };
    for (settings, key) in [
        ("[1]", "null"),
        ("5", "null"),
        ("null", "null"),
        (r#"{"search_path": 5}"#, "null"),
        (r#"{"role": "postgres"}"#, "null"),
        ("{}", "array[null::name]"),
        ("{}", "array[array['id'::name]]"),
    ] {
        let refusal = refused(&mallory, &insert("unreadable", settings, key)).await;
        assert!(refusal.sqlstate == "BF001" && refusal.hint.is_some(), "{settings} {key}: {refusal:?}");
    }
    // A superuser makes a job unreadable. This job fails, and the next job runs.
    run(&mallory, &insert("unreadable", "{}", "null")).await;
    scene.cluster.sql("postgres", "app", "update backfill.job set settings = '[1]' where name = 'unreadable'").await;
    run(&mallory, "select backfill.enqueue('good', 't', 'a = 1', run_as => 'e')").await;
    let _daemon = scene.start_daemon().await;
    until_true(&ctl, SOON, "select state = 'succeeded' from backfill.jobs where name = 'good'").await;
    until_true(&ctl, SOON, "select state = 'failed' and error like 'the definition of the job is not valid%' and hint <> '' from backfill.jobs where name = 'unreadable'").await;
}

/// The server rejects login `x_e`. A job of `f`, which runs with login `x_f`, does not wait for
/// `x_e`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_login_does_not_delay_the_jobs_of_other_roles() {
    let scene = Scene::set().await;
    scene.table("t", 10).await;
    scene
        .cluster
        .sql(
            "postgres",
            "app",
            "create table ft (id int primary key, a int); insert into ft values (1); alter table ft owner to f",
        )
        .await;
    let _daemon = scene.start_daemon().await;
    scene.cluster.sql("postgres", "app", "alter role x_e nologin").await;
    let (mallory, alice, ctl) = (scene.client("mallory").await, scene.client("alice").await, scene.client("ctl").await);
    for n in 0..6 {
        run(&mallory, &format!("select backfill.enqueue('m{n}', 't', 'a = 1', run_as => 'e', priority => -9)")).await;
    }
    until_true(&ctl, SOON, "select bool_or(coalesce(waiting_reason = 'load' and waiting_text like '%rejected the login%', false)) from backfill.jobs").await;
    run(&alice, "select backfill.enqueue('of_f', 'ft', 'a = 1', run_as => 'f')").await;
    until_true(&ctl, SOON, "select state = 'succeeded' from backfill.jobs where name = 'of_f'").await;
    let others = "select count(*) from backfill.jobs where name like 'm%' and state = 'succeeded'";
    assert_eq!(value::<i64>(&ctl, others).await, 0, "a job has succeeded although the server rejects its executor");
    scene.cluster.sql("postgres", "app", "alter role x_e login").await;
    until_true(&ctl, SOON, "select bool_and(state = 'succeeded') from backfill.jobs").await;
}

/// A role's jobs have the lowest priority number, run for hours and occupy all workers. The role
/// nevertheless gives up one worker when another role enqueues a job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_leaves_a_worker_to_the_jobs_of_other_roles() {
    let scene = Scene::set().await;
    let (mallory, alice, ctl) = (scene.client("mallory").await, scene.client("alice").await, scene.client("ctl").await);
    let options = r#"{"max_rows_per_second": 1, "max_batch_rows": 1}"#;
    for n in 0..4 {
        scene.table(&format!("t{n}"), 1_000).await;
        run(&mallory, &format!("select backfill.enqueue('m{n}', 't{n}', 'a = 1', run_as => 'e', priority => -100, options => '{options}')")).await;
    }
    let other = "set role f; create table other (id int primary key, a int); insert into other values (1)";
    scene.cluster.sql("alice", "app", other).await;
    let _daemon = scene.start_daemon().await;
    let busy = "select sum(slices) = 2 and (select count(*) = 2 from backfill.lease where backend_pid is not null) from backfill.workers";
    until_true(&ctl, SOON, busy).await;
    run(&alice, "select backfill.enqueue('of_f', 'other', 'a = 1', run_as => 'f', priority => 100)").await;
    until_true(&ctl, SOON, "select state = 'succeeded' from backfill.jobs where name = 'of_f'").await;
    // While no other role waits, the role uses all workers.
    until_true(&ctl, SOON, busy).await;
}

/// The planning of two jobs would occupy both workers for a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_planning_leaves_a_worker_to_the_jobs_of_other_roles() {
    let scene = Scene::set().await;
    scene.table("t", 10).await;
    let code =
        "set role e; create table calm (); create function slow() returns int language plpgsql immutable as $$ begin
      if to_regclass('public.calm') is null then perform pg_sleep(50); end if; return 1; end $$";
    scene.cluster.sql("mallory", "app", code).await;
    let (mallory, alice, ctl) = (scene.client("mallory").await, scene.client("alice").await, scene.client("ctl").await);
    for n in 0..3 {
        run(&mallory, &format!("select backfill.enqueue('m{n}', 't', 'a = slow()', run_as => 'e', priority => -100)"))
            .await;
    }
    let other = "set role f; create table other (id int primary key, a int); insert into other values (1)";
    scene.cluster.sql("alice", "app", other).await;
    scene.cluster.sql("mallory", "app", "set role e; drop table calm").await;
    let _daemon = scene.start_daemon().await;
    until_true(&ctl, SOON, "select count(*) = 2 from pg_stat_activity where wait_event = 'PgSleep'").await;
    run(&alice, "select backfill.enqueue('of_f', 'other', 'a = 1', run_as => 'f', priority => 100)").await;
    until_true(&ctl, SOON, "select state = 'succeeded' from backfill.jobs where name = 'of_f'").await;
}

/// At each attempt to plan the job, an immutable function ends the session that plans it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planning_that_always_loses_its_session_fails_the_job() {
    let scene = Scene::set().await;
    scene.table("t", 10).await;
    let code =
        "set role e; create table calm (); create function leave() returns int language plpgsql immutable as $$ begin
      if to_regclass('public.calm') is null then
        perform set_config('role', 'none', false); perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(5);
      end if; return 1; end $$";
    scene.cluster.sql("mallory", "app", code).await;
    let (mallory, alice, ctl) = (scene.client("mallory").await, scene.client("alice").await, scene.client("ctl").await);
    for n in 0..4 {
        run(&mallory, &format!("select backfill.enqueue('m{n}', 't', 'a = leave()', run_as => 'e', priority => -100)"))
            .await;
    }
    let other = "set role f; create table other (id int primary key, a int); insert into other values (1)";
    scene.cluster.sql("alice", "app", other).await;
    scene.cluster.sql("mallory", "app", "set role e; drop table calm").await;
    let daemon = scene.start_daemon().await;
    run(&alice, "select backfill.enqueue('of_f', 'other', 'a = 1', run_as => 'f', priority => 100)").await;
    until_true(&ctl, SOON, "select state = 'succeeded' from backfill.jobs where name = 'of_f'").await;
    let failed = "select bool_and(state = 'failed' and error like 'planning failed in 10 attempts: %' and hint like 'A function%') from backfill.jobs where name like 'm%'";
    until_true(&ctl, SOON * 3, failed).await;
    assert_eq!(daemon.output().matches("serving the database").count(), 1, "the daemon started again");
}
