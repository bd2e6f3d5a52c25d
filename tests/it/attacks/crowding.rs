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
