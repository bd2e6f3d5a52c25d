//! Tests that each statement of a rollout takes the lock that the plan names, waits for it in short
//! attempts, and holds it only for a moment.

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::wait;
use tokio_postgres::Client;

use crate::support::{SOON, installed, run, until_true, value};

use super::{TABLE, daemon, spec, start, until_rollout};

/// A report (a long read transaction) holds a lock on the table. While the report runs, the rollout
/// does not request a lock that would block the application. Its waiting text names the report's
/// session. A daemon that waits can be stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_does_not_wait_for_its_lock_behind_a_report() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let report = cluster.owner().await;
    let pid: i32 = value(&report, "select pg_backend_pid()").await;
    run(&report, "begin; select count(*) from orders").await;
    let first = daemon(&cluster).start();
    start(&owner, &spec("expanded")).await;
    until_rollout(
        &owner,
        "cents",
        &format!("waiting_reason = 'lock' and waiting_text like '%process {pid} of role owner%'"),
    )
    .await;
    wait::until(SOON, "three attempts", async || {
        let waiting = "select count(*) from pg_locks where not granted and relation = 'orders'::regclass";
        assert_eq!(value::<i64>(&owner, waiting).await, 0);
        value::<bool>(&owner, "select attempts > 2 from backfill.rollout_statements").await
    })
    .await;
    first.sigterm();
    first.wait_exit(SOON).await;
    let _daemon = daemon(&cluster).start();
    run(&report, "commit").await;
    until_rollout(&owner, "cents", "stage = 'expanded'").await;
}

/// Each statement takes exactly the lock that the plan names, and rewrites no table.
/// docs/rollouts.md lists the same locks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_statement_takes_the_lock_that_the_plan_names() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let all = r#"{"rollout": "all", "table": "orders", "until": "planned",
        "add_column": {"name": "c", "type": "int", "using": "customer + 0", "not_null": true, "check": "c >= 0",
                       "references": "customers (id)", "index": true}}"#;
    let volatile = r#"{"rollout": "volatile", "table": "orders", "until": "planned",
        "add_column": {"name": "u", "type": "uuid", "default": "gen_random_uuid()", "unique": true}}"#;
    let mut seen = 0;
    for (name, spec) in [("all", all), ("volatile", volatile)] {
        start(&owner, spec).await;
        let steps = format!(
            "select s.sql, s.lock, s.alone, s.undo_sql, s.stage from backfill.rollout r, backfill._rollout_steps(r.spec, r.settings) s where r.name = '{name}'"
        );
        let steps = owner.query(&steps, &[]).await.unwrap();
        let mut undone = Vec::new();
        let mut filled = false;
        for step in &steps {
            let (sql, lock, alone, undo, stage): (String, String, bool, Option<String>, String) =
                (step.get(0), step.get(1), step.get(2), step.get(3), step.get(4));
            if stage == "constrained" && !filled {
                run(
                    &owner,
                    "do $$ begin update orders set c = coalesce(customer, 0); exception when undefined_column then null; end $$",
                )
                .await;
                filled = true;
            }
            assert_eq!(strongest(&cluster, &owner, &sql, alone).await, lock, "{sql}");
            undone.extend(undo.filter(|_| stage != "switched"));
            seen += 1;
        }
        if name == "volatile" {
            for undo in undone.iter().rev() {
                let lock = strongest(&cluster, &owner, undo, undo.contains("concurrently")).await;
                assert!(
                    ["ACCESS EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "none"].contains(&lock.as_str()),
                    "{undo}: {lock}"
                );
            }
        }
    }
    assert!(seen > 15, "{seen} statements");
    // A report that began earlier delays the creation of an index. While the statement waits for
    // the report, its lock can be read from pg_locks.
    let report = cluster.owner().await;
    run(&report, "begin isolation level repeatable read; select count(*) from orders").await;
    let creating = cluster.owner().await;
    let creating = tokio::spawn(async move { run(&creating, "create index concurrently late on orders (note)").await });
    let locks = "select coalesce(max(mode), '') = 'ShareUpdateExclusiveLock' from pg_locks l join pg_stat_activity a using (pid) where l.relation = 'orders'::regclass and a.query like 'create index concurrently%' and a.pid <> pg_backend_pid()";
    until_true(&owner, SOON, locks).await;
    run(&report, "commit").await;
    creating.await.unwrap();
}

/// Runs a statement, and returns its strongest lock on the two tables. Fails if a table was
/// rewritten.
async fn strongest(cluster: &Cluster, owner: &Client, sql: &str, alone: bool) -> String {
    const FILES: &str = "select pg_relation_filenode('orders') || ' ' || pg_relation_filenode('customers')";
    let before: String = value(owner, FILES).await;
    let client = cluster.owner().await;
    if alone {
        run(&client, sql).await;
        return "SHARE UPDATE EXCLUSIVE".to_owned();
    }
    run(&client, "begin").await;
    run(&client, sql).await;
    let modes = "select coalesce(array_agg(distinct mode), '{}') from pg_locks where pid = pg_backend_pid() and relation in ('orders'::regclass, 'customers'::regclass)";
    let modes: Vec<String> = value(&client, modes).await;
    let after: String = value(&client, FILES).await;
    assert_eq!(after, before, "{sql} rewrites a table");
    run(&client, "commit").await;
    let named = [
        ("AccessExclusiveLock", "ACCESS EXCLUSIVE"),
        ("ExclusiveLock", "EXCLUSIVE"),
        ("ShareRowExclusiveLock", "SHARE ROW EXCLUSIVE"),
        ("ShareLock", "SHARE"),
        ("ShareUpdateExclusiveLock", "SHARE UPDATE EXCLUSIVE"),
    ];
    let found = named.iter().find(|(mode, _)| modes.iter().any(|held| held == mode));
    found.map_or("none", |(_, name)| name).to_owned()
}

/// An autovacuum of the table holds a conflicting lock for minutes. The rollout first waits for
/// SHARE UPDATE EXCLUSIVE, which blocks no writes, until the server cancels the autovacuum (P18).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_gets_its_lock_behind_an_autovacuum() {
    let cluster = installed(Options::default().set("autovacuum", "on").set("autovacuum_naptime", "1s")).await;
    cluster.sql("owner", "app", TABLE).await;
    cluster.sql("owner", "app", "delete from orders where id % 2 = 0").await;
    let owner = cluster.owner().await;
    run(&owner, "alter table orders set (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1, autovacuum_analyze_threshold = 1000000000)").await;
    let superuser = cluster.superuser("app").await;
    let vacuumed = "select exists (select from pg_stat_progress_vacuum where relid = 'orders'::regclass)";
    until_true(&superuser, SOON, vacuumed).await;
    start(&owner, &spec("expanded")).await;
    let _daemon = daemon(&cluster).start();
    until_rollout(&owner, "cents", "stage = 'expanded'").await;
    assert!(cluster.log().contains("canceling autovacuum task"), "no autovacuum was cancelled");
}
