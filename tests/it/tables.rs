//! Tests jobs on partitioned tables, on inheritance parents with children, and on tables with other
//! features. The walk reads each partition and each child through its own index. Also tests the
//! splits of slices.

use backfilld_testbed::cluster::{Cluster, Options};
use tokio_postgres::Client;

use crate::support::{SOON, daemon_with, installed, refused, run, until_state, until_true, value};

const EAGER: &str = "lease: {poll_ms: 50}\ndatabases: [{name: main, url: x, workers: 4}]\n";
/// A walk of 1,000 rows takes about 1 s, so that the test can change the table during the walk.
const SLOW: &str = r#"{"max_rows_per_second": 1000, "max_batch_rows": 10, "max_victim_wait_ms": 500}"#;

/// Range partitions and a default partition. One range partition is partitioned by list.
/// `sales_high` was created as a separate table. Its columns have another order, and one of them
/// was dropped.
const SALES: &str = r#"
create table sales (id bigint, region text not null, note text, n int not null default 0, m int not null default 0, primary key (id, region)) partition by range (id);
create table sales_low partition of sales for values from (minvalue) to (1000);
create table "Sales mid" partition of sales for values from (1000) to (2000) partition by list (region);
create table sales_mid_eu partition of "Sales mid" for values in ('eu');
create table sales_mid_rest partition of "Sales mid" default;
create table sales_high (m int not null default 0, gone int, n int not null default 0, note text, region text not null, id bigint, primary key (id, region));
alter table sales_high drop column gone;
alter table sales attach partition sales_high for values from (2000) to (3000);
create table sales_empty partition of sales for values from (9000) to (9001);
create table sales_rest partition of sales default;
insert into sales (id, region, note) select i, case when i % 2 = 0 then 'eu' else 'us' end, 'row ' || i from generate_series(1, 4000) i;
"#;

async fn outcome(owner: &Client, job: &str) -> String {
    value(owner, &format!("select concat_ws(' ', state, rows_scanned, rows_changed, verified_at is not null, error) from backfill.jobs where name = '{job}'")).await
}

#[tokio::test]
async fn a_partitioned_table_is_walked_leaf_by_leaf_each_row_once() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, SALES).await;
    run(&owner, r#"create table step (one int not null); insert into step values (1);
        select backfill.enqueue('one', 'sales', 'n = sales.n + 1', options => '{"max_batch_rows": 7}');
        select backfill.enqueue('eight', 'sales', 'm = m + (select one from step)', 'sales.id > 0 and m < 5', options => '{"max_batch_rows": 100, "slices": 8}');
        select backfill.enqueue('filled', 'sales', 'note = sales.id || sales.region', 'note like ''row %''', options => '{"slices": 3}', priority => 10)"#).await;
    let _daemon = daemon_with(&cluster, EAGER).await;
    until_true(&owner, SOON, "select bool_and(state in ('succeeded', 'failed')) from backfill.jobs").await;
    for job in ["one", "eight", "filled"] {
        assert_eq!(outcome(&owner, job).await, "succeeded 4000 4000 t", "{job}");
    }
    let wrong = "select count(*) from sales where n <> 1 or m <> 1 or note <> id || region";
    assert_eq!(value::<i64>(&owner, wrong).await, 0);
    assert_eq!(value::<String>(&owner, "select string_agg(concat_ws(' ', relation, state, rows_changed), ', ' order by relation) from backfill.slices where name = 'one'").await,
        "public.sales_empty done 0, public.sales_high done 1000, public.sales_low done 999, public.sales_mid_eu done 500, public.sales_mid_rest done 500, public.sales_rest done 1001");
    assert!(
        value::<i64>(
            &owner,
            "select count(*) from backfill.slices where name = 'eight' and relation <> 'public.sales_empty'"
        )
        .await
            >= 8
    );
    assert!(
        value::<bool>(&owner, "select rows_estimated between 3000 and 5000 from backfill.jobs where name = 'one'")
            .await
    );
}

