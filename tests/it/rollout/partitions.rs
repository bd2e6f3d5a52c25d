//! Rollouts of partitioned tables (P30).

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::wait;
use tokio_postgres::Client;

use crate::support::{SOON, installed, refused, run, until_true, value};

use super::{daemon, fingerprint, start, until_rollout};

/// Two levels of partitions. In one partition, the columns have another order.
const PARTITIONED: &str = "
create table customers (id int primary key);
insert into customers select generate_series(0, 9);
create table orders (id bigint not null, total numeric(10, 2), customer int, primary key (id)) partition by range (id);
create table orders_1 partition of orders for values from (0) to (1000);
create table orders_2 partition of orders for values from (1000) to (3000) partition by range (id);
create table orders_2a partition of orders_2 for values from (1000) to (2000);
create table orders_2b (customer int, gone text, total numeric(10, 2), id bigint not null, primary key (id));
alter table orders_2b drop column gone;
alter table orders_2 attach partition orders_2b for values from (2000) to (3000);
insert into orders select g, g / 100.0, g % 10 from generate_series(0, 2999) g;";

fn spec(until: &str) -> String {
    format!(
        r#"{{"rollout": "cents", "table": "orders",
            "add_column": {{"name": "total_cents", "type": "int", "using": "round(total * 100)::int % 10", "not_null": true,
                            "check": "total_cents >= 0", "index": true, "references": "customers (id)"}}, "until": "{until}"}}"#
    )
}

const DIFFERENT: &str = "select count(*) from orders where total_cents is distinct from round(total * 100)::int % 10";

async fn set() -> (Cluster, Client) {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, PARTITIONED).await;
    (cluster, owner)
}

/// While the rollout runs, one partition is created, another is attached, and a third is detached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_of_a_partitioned_table_goes_from_plan_to_contract() {
    let (cluster, owner) = set().await;
    let _daemon = daemon(&cluster).start();
    start(&owner, &spec("syncing")).await;
    until_rollout(&owner, "cents", "stage = 'syncing' and state = 'waiting'").await;
    run(
        &owner,
        "create table orders_3 partition of orders for values from (3000) to (4000);
                 insert into orders select g, g / 100.0, g % 10 from generate_series(3000, 3499) g",
    )
    .await;
    assert_eq!(value::<i64>(&owner, "select count(*) from orders where id >= 3000 and total_cents is null").await, 0);
    for stage in ["backfilled", "verified"] {
        run(&owner, "select backfill.rollout_advance('cents')").await;
        until_rollout(&owner, "cents", &format!("stage = '{stage}' and state = 'waiting'")).await;
        assert_eq!(value::<i64>(&owner, DIFFERENT).await, 0);
    }
    run(
        &owner,
        "create table orders_4 (like orders including all);
                 insert into orders_4 select g, g / 100.0, g % 10, g % 10 from generate_series(4000, 4099) g;
                 alter table orders attach partition orders_4 for values from (4000) to (5000);
                 alter table orders detach partition orders_1",
    )
    .await;
    run(&owner, "select backfill.rollout_advance('cents')").await;
    until_rollout(&owner, "cents", "stage = 'constrained' and state = 'waiting'").await;
    let valid = "select count(*) || ' ' || bool_and(indisvalid) from pg_partition_tree('orders_total_cents_idx') t join pg_index i on i.indexrelid = t.relid";
    assert_eq!(value::<String>(&owner, valid).await, "6 true");
    let keys = "select count(*) || ' ' || bool_and(convalidated) from pg_constraint k where k.contype = 'f' and k.conrelid in (select relid from pg_partition_tree('orders'))";
    assert_eq!(value::<String>(&owner, keys).await, "6 true");
    let not_null = "select bool_and(attnotnull) from pg_attribute where attname = 'total_cents' and attrelid in (select relid from pg_partition_tree('orders'))";
    assert!(value::<bool>(&owner, not_null).await);
    for stage in ["switched", "contracted"] {
        run(&owner, "select backfill.rollout_advance('cents')").await;
        until_rollout(&owner, "cents", &format!("stage = '{stage}'")).await;
    }
    assert_eq!(
        value::<i64>(
            &owner,
            "select count(*) from pg_trigger where tgname like 'zzz%' and tgrelid <> 'orders_1'::regclass"
        )
        .await,
        0
    );
    assert_eq!(value::<i64>(&owner, DIFFERENT).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_of_a_partitioned_table_restores_all_partitions() {
    let (cluster, owner) = set().await;
    let before = fingerprint(&owner).await;
    assert!(before.contains("partition public.orders_2b | column total"), "{before}");
    let _daemon = daemon(&cluster).start();
    for stage in ["syncing", "constrained", "switched"] {
        start(&owner, &spec(stage)).await;
        until_rollout(&owner, "cents", &format!("stage = '{stage}' and state = 'waiting'")).await;
        run(&owner, "select backfill.rollout_rollback('cents')").await;
        until_rollout(&owner, "cents", "state = 'rolled_back'").await;
        assert_eq!(value::<Option<String>>(&owner, "select hint from backfill.rollouts").await, None);
        assert_eq!(fingerprint(&owner).await, before, "{stage}");
    }
    assert_eq!(value::<i64>(&owner, "select count(*) from pg_proc where proname like 'zzz%'").await, 0);
}

/// A daemon is killed at each statement. The rollout is rolled back twice: after its constraints
/// exist, and while its indexes are being created.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_of_a_partitioned_table_survives_kills() {
    let (cluster, owner) = set().await;
    let before = fingerprint(&owner).await;
    for goal in [
        "stage = 'constrained'",
        "stage = 'verified' and exists (select from pg_class where relname like 'orders_2a_total_cents%idx')",
    ] {
        start(&owner, &spec("constrained")).await;
        let reached = format!("select coalesce(bool_or({goal}), false) from backfill.rollouts");
        let mut kills = 0;
        while !value::<bool>(&owner, &reached).await {
            let point = ["rollout_claimed", "rollout_statement_ended", "rollout_before_record"][kills % 3];
            let killed = daemon(&cluster).env("BACKFILLD_FAILPOINT", format!("{point}=abort")).start();
            wait::until(SOON * 2, "the daemon is killed, or the goal is reached", async || {
                killed.ended().is_some() || value::<bool>(&owner, &reached).await
            })
            .await;
            kills += 1;
            let expire = "update backfill.rollout set expires_at = now() - interval '1 s' where expires_at is not null";
            run(&owner, expire).await;
        }
        assert!(kills >= 4, "{kills} kills");
        let _daemon = daemon(&cluster).start();
        run(&owner, "select backfill.rollout_rollback('cents')").await;
        until_rollout(&owner, "cents", "state = 'rolled_back'").await;
        assert_eq!(fingerprint(&owner).await, before, "{goal}");
        run(&owner, "select backfill.forget(name) from backfill.jobs").await;
    }
}

