//! Tests of rows that cannot be changed. If the change to a row raises an error (even one with an
//! SQLSTATE that backfilld itself uses, such as `BF006`), ends the session or takes too long, the
//! job quarantines only that row. The job fails in two other cases:
//! - The change crashes the server.
//! - An enum label of the key has been renamed.

use std::time::Duration;

use backfilld::error::Kind;
use backfilld::worker::error_policy::action;
use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::wait;

use crate::proof::{PLUS_ONE, quick, table};
use crate::support::{SOON, daemon, installed, run, until_state, until_true, value};

const ROWS: i64 = 1000;

/// Creates a table with a row trigger, which runs `body` for each row that a second table
/// (`NAME_trap`) lists.
async fn trapped(cluster: &Cluster, name: &str, body: &str) {
    table(cluster, name, ROWS).await;
    let made = format!(
        "create table {name}_trap (id bigint primary key, code text);
         create function {name}_trap() returns trigger language plpgsql as $$ declare v text; begin
           select code into v from {name}_trap where id = new.id;
           if found then {body} end if;
           return new; end $$;
         create trigger trap before update on {name} for each row execute function {name}_trap()"
    );
    run(&cluster.owner().await, &made).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_row_is_quarantined_whatever_its_trigger_raises() {
    const CODES: &str =
        "P0001 22012 45000 U0001 PT400 ABC01 09000 20000 2BP01 55000 0A000 42501 42883 42P01 XX000 08006 57P01 72001";
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    trapped(&cluster, "t", "raise exception using errcode = v, message = 'no ' || v;").await;
    run(&owner, &format!("insert into t_trap select 12 + 60 * n, c from regexp_split_to_table('{CODES}', ' ') with ordinality as x(c, n)")).await;
    let _daemon = quick(&cluster.owner_url()).start();
    run(&owner, &format!("select backfill.enqueue('t', 't', '{PLUS_ONE}')")).await;
    until_true(&owner, SOON * 2, "select state = 'failed' from backfill.jobs").await;
    let differ = "select count(*) from t full join t_trap p on p.id = t.id where t.n <> case when p.id is null then 1 else 0 end";
    assert_eq!(value::<i64>(&owner, differ).await, 0);
    let kept = "select coalesce(string_agg(p.code, ' ' order by p.id), '') from t_trap p join backfill.row_errors e on e.sqlstate = p.code and (e.key ->> 'id')::bigint = p.id and e.message = 'no ' || p.code";
    assert_eq!(value::<String>(&owner, kept).await, CODES);
    // Bad rows that are adjacent in the table (the keys are multiples of 3) are quarantined one by
    // one, too.
    run(&owner, "truncate t_trap; update t set n = 0; insert into t_trap select i * 3, 'U0001' from generate_series(500, 540) i; select backfill.rerun('t')").await;
    until_true(&owner, SOON * 2, "select state = 'failed' and rows_quarantined = 41 from backfill.jobs").await;
    run(&owner, "truncate t_trap; select backfill.retry('t')").await;
    until_state(&cluster, "t", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n <> 1").await, 0);
}

/// Each of two rows ends the session that changes it. Only these two rows are quarantined.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_ends_its_own_session_is_quarantined() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    trapped(&cluster, "t", "perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(1);").await;
    run(&owner, "insert into t_trap values (333), (777)").await;
    let daemon = quick(&cluster.owner_url()).start();
    run(&owner, &format!("select backfill.enqueue('t', 't', '{PLUS_ONE}')")).await;
    let waits = "select coalesce(waiting_reason = 'load' and waiting_text like '%terminating connection%', false) from backfill.jobs";
    until_true(&owner, SOON, waits).await;
    let message = action(Kind::ConnectionLost).1;
    backfilld_testbed::wait::until(SOON, "the log contains the message for a lost connection", async || {
        daemon.output().contains(message)
    })
    .await;
    until_true(&owner, SOON * 4, "select state = 'failed' from backfill.jobs").await;
    let left = "select coalesce(string_agg(key ->> 'id', ' ' order by key ->> 'id'), '') from backfill.row_errors where message like 'the connection was lost on each attempt to change this row in a batch of its own%terminating connection%'";
    assert_eq!(value::<String>(&owner, left).await, "333 777");
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n <> 1").await, 2);
    run(&owner, "truncate t_trap; select backfill.retry('t')").await;
    until_state(&cluster, "t", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n <> 1").await, 0);
}

/// Another session terminates each active session of the job within milliseconds, whichever row the
/// session is changing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_row_is_blamed_for_sessions_that_another_session_ends() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, n int not null default 0); insert into t select generate_series(1, 2000)",
    )
    .await;
    let daemon = quick(&cluster.owner_url()).start();
    run(&owner, r#"select backfill.enqueue('j', 't', 'n = n + 1', options => '{"max_batch_rows": 1, "max_rows_per_second": 50}')"#).await;
    until_true(&owner, SOON, "select rows_changed > 5 from backfill.jobs").await;
    let killer = cluster.owner().await;
    // The loop runs in the server. If the test itself ran the loop, a busy machine could delay the
    // test, and a session could run for a second.
    let kill = "do $$ declare killed int := 0; begin
                  while killed < 60 loop
                    killed := killed + (select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name like 'backfilld job%' and state = 'active');
                    perform pg_stat_clear_snapshot();
                  end loop; end $$";
    run(&killer, kill).await;
    run(&owner, r#"select backfill.tune('j', '{"max_rows_per_second": 100000, "max_batch_rows": 1000}')"#).await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n = 1").await, 2000, "{}", daemon.output());
}

/// A tool terminates each session that runs a long statement on the table. Only the change to one
/// row takes that long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_row_is_blamed_for_a_tool_that_terminates_long_statements() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    trapped(&cluster, "t", "perform pg_sleep(0.6);").await;
    run(&owner, "insert into t_trap values (333)").await;
    let daemon = quick(&cluster.owner_url()).start();
    run(&owner, &format!("select backfill.enqueue('t', 't', '{PLUS_ONE}')")).await;
    let killer = cluster.owner().await;
    let kill = "do $$ declare killed int := 0; begin
                  while killed < 15 loop
                    killed := killed + (select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name like 'backfilld job%' and state = 'active'
                                           and clock_timestamp() - query_start > interval '0.2 s' and query ilike '%public.t%');
                    perform pg_stat_clear_snapshot(), pg_sleep(0.02);
                  end loop; end $$";
    run(&killer, kill).await;
    until_state(&cluster, "t", "succeeded", SOON * 2).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n = 1").await, 1000, "{}", daemon.output());
}

/// The change to one row crashes the server. The job fails instead of retrying the row forever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_crashes_the_server_fails_the_job() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    trapped(&cluster, "t", "perform crash();").await;
    let superuser = cluster.superuser("app").await;
    run(&superuser, "create function public.crash() returns void language plpgsql security definer as $$ begin copy (select 1) to program 'kill -9 $PPID'; end $$").await;
    run(&owner, "insert into t_trap values (333)").await;
    let _daemon = quick(&cluster.owner_url()).start();
    run(&owner, &format!("select backfill.enqueue('t', 't', '{PLUS_ONE}')")).await;
    backfilld_testbed::wait::until(SOON * 4, "the job has failed", async || {
        let Ok(owner) = cluster.try_client("owner", "app").await else { return false };
        let failed =
            "select state = 'failed' and error like 'the server went down%' and hint like '%log%' from backfill.jobs";
        owner.query_one(failed, &[]).await.is_ok_and(|row| row.get::<_, Option<bool>>(0) == Some(true))
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let owner = cluster.owner().await;
    run(&owner, "truncate t_trap; select backfill.retry('t')").await;
    until_state(&cluster, "t", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n <> 1").await, 0);
}

/// A label of the key's enum type is renamed while the job runs. The job fails without quarantining
/// a row, and its hint names the enum label. After the label has its old name again, a retry
/// completes the job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_label_of_the_key_that_is_renamed_during_the_walk_is_reported() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create type mood as enum ('calm', 'glad'); create table t (k mood, i int, n int not null default 0, primary key (k, i));
         insert into t select case when i % 2 = 0 then 'calm' else 'glad' end::mood, i from generate_series(1, 2000) i;
         select backfill.enqueue('t', 't', 'n = n + 1', options => '{\"max_rows_per_second\": 1000, \"max_batch_rows\": 10, \"max_row_errors\": 0}')",
    )
    .await;
    let _daemon = quick(&cluster.owner_url()).start();
    until_true(&owner, SOON, "select rows_scanned > 50 from backfill.jobs").await;
    run(&owner, "alter type mood rename value 'calm' to 'serene'").await;
    until_true(&owner, SOON, "select state = 'failed' and hint like '%enum label%' from backfill.jobs").await;
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.row_errors").await, 0);
    run(&owner, "alter type mood rename value 'serene' to 'calm'; select backfill.retry('t')").await;
    until_state(&cluster, "t", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n <> 1").await, 0);
}

/// The job fails after its walk has ended, because it has quarantined a row.
#[tokio::test]
async fn the_failure_of_a_job_with_a_bad_row_is_logged_as_an_error_with_its_cause() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, code text, n int); insert into t values (1, '1'), (2, 'x')").await;
    let daemon = daemon(&cluster).await;
    run(&owner, "select backfill.enqueue('j', 't', 'n = code::int')").await;
    until_state(&cluster, "j", "failed", SOON).await;
    let cause = "job failed: 1 row could not be changed: invalid input";
    let is_logged = |line: &str| line.contains("ERROR") && line.contains(cause);
    wait::until(SOON, "the failure is logged", async || daemon.output().lines().any(is_logged)).await;
}

#[tokio::test]
async fn a_trigger_that_raises_our_own_code_quarantines_its_rows_instead_of_looking_like_a_fence() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, n int not null default 0); insert into t select generate_series(1, 10);
        create function liar() returns trigger language plpgsql as $$ begin raise exception using errcode = 'BF006', message = 'not me'; end $$;
        create trigger liar before update on t for each row execute function liar()").await;
    run(&owner, "select backfill.enqueue('j', 't', 'n = n + 1')").await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select state = 'failed' from backfill.jobs").await;
    let said: String = value(&owner, "select error || ' ' || hint from backfill.jobs").await;
    assert!(said.contains("not me") && said.contains("backfill.row_errors"), "{said}");
}