/// The partitioned table has no primary key, and its only unique index is invalid because no
/// partition has a matching index.
#[tokio::test]
async fn partitions_are_walked_through_keys_of_their_own_if_the_parent_has_none() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, r#"create table log (at date not null, id int not null, code text not null, n int not null default 0) partition by range (at);
        create table log_1 partition of log for values from ('2024-01-01') to ('2025-01-01');
        create table log_2 partition of log for values from ('2025-01-01') to ('2026-01-01');
        alter table log_1 add primary key (id); alter table log_2 add primary key (code, id);
        create unique index on log_1 (code desc); create unique index on log_2 (code);
        create unique index on only log (at, code);
        insert into log select date '2024-01-01' + i, i, 'c' || i from generate_series(1, 700) i;
        select backfill.enqueue('primary', 'log', 'n = n + 1');
        select backfill.enqueue('named', 'log', 'n = n + 1', key => '{code}', options => '{"slices": 4}')"#).await;
    assert_eq!(
        refused(&owner, "select backfill.enqueue('j', 'log', 'n = 1', key => '{at, code}')").await.message,
        "key (at, code) cannot be used for table public.log_1, a partition or child of public.log"
    );
    let refusal = refused(&owner, "select backfill.enqueue('j', 'log', 'id = id + 1')").await;
    assert!(refusal.message.contains("column \"id\", which is part of the key"), "{refusal:?}");
    let _daemon = daemon_with(&cluster, EAGER).await;
    until_true(&owner, SOON, "select bool_and(state in ('succeeded', 'failed')) from backfill.jobs").await;
    for job in ["primary", "named"] {
        assert_eq!(outcome(&owner, job).await, "succeeded 700 700 t", "{job}");
    }
    assert_eq!(value::<i64>(&owner, "select count(*) from log where n <> 2").await, 0);
}

/// Creates a table with four partitions, and enqueues a slow job, so that the test can change the
/// table during the walk.
async fn slow_walk(cluster: &Cluster, set: &str) -> Client {
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, n int, old int) partition by range (id);
        create table t_1 partition of t for values from (0) to (400); create table t_2 partition of t for values from (400) to (800);
        create table t_3 partition of t for values from (800) to (1200); create table t_4 partition of t for values from (1200) to (1600);
        insert into t select i, null, i from generate_series(0, 1599) i").await;
    run(&owner, &format!("select backfill.enqueue('t', 't', $${set}$$, options => '{SLOW}')")).await;
    owner
}

const EVENTS: &str = "select coalesce(string_agg(message, '; ' order by message), '') from backfill.events where name = 't' and kind like 'leaf%'";

