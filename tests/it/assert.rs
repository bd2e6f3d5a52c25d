//! Tests of `backfill.assert_complete`, which migrations and deployments call to make sure that a
//! job is complete.

use backfilld_testbed::cluster::Options;

use crate::support::{SOON, daemon, installed, refused, run, until_state, value};

#[tokio::test]
async fn only_the_jobs_own_role_can_check_the_whole_table() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int, b int); insert into t select i, null, i from generate_series(1, 100) i;
        create table p (id int primary key, a int) partition by range (id); create table p1 partition of p for values from (0) to (10); create table p2 partition of p default;
        insert into p select i from generate_series(1, 20) i;
        create schema s; create function s.twice(int) returns int language sql immutable return $1 * 2").await;
    run(&owner, "set search_path = public, s").await;
    run(&owner, "select backfill.enqueue('filter', 't', 'a = b', 'a is null'), backfill.enqueue('parts', 'p', 'a = twice(id)'), backfill.enqueue('plus', 't', 'b = b + 0')").await;
    run(&owner, "set search_path = public").await;
    let _daemon = daemon(&cluster).await;
    for name in ["filter", "parts", "plus"] {
        until_state(&cluster, name, "succeeded", SOON).await;
    }
    run(
        &owner,
        "select backfill.assert_complete('filter', whole_table => true), backfill.assert_complete('parts', true)",
    )
    .await;
    // Insert a row above the planned upper bound of `t`, and a row above the planned upper bound of
    // partition `p2`.
    run(&owner, "insert into t values (101, null, 5); insert into p values (1000, 3)").await;
    run(&owner, "select backfill.assert_complete('filter'), backfill.assert_complete('parts')").await;
    let refusal = refused(&owner, "select backfill.assert_complete('filter', whole_table => true)").await;
    assert_eq!(refusal.sqlstate, "BF004");
    assert_eq!(refusal.message, "job \"filter\" is complete, but table public.t is not: row {\"id\": 101} needs work");
    let refusal = refused(&owner, "select backfill.assert_complete('parts', true)").await;
    assert_eq!(refusal.message, "job \"parts\" is complete, but table public.p is not: row {\"id\": 1000} needs work");
    // `assert_complete` has restored the settings of the session.
    let settings = "select current_setting('search_path') || ' ' || current_setting('transaction_read_only')";
    assert_eq!(value::<String>(&owner, settings).await, "public off");
    let refusal = refused(&owner, "select backfill.assert_complete('plus', true)").await;
    assert!(refusal.sqlstate == "BF001" && refusal.detail.unwrap().contains("cannot be compared"));
    // `assert_complete` never evaluates the job's expressions in the session of another login. A
    // superuser is another login, even after `SET ROLE` to the owner.
    let admin = cluster.superuser("app").await;
    for role in ["postgres", "owner"] {
        run(&admin, &format!("SET ROLE {role}")).await;
        let refusal = refused(&admin, "select backfill.assert_complete('filter', true)").await;
        assert_eq!(refusal.sqlstate, "BF001");
        assert!(refusal.hint.unwrap().contains("Connect as the role that enqueued the job"));
    }
}

#[tokio::test]
async fn an_expression_that_writes_is_not_evaluated_for_the_whole_table_check() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int); insert into t values (1, null); create table trace (id int);
        create function leaves_a_trace(int) returns bool language plpgsql as $$ begin insert into public.trace values ($1); return true; end $$;
        select backfill.enqueue('w', 't', 'a = 1', 'a is null and leaves_a_trace(id)')").await;
    let _daemon = daemon(&cluster).await;
    until_state(&cluster, "w", "succeeded", SOON).await;
    run(&owner, "delete from trace; insert into t values (2, null)").await;
    assert_eq!(refused(&owner, "select backfill.assert_complete('w', true)").await.sqlstate, "25006");
    assert_eq!(value::<i64>(&owner, "select count(*) from trace").await, 0);
}

/// After the job has succeeded, the column that it filled is dropped and added again. The new
/// column is empty. A column that was only renamed, and a source column that was dropped, change
/// nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_was_added_again_is_not_complete() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int, b int, c int); insert into t select g, g from generate_series(1, 100) g").await;
    let _daemon = daemon(&cluster).await;
    for (name, column) in [("filled", "b"), ("renamed", "c")] {
        run(&owner, &format!("select backfill.enqueue('{name}', 't', '{column} = a', '{column} is null')")).await;
        until_state(&cluster, name, "succeeded", SOON).await;
    }
    run(&owner, "alter table t rename column c to d; alter table t drop column a").await;
    run(&owner, "select backfill.assert_complete('filled'); select backfill.assert_complete('renamed')").await;
    run(&owner, "alter table t drop column b; alter table t add column b int").await;
    run(&owner, "select backfill.assert_complete('renamed')").await;
    let error = refused(&owner, "select backfill.assert_complete('filled')").await;
    assert_eq!(error.sqlstate, "BF004");
    assert!(error.message.contains("another column in place of the one that the job changed"), "{error:?}");
}
