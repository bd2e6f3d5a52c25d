//! A job that the daemon cannot parse, and jobs of an executor that cannot log in, must not delay
//! other jobs.

use backfilld_testbed::daemon::Daemon;

use super::Scene;
use crate::support::{BACKFILLD, SOON, refused, run, until_true, value};

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
    let busy = "select sum(slices) = 2 and (select count(*) = 2 from backfill.lease where backend_pid is not null and expires_at > clock_timestamp()) from backfill.workers";
    until_true(&ctl, SOON, busy).await;
    // The submitter keeps its jobs' rows in `backfill.job` locked.
    run(&mallory, "begin; select backfill.tune(name, '{}') from backfill.jobs where name like 'm%'").await;
    run(&alice, "select backfill.enqueue('of_f', 'other', 'a = 1', run_as => 'f', priority => 100)").await;
    until_true(&ctl, SOON, "select state = 'succeeded' from backfill.jobs where name = 'of_f'").await;
    run(&mallory, "commit").await;
    // While no other role waits, the role uses all workers.
    until_true(&ctl, SOON, busy).await;
    // Each role can see the application names of all sessions. These names do not contain the names
    // of jobs.
    let names = "select count(*) > 0 and bool_and(application_name ~ '^backfilld job [0-9]+$') from pg_stat_activity where usename = 'x_e'";
    until_true(&alice, SOON, names).await;
}

/// Planning two jobs at once would occupy both workers for almost a minute.
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

/// The text of a composite key is a thousand times longer than its entry in the index. The daemon
/// could neither read nor claim a job with such a key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_with_a_huge_key_fails_and_delays_no_other_job() {
    let scene = Scene::set().await;
    let e = scene.as_e().await;
    run(&e, "create type n0 as (a text)").await;
    let mut row = "row('\"')::n0".to_owned();
    for n in 1..=14 {
        run(&e, &format!("create type n{n} as (a n{})", n - 1)).await;
        row = format!("row({row})::n{n}");
    }
    run(&e, &format!("create table t (k n14 primary key, a int); insert into t values ({row}, null); create table small (id int primary key, k text, a int); insert into small values (1, 'x')")).await;
    assert!(value::<i32>(&e, "select length(k::text) from t").await > 65_536);
    let mallory = scene.client("mallory").await;
    for n in 0..3 {
        run(&mallory, &format!("select backfill.enqueue('m{n}', 't', 'a = 1', run_as => 'e', priority => -100)")).await;
    }
    run(&mallory, "select backfill.enqueue('small', 'small', 'a = 1', run_as => 'e')").await;
    let _daemon = scene.start_daemon().await;
    until_true(&mallory, SOON, "select state = 'succeeded' from backfill.jobs where name = 'small'").await;
    let told = "select bool_and(state = 'failed' and error like 'the key of a row has % bytes as text%') from backfill.jobs where name like 'm%'";
    until_true(&mallory, SOON, told).await;
}

/// The code of a job can make the login of its executor fail. A daemon that starts while the login
/// fails serves the other roles. It continues with this role when the login works again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_fails_when_the_daemon_starts_delays_only_its_role() {
    let scene = Scene::set().await;
    scene.table("t", 10).await;
    let other = "set role f; create table other (id int primary key, a int); insert into other values (1)";
    scene.cluster.sql("alice", "app", other).await;
    let broken = "alter role x_e set local_preload_libraries = 'missing'";
    scene.cluster.sql("postgres", "app", broken).await;
    let (mallory, alice) = (scene.client("mallory").await, scene.client("alice").await);
    run(&mallory, "select backfill.enqueue('m', 't', 'a = 1', run_as => 'e')").await;
    run(&alice, "select backfill.enqueue('of_f', 'other', 'a = 1', run_as => 'f')").await;
    let daemon = scene.start_daemon().await;
    until_true(&alice, SOON, "select state = 'succeeded' from backfill.jobs where name = 'of_f'").await;
    assert!(daemon.output().contains("the jobs of role e wait until its executor can connect"), "{}", daemon.output());
    scene.cluster.sql("postgres", "app", "alter role x_e reset local_preload_libraries").await;
    until_true(&mallory, SOON, "select state = 'succeeded' from backfill.jobs where name = 'm'").await;
}

