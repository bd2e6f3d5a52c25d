//! Tests differences between major versions of PostgreSQL that affect a backfill. Each test is
//! skipped on servers older than the version that introduced the tested feature.
//! `make test-matrix` runs the tests on PostgreSQL 14 to 18.

use backfilld_testbed::cluster::Options;

use crate::support::{SOON, daemon, installed, not_before, refused, run, until_state, until_true, value};

/// From PostgreSQL 16 on, membership in a role and the privilege to become that role are separate.
/// A member without the SET option is not allowed to start jobs for the role (P22).
#[tokio::test]
async fn a_member_that_may_not_become_the_role_enqueues_nothing_for_it() {
    let cluster = installed(Options::default()).await;
    if not_before(16, &cluster, "membership without the SET option") {
        return;
    }
    cluster
        .sql(
            "postgres",
            "app",
            "create role reads login in role backfill_submitter; grant owner to reads with inherit true, set false;
             create role becomes login in role backfill_submitter; grant owner to becomes with inherit false, set true",
        )
        .await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int); insert into t select generate_series(1, 10)").await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select exists (select from backfill.executor)").await;

    let reads = cluster.client("reads", "app").await;
    let refusal = refused(&reads, "select backfill.enqueue('j', 't', 'a = 1', run_as => 'owner')").await;
    assert_eq!(refusal.sqlstate, "BF001", "{refusal:?}");
    assert!(refusal.message.contains("may not run jobs as \"owner\""), "{refusal:?}");
    // A direct insert is refused too. This check uses a role other than `reads`, because `reads`
    // inherits the privileges of the schema's owner and may write to the schema.
    cluster
        .sql(
            "postgres",
            "app",
            "create role team; create role clerk login in role backfill_submitter; grant team to clerk with inherit true, set false",
        )
        .await;
    let clerk = cluster.client("clerk", "app").await;
    let forged = "insert into backfill.job (name, relation, target, set_sql, run_as) values ('f', 't'::regclass, 't', 'a = 1', 'team')";
    assert_eq!(refused(&clerk, forged).await.sqlstate, "42501");
    // Without run_as, the job runs as the member itself, which already has the inherited
    // privileges.
    run(&reads, "select backfill.enqueue('own', 't', 'a = 1')").await;
    assert_eq!(value::<String>(&owner, "select run_as::text from backfill.jobs where name = 'own'").await, "reads");
    assert_eq!(value::<i64>(&owner, "select count(a) from t").await, 0);

    let becomes = cluster.client("becomes", "app").await;
    run(&becomes, "set role owner; select 1; reset role").await;
    run(&becomes, "select backfill.enqueue('j', 't', 'a = 1', run_as => 'owner')").await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(a) from t").await, 10);
}

/// From PostgreSQL 17 on, `transaction_timeout` limits the duration of a transaction, whatever the
/// transaction does. A role can have a default for this setting.
#[tokio::test]
async fn a_roles_transaction_timeout_ends_no_batch_and_no_claim() {
    let cluster = installed(Options::default()).await;
    if not_before(17, &cluster, "transaction_timeout") {
        return;
    }
    cluster.sql("postgres", "app", "alter role owner set transaction_timeout = '40ms'").await;
    // The test connects as a role without the limit, so that the limit does not end the test's own
    // statements.
    let superuser = cluster.superuser("app").await;
    run(
        &superuser,
        "create table t (id int primary key, a int); alter table t owner to owner; insert into t select generate_series(1, 30);
         create function public.slowly(int) returns int language plpgsql volatile as $$ begin perform pg_sleep(0.01); return $1; end $$;
         set role owner; select backfill.enqueue('j', 't', 'a = public.slowly(id)', options => '{\"max_batch_rows\": 15, \"target_batch_ms\": 500}'); reset role",
    )
    .await;
    let _daemon = daemon(&cluster).await;
    until_true(&superuser, SOON, "select state = 'succeeded' from backfill.jobs").await;
    assert_eq!(value::<i64>(&superuser, "select count(*) from t where a = id").await, 30);
    // Each row takes 10 ms. If 7 batches or fewer changed the 30 rows, at least one batch changed 5
    // rows or more and took longer than the role's limit of 40 ms. This check shows that a batch
    // exceeded the limit.
    assert!(value::<i64>(&superuser, "select max(batches) from backfill.slices").await < 8);
}

/// PostgreSQL 17 introduced builtin collations. Version 18 added another one.
#[tokio::test]
async fn keys_under_builtin_collations_are_walked() {
    let cluster = installed(Options::default()).await;
    if not_before(17, &cluster, "builtin collations") {
        return;
    }
    let owner = cluster.owner().await;
    let mut collations = vec!["pg_c_utf8"];
    if cluster.major() >= 18 {
        collations.push("pg_unicode_fast");
    }
    for name in &collations {
        run(
            &owner,
            &format!(
                "create table {name} (k text collate pg_catalog.{name} primary key, n int not null default 0);
                 insert into {name} select (array['a', 'B', 'Ä', 'ß', '😀'])[1 + i % 5] || i from generate_series(1, 500) i;
                 select backfill.enqueue('{name}', '{name}', 'n = n + 1', options => '{{\"slices\": 3, \"max_batch_rows\": 7}}')"
            ),
        )
        .await;
    }
    let _daemon = daemon(&cluster).await;
    for name in &collations {
        until_state(&cluster, name, "succeeded", SOON).await;
        assert_eq!(value::<i64>(&owner, &format!("select count(*) from {name} where n = 1")).await, 500, "{name}");
    }
}

/// By default, PostgreSQL 18 computes generated columns when they are read.
#[tokio::test]
async fn virtual_generated_columns_are_read_and_never_set() {
    let cluster = installed(Options::default()).await;
    if not_before(18, &cluster, "virtual generated columns") {
        return;
    }
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, a int, twice int generated always as (a * 2) virtual, b int);
         insert into t (id, a) select i, i from generate_series(1, 300) i",
    )
    .await;
    let refusal = refused(&owner, "select backfill.enqueue('j', 't', 'twice = 1')").await;
    assert_eq!(refusal.sqlstate, "BF001", "{refusal:?}");
    assert!(refusal.message.contains("twice") && refusal.hint.is_some(), "{refusal:?}");
    run(&owner, "select backfill.enqueue('j', 't', 'b = twice + 1', 'twice > 100 and b is null', options => '{\"max_batch_rows\": 20}')").await;
    let _daemon = daemon(&cluster).await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert_eq!(
        value::<String>(
            &owner,
            "select concat_ws(' ', rows_scanned, rows_changed, verified_at is not null) from backfill.jobs"
        )
        .await,
        "300 250 t"
    );
    assert_eq!(value::<i64>(&owner, "select count(*) from t where b = a * 2 + 1 and a > 50").await, 250);
}
