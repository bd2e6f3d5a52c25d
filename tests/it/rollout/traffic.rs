//! The application runs during a rollout, and during a rollback from each stage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backfilld_testbed::cluster::{Cluster, Options};
use tokio_postgres::Client;

use crate::support::{installed, refused, run, value};

use super::{DIFFERENT, STAGES, TABLE, daemon, fingerprint, spec, start, until_rollout};

/// The version of the application code that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    /// Does not use the new column.
    Old,
    /// Reads the new column, and writes the old and the new columns.
    Both,
    /// No longer uses the old columns.
    New,
}

/// Runs the application until `stop`, and returns the number of its statements. Each statement must
/// succeed, and may wait for a lock for at most a second.
async fn application(client: Client, code: Code, stop: Arc<AtomicBool>) -> u64 {
    run(&client, "set statement_timeout = '30s'; set lock_timeout = '1s'").await;
    let mut statements = 0;
    let mut n = 0_i64;
    while !stop.load(Ordering::SeqCst) {
        n += 1;
        let sql = match (code, n % 4) {
            (Code::Old, 0) => {
                format!("insert into orders (total, note, customer) values ({n} / 100.0, 'new', {n} % 10)")
            }
            (Code::Both, 0) => {
                format!("insert into orders (total, total_cents, note) values ({n} / 100.0, {n}, 'new')")
            }
            (Code::New, 0) => format!("insert into orders (total_cents, note) values ({n}, 'newest')"),
            (Code::Old, 1) => format!("update orders set total = total + 1 where id = {n} * 7 % 5000 + 1"),
            (Code::Both, 1) => format!(
                "update orders set total = total + 1, total_cents = total_cents + 100 where id = {n} * 11 % 5000 + 1"
            ),
            (Code::New, 1) => format!(
                "update orders set total_cents = {n} where id = {n} * 17 % 5000 + 1 returning 1 / (total_cents = {n})::int"
            ),
            // A trigger of the table changes `total`, although the statement does not assign it.
            (Code::Old | Code::Both, 2) => format!("update orders set note = 'touched' where id = {n} * 13 % 5000 + 1"),
            (Code::New, 2) => "select 1 / (count(*) = count(total_cents))::int from orders where id < 500".to_owned(),
            // Fails with a division by zero if the two columns of a row that the other code wrote
            // do not agree.
            (Code::Both, _) => {
                "select 1 / (count(*) = 0)::int from orders where total_cents <> round(total * 100)".to_owned()
            }
            (Code::Old, _) => {
                "delete from orders where id = (select max(id) from orders where note = 'new')".to_owned()
            }
            (Code::New, _) => {
                "delete from orders where id = (select max(id) from orders where note = 'newest')".to_owned()
            }
        };
        if let Err(error) = client.batch_execute(&sql).await {
            panic!("{code:?}: {sql}: {error:?}");
        }
        statements += 1;
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    statements
}

/// Runs code of the application in a task.
struct Running {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<u64>,
}

impl Running {
    async fn start(cluster: &Cluster, code: Code) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(application(cluster.owner().await, code, stop.clone()));
        Self { stop, task }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        let statements = self.task.await.unwrap();
        assert!(statements > 20, "only {statements} statements");
    }
}

/// Old code runs alone, then old and new code side by side, then new code alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_goes_from_plan_to_contract_under_traffic() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let old = Running::start(&cluster, Code::Old).await;
    let _daemons = (daemon(&cluster).start(), daemon(&cluster).start());
    start(&owner, &spec("constrained")).await;
    until_rollout(&owner, "cents", "stage in ('backfilled', 'verified', 'constrained')").await;
    // From now on, the new column is correct in each row that the application writes.
    for _ in 0..20 {
        assert_eq!(value::<i64>(&owner, DIFFERENT).await, 0);
    }
    until_rollout(&owner, "cents", "stage = 'constrained' and state = 'waiting' and waiting_reason = 'advance'").await;
    assert_eq!(value::<i64>(&owner, DIFFERENT).await, 0);
    let made = "select string_agg(conname || ' ' || convalidated, ', ' order by conname) from pg_constraint where conrelid = 'orders'::regclass and contype = 'c'";
    assert_eq!(value::<String>(&owner, made).await, "orders_total_cents_check true");
    let not_null =
        "select attnotnull from pg_attribute where attrelid = 'orders'::regclass and attname = 'total_cents'";
    assert!(value::<bool>(&owner, not_null).await);
    let valid = "select indisvalid from pg_index where indexrelid = 'orders_total_cents_idx'::regclass";
    assert!(value::<bool>(&owner, valid).await);

    let both = Running::start(&cluster, Code::Both).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    run(&owner, "select backfill.rollout_advance('cents')").await;
    until_rollout(&owner, "cents", "stage = 'switched' and state = 'waiting'").await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(value::<i64>(&owner, DIFFERENT).await, 0);
    old.stop().await;
    both.stop().await;

    let new = Running::start(&cluster, Code::New).await;
    run(&owner, "insert into orders (total_cents, note) values (8, 'new code')").await;
    assert_eq!(value::<i64>(&owner, "select total_cents from orders where note = 'new code'").await, 8);
    // Old code may still run, for example in a pod that has not stopped yet. The trigger still sets
    // the new column in the rows that this code writes.
    run(&owner, "insert into orders (total, note) values (4, 'old code')").await;
    assert_eq!(value::<i64>(&owner, "select total_cents from orders where note = 'old code'").await, 400);
    run(&owner, "select backfill.rollout_advance('cents')").await;
    until_rollout(&owner, "cents", "stage = 'contracted' and state = 'done'").await;
    new.stop().await;
    assert_eq!(value::<i64>(&owner, "select count(*) from pg_trigger where tgname like 'zzz%'").await, 0);
    assert_eq!(value::<i64>(&owner, "select count(*) from pg_proc where proname like 'zzz%'").await, 0);
    let error = refused(&owner, "select backfill.rollout_rollback('cents')").await;
    assert!(error.message.contains("has ended"));
}

/// From each stage, a rollback leaves the schema and the rows as they were before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_from_each_stage_restores_the_schema() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let before = fingerprint(&owner).await;
    let old = Running::start(&cluster, Code::Old).await;
    let _daemon = daemon(&cluster).start();
    for stage in &STAGES[1..7] {
        start(&owner, &spec(stage)).await;
        until_rollout(&owner, "cents", &format!("stage = '{stage}' and state = 'waiting'")).await;
        run(&owner, "select backfill.rollout_rollback('cents')").await;
        until_rollout(&owner, "cents", "state = 'rolled_back'").await;
        assert_eq!(value::<Option<String>>(&owner, "select hint from backfill.rollouts").await, None);
        assert_eq!(fingerprint(&owner).await, before, "{stage}");
    }
    old.stop().await;
    assert_eq!(value::<i64>(&owner, "select count(*) from pg_proc where proname like 'zzz%'").await, 0);
}