/// A row of one partition violates the foreign key. The foreign keys of all partitions are dropped,
/// because they would refuse rows that the application writes. The rollout continues afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_key_that_a_row_violates_is_dropped_from_all_partitions() {
    let (cluster, owner) = set().await;
    // The owner of orders cannot read the referenced table, so only the validation finds the row.
    let superuser = cluster.superuser("app").await;
    run(&superuser, "delete from customers where id = 7; alter table customers owner to postgres; grant references on customers to owner").await;
    let _daemon = daemon(&cluster).start();
    start(&owner, &spec("constrained")).await;
    for _ in 0..2 {
        until_rollout(
            &owner,
            "cents",
            "state = 'failed' and hint like '%To list rows that violate it: select * from %customers%'",
        )
        .await;
        assert_eq!(
            value::<i64>(
                &owner,
                "select count(*) from pg_constraint where contype = 'f' and connamespace = 'public'::regnamespace"
            )
            .await,
            0
        );
        run(
            &owner,
            "insert into orders values ((select max(id) + 1 from orders where id < 1000), 7, 7) on conflict do nothing",
        )
        .await;
        run(&owner, "select backfill.rollout_resume('cents')").await;
    }
    until_rollout(&owner, "cents", "state = 'failed'").await;
    run(&superuser, "insert into customers values (7)").await;
    run(&owner, "select backfill.rollout_resume('cents')").await;
    until_rollout(&owner, "cents", "stage = 'constrained' and state = 'waiting'").await;
    // A partition that was detached keeps the column.
    run(&owner, "alter table orders detach partition orders_1; select backfill.rollout_rollback('cents')").await;
    until_rollout(
        &owner,
        "cents",
        "state = 'rolled_back' and hint like '%alter table public.orders_1 drop column total_cents%'",
    )
    .await;
}

/// A statement on one partition waits for a lock on this partition only, and does not block the
/// application while it waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_on_one_partition_is_waited_for() {
    let (cluster, owner) = set().await;
    let report = cluster.owner().await;
    let pid: i32 = value(&report, "select pg_backend_pid()").await;
    run(&report, "begin; select count(*) from orders_2a").await;
    let _daemon = daemon(&cluster).start();
    start(&owner, &spec("expanded")).await;
    until_rollout(&owner, "cents", "waiting_reason = 'lock'").await;
    until_true(&owner, SOON, "select attempts > 2 from backfill.rollout_statements").await;
    let application = cluster.owner().await;
    run(&application, "set lock_timeout = '1s'; insert into orders values (3, 1, 1) on conflict do nothing").await;
    let told: String = value(&owner, "select waiting_text from backfill.rollouts").await;
    assert!(told.contains(&format!("process {pid} of role owner")), "{told}");
    run(&report, "commit").await;
    until_rollout(&owner, "cents", "stage = 'expanded'").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_possible_for_a_partitioned_table_is_refused() {
    let (cluster, owner) = set().await;
    run(
        &owner,
        "create function f() returns trigger language plpgsql as 'begin return null; end';
                 create table parent (id int primary key); create table child () inherits (parent)",
    )
    .await;
    let add = |table: &str, rest: &str| {
        format!(
            r#"select backfill.rollout_start('{{"rollout": "x", "table": "{table}", "add_column": {{"name": "c", "type": "int", "using": "1"{rest}}}}}')"#
        )
    };
    for (sql, told) in [
        (add("orders", r#", "unique": true"#), "alone cannot be unique"),
        (add("orders_2b", ""), "is a partition or a child"),
        (add("child", ""), "is a partition or a child"),
        (add("parent", ""), "has children"),
    ] {
        let error = refused(&owner, &sql).await;
        assert!(error.message.contains(told), "{sql}: {}", error.message);
        assert!(error.hint.is_some() && error.detail.is_some(), "{sql}");
    }
    run(&owner, "create trigger audit after update on orders for each statement execute function f()").await;
    let error = refused(&owner, &add("orders", "")).await;
    assert!(error.message.contains("statement-level triggers"), "{}", error.message);
    run(&owner, "drop trigger audit on orders").await;
    cluster.sql("postgres", "app", "alter table orders_2a owner to postgres").await;
    let error = refused(&owner, &add("orders", "")).await;
    assert!(error.message.contains("have another owner: public.orders_2a"), "{}", error.message);
}
