//! Tests of roles with few privileges, and of databases whose event triggers refuse DDL.

use backfilld_testbed::cluster::Options;
use backfilld_testbed::daemon::Daemon;

use crate::support::{BACKFILLD, SOON, daemon, installed, refused, run, sql, until_state, value};

/// The role may read and change only the columns that the job names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_on_columns_are_enough_if_they_include_xmin() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    cluster
        .sql("postgres", "app", "create role clerk login; grant clerk to owner; grant backfill_submitter to clerk")
        .await;
    run(
        &owner,
        "create table t (id int primary key, a int, b int, c int); insert into t select g, g from generate_series(1, 500) g;
         grant select (id, a, b), update (b) on t to clerk;
         create table p (id int primary key, a int, b int) partition by range (id); create table p1 partition of p for values from (0) to (1000);
         insert into p select g, g from generate_series(1, 500) g; grant select (id, a, b), update (b) on p, p1 to clerk",
    )
    .await;
    let executor = format!(
        "databases: [{{name: main, url: '{}', executors: [{{run_as: clerk, url: '{}'}}]}}]",
        cluster.owner_url(),
        cluster.url("clerk", "app")
    );
    let daemon = Daemon::builder(BACKFILLD, &cluster.owner_url()).config(executor).start();
    daemon.wait_ready(SOON).await;
    let clerk = cluster.client("clerk", "app").await;
    for table in ["t", "p"] {
        let heap = if table == "t" { "public.t" } else { "public.p1" };
        for call in [
            format!("enqueue('{table}', '{table}', 'b = a', 'b is null')"),
            format!("preview('{table}', 'b = a', 'b is null')"),
        ] {
            let refusal = refused(&clerk, &format!("select backfill.{call}")).await;
            assert_eq!(refusal.message, format!("role \"clerk\" may not read system column \"xmin\" of {heap}"));
            assert!(refusal.hint.is_some_and(|hint| hint.contains(&format!("grant select (xmin) on {heap} to clerk"))));
        }
        let covered = format!(
            "select backfill.enqueue('covered_{table}', '{table}', 'b = a', 'b is null', options => '{{\"verify\": \"coverage\"}}')"
        );
        run(&clerk, &covered).await;
        until_state(&cluster, &format!("covered_{table}"), "succeeded", SOON).await;
        run(&owner, &format!("update {table} set b = null; grant select (xmin) on {heap} to clerk")).await;
        run(&clerk, &format!("select backfill.enqueue('{table}', '{table}', 'b = a', 'b is null')")).await;
        until_state(&cluster, table, "succeeded", SOON).await;
        assert_eq!(value::<i64>(&owner, &format!("select count(*) from {table} where b = a")).await, 500);
        run(&owner, &format!("revoke select (b) on {heap} from clerk; revoke select (b) on {table} from clerk")).await;
        let blind = refused(&clerk, &format!("select backfill.enqueue('blind_{table}', '{table}', 'b = a')")).await;
        assert_eq!(blind.message, format!("role \"clerk\" may not read column \"b\" of {heap}"));
        assert!(blind.hint.is_some_and(|hint| hint.contains(&format!("grant select (b) on {heap} to clerk"))));
    }
}

/// An event trigger refuses each DDL command. The daemon nevertheless starts, and the jobs run, at
/// REPEATABLE READ. The log and an event name the reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_trigger_that_refuses_ddl_stops_neither_a_daemon_nor_a_job() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, a int, b int); insert into t select g, g from generate_series(1, 500) g",
    )
    .await;
    // At its first start, before the trigger exists, the daemon registers its executor and grants
    // the missing privileges.
    drop(daemon(&cluster).await);
    let guard = "create table ddl (tag text); grant insert on ddl to public;
        create function guard() returns event_trigger language plpgsql as $$ begin raise exception 'no DDL today: %', tg_tag; end $$;
        create event trigger guard on ddl_command_start execute function guard()";
    cluster.sql("postgres", "app", guard).await;
    let daemon = daemon(&cluster).await;
    run(
        &owner,
        "select backfill.enqueue('j', 't', 'b = a', 'b is null'); select backfill.enqueue_delete('d', 't', 'a > 400')",
    )
    .await;
    for name in ["j", "d"] {
        until_state(&cluster, name, "succeeded", SOON).await;
    }
    assert_eq!(value::<i64>(&owner, "select count(*) from t where b = a").await, 400);
    let output = daemon.output();
    assert!(
        output.contains("the database refuses CREATE FUNCTION in the temporary schema (no DDL today: CREATE FUNCTION)"),
        "{output}"
    );
    let told = "select message like '%; batches run at REPEATABLE READ, because the database refuses CREATE FUNCTION in the temporary schema (no DDL today: CREATE FUNCTION)' from backfill.events where name = 'j' and kind = 'planned'";
    assert!(value::<bool>(&owner, told).await);
    // An error in the job's own expression is still reported as an error of the job.
    sql(&cluster, "select backfill.enqueue('bad', 't', 'b = a / (id - id)', 'a = 1')").await;
    crate::support::until_true(&owner, SOON, "select state = 'failed' from backfill.jobs where name = 'bad'").await;
}

/// If no privileges are missing, neither `migrate` nor the start of a daemon runs a GRANT.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_grants_only_what_is_missing() {
    let cluster = installed(Options::default()).await;
    drop(daemon(&cluster).await);
    let audit = "create table ddl (tag text, object text); grant insert on ddl to public;
        create function audit() returns event_trigger language plpgsql as $$ begin
          insert into public.ddl select c.command_tag, c.object_identity from pg_event_trigger_ddl_commands() c; end $$;
        create event trigger audit on ddl_command_end execute function audit()";
    cluster.sql("postgres", "app", audit).await;
    drop(daemon(&cluster).await);
    let found = "select coalesce(string_agg(tag || ' ' || coalesce(object, ''), ', '), 'nothing') from ddl";
    assert_eq!(cluster.value::<String>("postgres", "app", found).await, "nothing");
    cluster
        .sql(
            "postgres",
            "app",
            "revoke execute on function backfill.pause(text, text) from backfill_operator; truncate ddl",
        )
        .await;
    drop(daemon(&cluster).await);
    assert_eq!(cluster.value::<i64>("postgres", "app", "select count(*) from ddl").await, 1);
    let again = "select has_function_privilege('backfill_operator', 'backfill.pause(text, text)', 'execute')";
    assert!(cluster.value::<bool>("postgres", "app", again).await);
}
