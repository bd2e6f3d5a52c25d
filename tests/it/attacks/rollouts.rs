//! The statements of a rollout run code of the role that started it: the functions of a default,
//! of a check, or of the expression.

use std::time::Duration;

use super::Scene;
use crate::support::{SOON, refused, run, until_true, value};

fn add(name: &str, table: &str, column: &str) -> String {
    format!(
        r#"select backfill.rollout_start('{{"rollout": "{name}", "table": "{table}", "add_column": {{"name": "c", "type": "int", {column}}}}}')"#
    )
}

/// The control login has no privilege on the schema of the table, and needs none. Submitters may
/// also plan a rollout, view it and control it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submitter_carries_out_a_rollout_in_a_schema_of_its_own() {
    let scene = Scene::set().await;
    scene
        .cluster
        .sql(
            "postgres",
            "app",
            "create schema own authorization e; set role e; create type own.cents as (n int);
             create table own.customers (id int primary key); insert into own.customers select generate_series(1, 100);
             create table own.plain (id int primary key, a int); insert into own.plain values (1, 1);
             create table own.t (id int primary key, a int); insert into own.t select g, g from generate_series(1, 100) g",
        )
        .await;
    let daemon = scene.start_daemon().await;
    let mallory = scene.client("mallory").await;
    run(&mallory, "set search_path = own, public").await;
    let spec = r#"{"rollout": "r", "table": "t", "add_column": {"name": "c", "type": "int", "using": "a * 2", "not_null": true, "unique": true}}"#;
    let steps: i64 = value(&mallory, &format!("select count(*) from backfill.rollout_plan('{spec}')")).await;
    assert!(steps > 5, "{steps}");
    run(&mallory, &format!("select backfill.rollout_start('{spec}')")).await;
    run(
        &mallory,
        &add("typed", "t", r#""type": "cents""#).replace(r#""name": "c", "type": "int", "#, r#""name": "d", "#),
    )
    .await;
    let referring = r#"{"rollout": "referring", "table": "own.t", "add_column": {"name": "e", "type": "int", "using": "a", "references": {"table": "customers", "column": "id"}}}"#;
    run(&mallory, &format!("select backfill.rollout_start('{referring}')")).await;
    until_true(
        &mallory,
        SOON * 2,
        "select count(*) = 3 from backfill.rollouts where stage = 'constrained' and state = 'waiting'",
    )
    .await;
    assert_eq!(value::<i64>(&mallory, "select count(*) from own.t where c = a * 2 and e = a").await, 100);
    run(&mallory, "select backfill.enqueue('job', 'plain', 'a = 7', 'a <> 7', run_as => 'e')").await;
    until_true(&mallory, SOON, "select state = 'succeeded' from backfill.jobs where name = 'job'").await;
    run(&mallory, "select backfill.assert_complete('job', true)").await;
    for rollout in ["r", "referring"] {
        run(&mallory, &format!("select backfill.rollout_rollback('{rollout}')")).await;
    }
    until_true(&mallory, SOON, "select count(*) = 2 from backfill.rollouts where state in ('rolled_back', 'failed')")
        .await;
    let errors = "select coalesce(string_agg(concat_ws(' ', name, state, error, hint), '; '), '') from backfill.rollouts where state = 'failed' or error is not null";
    assert_eq!(value::<String>(&mallory, errors).await, "");
    drop(daemon);
}