#[tokio::test]
async fn a_dropped_or_detached_partition_ends_its_slice_and_an_attached_one_is_walked() {
    let cluster = installed(Options::default()).await;
    let owner = slow_walk(&cluster, "n = old").await;
    run(&owner, "create table later (old int, n int, id int primary key); insert into later select i, null, i from generate_series(2000, 2099) i;
        create table empty_one (like t including all)").await;
    let _daemon = daemon_with(&cluster, "lease: {poll_ms: 50}\ndatabases: [{name: main, url: x, workers: 1}]\n").await;
    until_true(
        &owner,
        SOON,
        "select coalesce((select rows_scanned > 50 from backfill.slices where relation = 'public.t_1'), false)",
    )
    .await;
    // The walk of t_1 has begun. The walks of t_2 and t_3 have not.
    run(&owner, "alter table t detach partition t_1; alter table t detach partition t_2; drop table t_3").await;
    run(&owner, "alter table t attach partition later for values from (2000) to (2100); alter table t attach partition empty_one for values from (3000) to (3100)").await;
    until_state(&cluster, "t", "succeeded", SOON).await;
    assert_eq!(
        value::<String>(&owner, EVENTS).await,
        "public.empty_one was attached after planning: its rows are changed too; public.later was attached after planning: its rows are changed too; \
        public.t_1 was detached or dropped: slice 0 is closed; public.t_2 was detached or dropped: slice 1 is closed; public.t_3 was detached or dropped: slice 2 is closed"
    );
    assert_eq!(
        value::<String>(
            &owner,
            "select string_agg(relation || ' ' || state, ', ' order by relation) from backfill.slices where name = 't'"
        )
        .await,
        "public.empty_one done, public.later done, public.t_1 gone, public.t_2 gone, public.t_3 gone, public.t_4 done"
    );
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n is distinct from old").await, 0);
    assert_eq!(
        value::<i64>(&owner, "select count(*) from t_2 where n is not null").await,
        0,
        "the job changed rows of a detached partition"
    );
    assert!(value::<bool>(&owner, "select verified_at is not null from backfill.jobs").await);
}

/// An attached partition may contain rows that the job has already changed in another partition.
#[tokio::test]
async fn an_attached_partition_is_reported_and_not_walked_if_rows_could_be_changed_twice() {
    let cluster = installed(Options::default()).await;
    let owner = slow_walk(&cluster, "n = coalesce(n, 0) + 1").await;
    let _daemon = daemon_with(&cluster, "lease: {poll_ms: 50}\ndatabases: [{name: main, url: x, workers: 1}]\n").await;
    until_true(
        &owner,
        SOON,
        "select coalesce((select rows_scanned > 50 from backfill.slices where relation = 'public.t_2'), false)",
    )
    .await;
    // The job has changed the rows of t_1. They are copied to the table `moved`, which replaces
    // partition t_1. Partition t_2 is detached, and attached again below.
    run(&owner, "begin; alter table t detach partition t_1; alter table t detach partition t_2; create table moved (like t including all); insert into moved select * from t_1;
        alter table t attach partition moved for values from (0) to (400); commit").await;
    until_true(
        &owner,
        SOON,
        "select exists (select from backfill.slices where relation = 'public.t_2' and state = 'gone')",
    )
    .await;
    run(&owner, "alter table t attach partition t_2 for values from (400) to (800)").await;
    until_state(&cluster, "t", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n is distinct from 1").await, 0);
    let events: String = value(&owner, EVENTS).await;
    assert!(
        events.contains("public.moved was attached after planning and is skipped: the assignments (set) read columns that they assign"),
        "{events}"
    );
    assert!(events.contains("public.t_2 is attached again: slice 1 continues where it stopped"), "{events}");
}

#[tokio::test]
async fn each_parent_and_child_table_is_walked_by_itself() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table parent (id int primary key, n int not null default 0);
        create table child (extra text, primary key (id)) inherits (parent);
        create table other (o int); create table grandchild (more int, unique (id)) inherits (child, other); alter table grandchild alter id set not null;
        insert into parent select generate_series(1, 300); insert into child select generate_series(200, 500), 0, 'x'; insert into grandchild (id) select generate_series(1, 50);
        create function plus(parent) returns int language sql immutable as 'select $1.n + 1';
        select backfill.enqueue('family', 'parent', 'n = plus(parent)', options => '{\"max_batch_rows\": 20}');
        select backfill.enqueue('branch', 'child', 'n = child.n + 1')").await;
    run(&owner, "create table lone (id int primary key, n int); create table keyless () inherits (lone)").await;
    let refusal = refused(&owner, "select backfill.enqueue('j', 'lone', 'n = 1')").await;
    assert_eq!(
        refusal.message,
        "key (id) cannot be used for table public.keyless, a partition or child of public.lone"
    );
    let _daemon = daemon_with(&cluster, EAGER).await;
    until_true(&owner, SOON, "select bool_and(state in ('succeeded', 'failed')) from backfill.jobs").await;
    assert_eq!(outcome(&owner, "family").await, "succeeded 651 651 t");
    assert_eq!(outcome(&owner, "branch").await, "succeeded 351 351 t");
    assert_eq!(value::<String>(&owner, "select concat((select count(*) from only parent where n = 1), ' ', (select count(*) from child where n = 2))").await, "300 351");
}

#[tokio::test]
async fn a_problem_in_one_partition_is_refused_with_the_remedy() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, SALES).await;
    cluster.sql("postgres", "app", "create role clerk login in role backfill_submitter; create role x_clerk login; grant clerk to x_clerk; alter role x_clerk set role = 'clerk'").await;
    run(&owner, "grant select, update on sales, sales_low to clerk; grant usage on schema public to clerk").await;
    let clerk = cluster.client("clerk", "app").await;
    let lacks = refused(&clerk, "select backfill.enqueue('j', 'sales', 'n = 1')").await;
    assert_eq!(
        lacks.message,
        "role \"clerk\" lacks SELECT or UPDATE on 5 of the tables that hold the rows of public.sales"
    );
    assert_eq!(
        lacks.hint.as_deref(),
        Some(
            "As the owner of the tables, run: grant select, update on table public.sales_empty, public.sales_high, public.sales_mid_eu, public.sales_mid_rest, public.sales_rest to clerk; Or run the job as the owner (run_as)."
        )
    );
    run(
        &owner,
        "grant select, update (n) on sales_empty, sales_high, sales_mid_eu, sales_mid_rest, sales_rest to clerk",
    )
    .await;
    run(&clerk, "select backfill.enqueue('clerks', 'sales', 'n = n + 1')").await;
    for column in ["region", "id"] {
        let moves = refused(&owner, &format!("select backfill.enqueue('j', 'sales', '{column} = null')")).await;
        assert!(moves.message.contains(column), "{moves:?}");
    }
    let by = "create table by_expression (id int primary key, k int, n int) partition by hash (id); create table by_expression_0 partition of by_expression for values with (modulus 1, remainder 0);
        create table by_month (id int, k timestamp not null, n int) partition by range ((date_trunc('month', k))); create table by_month_0 partition of by_month default; create unique index on by_month_0 (id); alter table by_month_0 alter id set not null";
    run(&owner, by).await;
    assert_eq!(
        refused(&owner, "select backfill.enqueue('j', 'by_month', 'k = now()', key => '{id}')").await.message,
        "the assignments (set) contain column \"k\", which is part of the partition key of public.by_month"
    );
    run(&owner, "select backfill.enqueue('hash', 'by_expression', 'k = 1, n = 2')").await;
    cluster.sql("postgres", "app", "create extension file_fdw; create server files foreign data wrapper file_fdw; create table far (id int not null, n int) partition by range (id); alter table far owner to owner; create foreign table ft partition of far for values from (0) to (9) server files options (filename '/dev/null')").await;
    let foreign = refused(&owner, "select backfill.enqueue('j', 'far', 'n = 1')").await;
    assert_eq!(foreign.message, "public.far has a foreign table as a partition or child: public.ft");

    // A role that has the necessary privileges on each leaf can run the job. The role has a
    // separate executor.
    let executor = cluster.url("x_clerk", "app");
    let config = format!(
        "lease: {{poll_ms: 50}}\ndatabases: [{{name: main, url: x, workers: 2, executors: [{{run_as: clerk, url: \"{executor}\"}}, {{run_as: owner, url: \"{}\"}}]}}]\n",
        cluster.owner_url()
    );
    let _daemon = daemon_with(&cluster, &config).await;
    until_state(&cluster, "clerks", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from sales where n <> 1").await, 0);
}

#[tokio::test]
async fn row_level_security_is_an_error_and_never_hides_rows() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, n int, who text); insert into t select i, 0, case when i % 2 = 0 then 'a' else 'b' end from generate_series(1, 100) i;
        create table p (id int primary key, n int) partition by range (id); create table p_1 partition of p default; insert into p select generate_series(1, 100), 0;
        select backfill.enqueue('late', 't', 'n = 1'); select backfill.pause('late');
        create policy half on t using (who = 'a'); alter table t enable row level security;
        select backfill.enqueue('owners', 't', 'n = n + 1');
        alter table p_1 enable row level security").await;
    // Policies apply to the owner of a table only if row-level security is forced.
    let daemon = daemon_with(&cluster, EAGER).await;
    until_state(&cluster, "owners", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n = 1").await, 100);
    run(&owner, "alter table t force row level security; alter table p_1 force row level security").await;
    let forced = refused(&owner, "select backfill.enqueue('j', 't', 'n = 1')").await;
    assert_eq!(forced.message, "row-level security of public.t hides rows from role \"owner\"");
    assert!(refused(&owner, "select backfill.enqueue('j', 'p', 'n = 1')").await.message.contains("public.p_1"));
    run(&owner, "select backfill.resume('late')").await;
    until_true(&owner, SOON, "select state = 'failed' from backfill.jobs where name = 'late'").await;
    let error: String = value(&owner, "select error from backfill.jobs where name = 'late'").await;
    assert!(error.contains("row-level security policy"), "{error}");
    drop(daemon);
}