/// A transaction locks more jobs than housekeeping handles at once. Nevertheless, the job of
/// another role starts at its scheduled time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locked_jobs_do_not_keep_a_job_of_another_role_from_its_start() {
    let scene = Scene::set().await;
    scene.table("t", 1).await;
    let other = "set role f; create table other (id int primary key, a int); insert into other values (1)";
    scene.cluster.sql("alice", "app", other).await;
    let (mallory, alice) = (scene.client("mallory").await, scene.client("alice").await);
    run(&mallory, "select backfill.enqueue('m', 't', 'a = 1', run_as => 'e', priority => -100, run_at => now() + interval '1 hour')").await;
    let copies = "set session_replication_role = replica;
        insert into backfill.job (name, relation, target, set_sql, run_as, settings, priority, run_at, enqueued_by)
        select 'm' || n, j.relation, j.target, j.set_sql, j.run_as, j.settings, j.priority, j.run_at, j.enqueued_by from backfill.job j, generate_series(1, 1100) n;
        insert into backfill.slice (job_id, kind, run_as, priority, state, due_at) select id, 'plan', run_as, priority, 'held', run_at from backfill.job where name <> 'm'";
    run(&scene.cluster.superuser("app").await, copies).await;
    let _daemon = scene.start_daemon().await;
    let superuser = scene.cluster.superuser("app").await;
    run(&superuser, "begin; update backfill.job set run_at = now() - interval '1 s' where name like 'm%'; update backfill.slice set due_at = now() - interval '1 s' where state = 'held'; commit; begin; select from backfill.job where name like 'm%' for update").await;
    run(
        &alice,
        "select backfill.enqueue('of_f', 'other', 'a = 1', run_as => 'f', run_at => now() + interval '2 seconds')",
    )
    .await;
    until_true(&alice, SOON, "select state = 'succeeded' from backfill.jobs where name = 'of_f'").await;
}

/// With the settings of the executor's login, a vacuum would take hours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_settings_of_a_login_do_not_slow_the_vacuum_of_its_jobs() {
    let scene = Scene::set().await;
    let slow = "alter role x_e set vacuum_cost_delay = '100ms'; alter role x_e set vacuum_cost_limit = 1";
    scene.cluster.sql("postgres", "app", slow).await;
    let mallory = scene.client("mallory").await;
    for name in ["v0", "v1", "v2"] {
        let table = format!(
            "create table {name} (id int primary key, a int, pad text); insert into {name} select i, null, repeat('x', 1000) from generate_series(1, 4000) i"
        );
        run(&scene.as_e().await, &table).await;
        let job = format!(
            "select backfill.enqueue('{name}', '{name}', 'a = 1', run_as => 'e', options => '{{\"vacuum\": \"run\"}}')"
        );
        run(&mallory, &job).await;
    }
    let _daemon = scene.start_daemon().await;
    until_true(&mallory, SOON, "select bool_and(state = 'succeeded') from backfill.jobs").await;
}

/// A batch whose session the server cannot interrupt keeps its locks, and its lease expires. The
/// claims of other jobs do not wait for these locks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_cannot_be_interrupted_does_not_stop_the_claims() {
    let scene = Scene::set().await;
    let (mallory, alice) = (scene.client("mallory").await, scene.client("alice").await);
    let options = r#"{"max_rows_per_second": 1, "max_batch_rows": 1, "slices": 1}"#;
    for name in ["m0", "m1", "m2"] {
        scene.table(name, 1_000).await;
        run(&mallory, &format!("select backfill.enqueue('{name}', '{name}', 'a = 1', run_as => 'e', priority => -100, options => '{options}')")).await;
    }
    let other = "set role f; create table other (id int primary key, a int); insert into other values (1)";
    scene.cluster.sql("alice", "app", other).await;
    let daemon = scene.start_daemon().await;
    let superuser = scene.cluster.superuser("app").await;
    until_true(&superuser, SOON, "select count(*) >= 2 from backfill.checkpoint where batches > 0").await;
    daemon.sigkill();
    // This session takes the place of the sessions that run batches, and locks the checkpoints as
    // they would.
    run(&superuser, "begin; select from backfill.checkpoint where not done for update; update backfill.lease set expires_at = now() - interval '1 s'").await;
    let _daemon = scene.start_daemon().await;
    run(&superuser, "savepoint a").await;
    run(&alice, "select backfill.enqueue('of_f', 'other', 'a = 1', run_as => 'f', priority => 100)").await;
    until_true(&alice, SOON, "select state = 'succeeded' from backfill.jobs where name = 'of_f'").await;
    run(&superuser, "commit").await;
    until_true(&superuser, SOON, "select count(*) >= 2 from backfill.lease where expires_at > now()").await;
}