/// The role loses its membership after the check at the start, or while the rollout waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_of_a_role_that_lost_its_membership_runs_nothing() {
    let scene = Scene::set().await;
    scene.table("t", 10).await;
    scene.table("u", 10).await;
    scene.cluster.sql("postgres", "app", "create table loot (who name); grant insert, select on loot to public").await;
    let mallory = scene.client("mallory").await;
    run(
        &mallory,
        "set role e; create function public.steal() returns int language plpgsql as $$ begin
           if current_setting('application_name') like 'backfilld rollout%' then insert into public.loot values (current_user); end if; return 1; end $$;
         create function public.steals() returns int stable language sql as 'select public.steal()'; reset role",
    )
    .await;
    run(
        &mallory,
        &add("waiting", "u", r#""default": "public.steals()""#).replace("}}')", r#"}, "until": "planned"}')"#),
    )
    .await;
    run(&mallory, &format!("begin; {}", add("late", "t", r#""default": "public.steals()""#))).await;
    scene.cluster.sql("postgres", "app", "revoke e from mallory").await;
    run(&mallory, "commit").await;
    let daemon = scene.start_daemon().await;
    let olga = scene.client("olga").await;
    until_true(&olga, SOON, "select state = 'failed' from backfill.rollouts where name = 'late'").await;
    let error: String = value(&olga, "select error from backfill.rollouts where name = 'late'").await;
    assert_eq!(error, "role \"mallory\" is not a member of \"e\" any more");
    // Even if an operator resumes the rollouts, they do not run with the operator's privileges.
    until_true(&olga, SOON, "select state in ('waiting', 'failed') from backfill.rollouts where name = 'waiting'")
        .await;
    run(&olga, "select backfill.rollout_resume('late')").await;
    run(&olga, "select backfill.rollout_resume('waiting')").await;
    until_true(&olga, SOON, "select count(*) = 2 from backfill.rollouts where state = 'failed'").await;
    assert_eq!(value::<i64>(&olga, "select count(*) from public.loot").await, 0);
    assert_eq!(refused(&mallory, "select backfill.rollout_resume('late')").await.sqlstate, "42501");
    // The rollback runs only statements of backfilld.
    run(&olga, "select backfill.rollout_rollback('late')").await;
    until_true(&olga, SOON, "select state = 'rolled_back' from backfill.rollouts where name = 'late'").await;
    drop(daemon);
}

/// Functions that switch off all timeouts and catch cancel requests.
const STUBBORN: &str = "
create function public.stubborn() returns int stable language plpgsql as $$ begin
  if current_setting('application_name') like 'backfilld rollout%' then
    perform set_config('client_connection_check_interval', '0', false), set_config('statement_timeout', '0', false);
    loop begin perform pg_sleep(1000); exception when query_canceled then null; end; end loop;
  end if; return 1; end $$;
create function public.is_stubborn(int) returns boolean stable language sql as 'select public.stubborn() = 1'";

const LOCKS: &str = "select count(*) = 0 from pg_locks l where l.relation in ('public.t'::regclass, 'public.u'::regclass) and l.mode = 'AccessExclusiveLock' and l.granted";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_ignores_cancel_requests_keeps_neither_its_lock_nor_its_session() {
    let scene = Scene::set().await;
    scene.table("t", 10).await;
    scene.table("u", 10).await;
    let mallory = scene.client("mallory").await;
    run(&mallory, &format!("set role e; {STUBBORN}; reset role")).await;
    let daemon = scene.start_daemon().await;
    run(&mallory, &add("of_default", "t", r#""default": "public.stubborn()""#)).await;
    run(&mallory, &add("of_check", "u", r#""default": "1", "check": "public.is_stubborn(c)""#)).await;
    until_true(&mallory, SOON, "select count(*) >= 1 from backfill.rollout_statements where name = 'of_default'").await;
    until_true(
        &mallory,
        SOON,
        "select count(*) >= 1 from backfill.rollout_statements where name = 'of_check' and sql like '%validate%'",
    )
    .await;
    // The commands take effect even while the statements are running.
    run(&mallory, "set statement_timeout = '20s'; select backfill.rollout_pause('of_default'); select backfill.rollout_pause('of_check')").await;
    let superuser = scene.client("postgres").await;
    until_true(&superuser, SOON, &format!("select ({LOCKS}) and not exists (select from pg_stat_activity where application_name like 'backfilld rollout%')")).await;
    // Later attempts to run the statements do not keep the lock either.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(value::<bool>(&superuser, LOCKS).await);
    drop(daemon);
}

/// The daemon runs three rollouts at a time, but only two of the same role.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_rollouts_of_one_role_do_not_stop_those_of_another() {
    let scene = Scene::set().await;
    let mallory = scene.client("mallory").await;
    run(
        &mallory,
        "set role e; create function public.slow(int) returns boolean language plpgsql as $$ begin
           if current_setting('application_name') like 'backfilld rollout%' then perform pg_sleep(1000); end if; return true; end $$; reset role",
    )
    .await;
    for table in ["t1", "t2", "t3", "t4"] {
        scene.table(table, 1).await;
    }
    scene
        .cluster
        .sql(
            "postgres",
            "app",
            "create table ft (id int primary key, a int); insert into ft values (1, 1); alter table ft owner to f",
        )
        .await;
    let daemon = scene.start_daemon().await;
    for table in ["t1", "t2", "t3", "t4"] {
        run(&mallory, &add(table, table, r#""default": "1", "check": "public.slow(c)""#)).await;
    }
    let busy = "select count(*) = 2 from backfill.rollout_statements where sql like '%validate%' and done_at is null";
    until_true(&mallory, SOON, busy).await;
    let alice = scene.client("alice").await;
    run(&alice, &add("of_alice", "ft", r#""using": "a + 1", "not_null": true"#)).await;
    until_true(&alice, SOON, "select stage = 'constrained' from backfill.rollouts where name = 'of_alice'").await;
    assert!(value::<bool>(&mallory, busy).await);
    // The rollouts that wait show the reason.
    until_true(
        &mallory,
        SOON,
        "select count(*) = 2 from backfill.rollouts where waiting_reason = 'worker' and waiting_text like '%\"t%'",
    )
    .await;
    drop(daemon);
}