/// Each table has a feature (a generated column, a trigger, a publication and so on) that must not
/// prevent the job from changing its rows.
#[tokio::test]
async fn other_features_of_a_table_do_not_stop_its_walk() {
    let cluster = installed(Options::default().set("wal_level", "logical")).await;
    let owner = cluster.owner().await;
    let kinds = [
        ("generated_column", "create table {t} (id int primary key, n int not null default 0, twice int generated always as (n * 2) stored)", ""),
        ("identity_key", "create table {t} (id int generated always as identity primary key, n int not null default 0)", "identity"),
        ("unlogged_table", "create unlogged table {t} (id int primary key, n int not null default 0)", ""),
        ("toasted_values", "create table {t} (id int primary key, n int not null default 0, long text); alter table {t} alter long set storage external", "long"),
        ("triggered", "create table {t} (id int primary key, n int not null default 0, seen int not null default 0);
            create or replace function seen() returns trigger language plpgsql as 'begin new.seen := new.seen + 1; return new; end'; create trigger s before update on {t} for each row execute function seen()", ""),
        ("published", "create table {t} (id int primary key, n int not null default 0); create publication pub for table {t}", ""),
        ("leaf_itself", "create table leaf_parent (id int primary key, n int not null default 0) partition by range (id); create table {t} partition of leaf_parent default", ""),
        ("referenced", "create table {t} (id int primary key, n int not null default 0); create table refers (id int references {t} on update cascade)", ""),
        ("clustered_odd \"Name\"", "create table {t} (\"Id \"\"x\" int primary key, n int not null default 0)", ""),
        ("typed", "create type shape as (id int, n int); create table {t} of shape (id primary key, n default 0)", ""),
    ];
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    for (name, made, fill) in kinds {
        run(&owner, &made.replace("{t}", &quoted(name))).await;
        let fill = match fill {
            "identity" => "(n) select 0",
            "long" => "select i, 0, repeat(md5(i::text), 300)",
            _ => "select i",
        };
        run(&owner, &format!("insert into {} {fill} from generate_series(1, 500) i", quoted(name))).await;
        let job = name.replace([' ', '"'], "_");
        run(&owner, &format!("select backfill.enqueue('{job}', '{}', 'n = coalesce(n, 0) + 1', options => '{{\"max_batch_rows\": 40, \"slices\": 2}}')", quoted(name))).await;
    }
    run(&owner, "create temp table brief (id int primary key, n int)").await;
    let _daemon = daemon_with(&cluster, EAGER).await;
    until_true(&owner, SOON, "select bool_and(state in ('succeeded', 'failed')) from backfill.jobs").await;
    for (name, ..) in kinds {
        assert_eq!(outcome(&owner, &name.replace([' ', '"'], "_")).await, "succeeded 500 500 t", "{name}");
        assert_eq!(
            value::<i64>(&owner, &format!("select count(*) from {} where n = 1", quoted(name))).await,
            500,
            "{name}"
        );
    }
    assert_eq!(value::<i64>(&owner, "select count(*) from generated_column where twice = 2").await, 500);
    assert_eq!(value::<i64>(&owner, "select count(*) from triggered where seen = 1").await, 500);
    assert_eq!(value::<i64>(&owner, "select count(*) from toasted_values where length(long) = 9600").await, 500);
}

/// The job's plan and the description of a slice's partition stay small. Therefore neither a claim
/// nor a batch reads data about all 300 partitions.
#[tokio::test]
async fn many_partitions_do_not_make_a_claim_expensive() {
    let cluster = installed(Options::default().set("max_locks_per_transaction", "1000")).await;
    let owner = cluster.owner().await;
    run(&owner, "create table many (id int primary key, n int not null default 0) partition by range (id);
        do $$ begin for i in 0..299 loop execute format('create table many_%s partition of many for values from (%s) to (%s)', i, i * 10, i * 10 + 10); end loop; end $$;
        insert into many select generate_series(0, 2999); select backfill.enqueue('many', 'many', 'n = n + 1')").await;
    let _daemon = daemon_with(&cluster, EAGER).await;
    until_true(&owner, SOON, "select plan is not null from backfill.job").await;
    assert!(value::<i32>(&owner, "select length(plan::text) from backfill.job").await < 4000);
    assert!(value::<i32>(&owner, "select max(length(leaf::text)) from backfill.slice").await < 1000);
    until_state(&cluster, "many", "succeeded", SOON * 4).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from many where n = 1").await, 3_000);
}

/// As long as fewer slices are active than requested and enough rows remain, a slice is split in
/// two. If one slice is requested (the default), it is not split.
#[tokio::test]
async fn a_job_keeps_its_workers_busy_to_the_end_and_no_split_loses_or_doubles_a_row() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, n int not null default 0, pad text); insert into t select i, 0, 'x' from generate_series(1, 60000) i;
        create table parts (id int primary key, n int not null default 0) partition by range (id);
        create table parts_1 partition of parts for values from (0) to (1000); create table parts_2 partition of parts default; insert into parts select generate_series(1, 60000);
        create table alone (id int primary key, n int not null default 0); insert into alone select generate_series(1, 60000);
        -- The load of the machine must not slow these jobs down.
        select backfill.enqueue('t', 't', 'n = n + 1', options => '{\"slices\": 1, \"max_rows_per_second\": 2000, \"max_batch_rows\": 300, \"throttle\": \"off\"}');
        select backfill.enqueue('parts', 'parts', 'n = n + 1', options => '{\"slices\": 3, \"max_rows_per_second\": 20000, \"max_batch_rows\": 300, \"throttle\": \"off\"}');
        select backfill.enqueue('alone', 'alone', 'n = n + 1', options => '{\"max_rows_per_second\": 20000, \"max_batch_rows\": 300, \"throttle\": \"off\"}')").await;
    let _daemon = daemon_with(
        &cluster,
        "lease: {poll_ms: 50, heartbeat_seconds: 0.2}\ndatabases: [{name: main, url: x, workers: 8}]\n",
    )
    .await;
    until_true(
        &owner,
        SOON,
        "select coalesce((select rows_scanned > 1000 from backfill.slices where name = 't'), false)",
    )
    .await;
    // From now on, up to four slices may run at a time.
    run(&owner, "select backfill.tune('t', '{\"slices\": 4}')").await;
    until_true(&owner, SOON, "select count(*) >= 3 from backfill.slices where name = 't'").await;
    run(&owner, "select backfill.tune('t', '{\"max_rows_per_second\": 20000}')").await;
    until_true(&owner, SOON * 2, "select bool_and(state in ('succeeded', 'failed')) from backfill.jobs").await;
    for job in ["t", "parts", "alone"] {
        assert_eq!(outcome(&owner, job).await, "succeeded 60000 60000 t", "{job}");
        assert_eq!(value::<i64>(&owner, &format!("select count(*) from {job} where n <> 1")).await, 0, "{job}");
    }
    let slices = |job: &str| format!("select count(*) from backfill.slices where name = '{job}'");
    assert!(value::<i64>(&owner, &slices("t")).await >= 3);
    assert!(value::<i64>(&owner, &slices("parts")).await >= 3);
    assert_eq!(value::<i64>(&owner, &slices("alone")).await, 1, "the only slice was split");
    assert!(
        value::<bool>(&owner, "select count(*) = 0 from backfill.events where name = 'alone' and kind = 'split'").await
    );
    assert!(value::<bool>(&owner, "select bool_and(message like 'slice % was split: slice % is its second half') from backfill.events where kind = 'split'").await);
}