/// A transaction locks the lease of one job. The heartbeat still renews the leases of other jobs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_lease_does_not_delay_the_renewal_of_others() {
    let scene = Scene::set().await;
    let (mallory, alice) = (scene.client("mallory").await, scene.client("alice").await);
    scene.table("t", 1_000).await;
    let other =
        "set role f; create table other (id int primary key, a int); insert into other select generate_series(1, 1000)";
    scene.cluster.sql("alice", "app", other).await;
    let options = r#"{"max_rows_per_second": 2, "max_batch_rows": 1, "slices": 1}"#;
    run(&mallory, &format!("select backfill.enqueue('m', 't', 'a = 1', run_as => 'e', options => '{options}')")).await;
    run(&alice, &format!("select backfill.enqueue('f', 'other', 'a = 1', run_as => 'f', options => '{options}')"))
        .await;
    let config = scene
        .config()
        .replace("lease: {poll_ms: 100}", "lease: {poll_ms: 100, ttl_seconds: 2, heartbeat_seconds: 0.3}");
    let daemon = Daemon::builder(BACKFILLD, &scene.cluster.url("ctl", "app")).config(config).start();
    daemon.wait_ready(SOON).await;
    let superuser = scene.cluster.superuser("app").await;
    until_true(&superuser, SOON, "select count(*) = 2 from backfill.lease l join backfill.slice s on s.id = l.slice_id where s.kind = 'walk' and l.backend_pid is not null").await;
    let claims = "select attempts from backfill.slice where kind = 'walk' and run_as = 'f'";
    let before: i32 = value(&superuser, claims).await;
    run(&superuser, "begin; select from backfill.lease where run_as = 'e' for update; select pg_sleep(6); commit")
        .await;
    assert_eq!(value::<i32>(&superuser, claims).await, before, "the job lost its lease: {}", daemon.output());
}

/// Each row of one role's jobs takes an hour, which `max_row_ms` allows. The time passes in the
/// statement, at commit, or in a statement that ignores cancel requests. In each case the role
/// gives up one worker when another role enqueues a job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_take_an_hour_leave_a_worker_to_the_jobs_of_other_roles() {
    for (set, at_commit) in [("a = slow()", false), ("a = 1", true), ("a = stubborn()", false)] {
        let scene = Scene::set().await;
        let (mallory, alice, ctl) =
            (scene.client("mallory").await, scene.client("alice").await, scene.client("ctl").await);
        let code = "set role e; create function slow() returns int language plpgsql volatile as $$ begin perform pg_sleep(3600); return 1; end $$;
            create function stubborn() returns int language plpgsql volatile as $$ begin
              loop begin perform pg_sleep(3600); exception when query_canceled then null; end; end loop; end $$;
            create function slow_commit() returns trigger language plpgsql as $$ begin perform pg_sleep(3600); return null; end $$";
        scene.cluster.sql("mallory", "app", code).await;
        for n in 0..3 {
            scene.table(&format!("t{n}"), 10).await;
            if at_commit {
                let slow = format!(
                    "set role e; create constraint trigger slow after update on t{n} deferrable initially deferred for each row execute function slow_commit()"
                );
                scene.cluster.sql("mallory", "app", &slow).await;
            }
            run(&mallory, &format!("select backfill.enqueue('m{n}', 't{n}', '{set}', run_as => 'e', priority => -100, options => '{{\"max_row_ms\": 3600000, \"max_batch_rows\": 1}}')")).await;
        }
        let other = "set role f; create table other (id int primary key, a int); insert into other values (1)";
        scene.cluster.sql("alice", "app", other).await;
        let _daemon = scene.start_daemon().await;
        let busy = "select count(*) = 2 from pg_stat_activity where usename = 'x_e' and wait_event = 'PgSleep'";
        until_true(&ctl, SOON, busy).await;
        run(&alice, "select backfill.enqueue('of_f', 'other', 'a = 1', run_as => 'f', priority => 100)").await;
        until_true(&ctl, SOON, "select state = 'succeeded' from backfill.jobs where name = 'of_f'").await;
    }
}