/// The test splits a slice without the knowledge of its holder. The split invalidates the holder's
/// token, so a second split with this token is refused. Each row is still changed exactly once.
#[tokio::test]
async fn a_holder_unaware_of_a_split_is_fenced_and_a_repeated_split_is_one() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, n int not null default 0); insert into t select generate_series(1, 20000);
        select backfill.enqueue('t', 't', 'n = n + 1', options => '{\"max_rows_per_second\": 2000, \"max_batch_rows\": 20}')").await;
    let daemon = daemon_with(&cluster, EAGER).await;
    until_true(&owner, SOON, "select coalesce((select rows_scanned > 200 from backfill.slices), false)").await;
    // Split the slice with the call and the token that the holder would use.
    let split = "select backfill._split(s.id, l.token, array['15000'], 5000) from backfill.slice s join backfill.lease l on l.slice_id = s.id where s.kind = 'walk' and s.ordinal = 0";
    let token: String = value(&owner, "select token::text from backfill.lease").await;
    let slice: i64 = value(&owner, "select slice_id from backfill.lease").await;
    run(&owner, split).await;
    let again = refused(&owner, &format!("select backfill._split({slice}, '{token}', array['12000'], 5000)")).await;
    assert_eq!(again.sqlstate, "BF006");
    run(&owner, "select backfill.tune('t', '{\"max_rows_per_second\": 100000}')").await;
    until_state(&cluster, "t", "succeeded", SOON).await;
    assert_eq!(outcome(&owner, "t").await, "succeeded 20000 20000 t");
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n <> 1").await, 0);
    assert_eq!(value::<String>(&owner, "select string_agg(concat_ws(' ', slice, lower::text, upper::text, rows_changed), ', ' order by slice) from backfill.slices").await,
        "0 {15000} 15000, 1 {15000} {20000} 5000");
    drop(daemon);
}

#[tokio::test]
async fn a_row_as_text_is_the_same_in_each_leaf_or_refused() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table p (id int primary key, n int, h text) partition by range (id);
         create table p1 partition of p for values from (0) to (10);
         create table q (like p including all) partition by range (id);
         create table q1 partition of q for values from (0) to (10);
         create table q2 (h text, n int, id int primary key); alter table q attach partition q2 default;
         insert into p select i, i, null from generate_series(0, 9) i; insert into q select i, i, null from generate_series(0, 20) i;
         select backfill.enqueue('p', 'p', 'h = md5(concat_ws('','', p::text))', 'h is null');
         select backfill.enqueue('q', 'q', 'h = md5(concat_ws('','', q::text))', 'h is null')",
    )
    .await;
    let _daemon = daemon_with(&cluster, EAGER).await;
    until_state(&cluster, "p", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from p where h <> md5(row(id, n, null::text)::text)").await, 0);
    until_true(&owner, SOON, "select state = 'failed' and error like '%public.q2%different columns or a different column order%' and hint like '%write the names of the columns%' from backfill.jobs where name = 'q'").await;
    assert_eq!(value::<i64>(&owner, "select count(*) from q where h is not null").await, 0);
}
