//! `make bench-rollout`: measures how long the statements of a rollout hold locks that block the
//! application. The rollout adds a column with an index, a check, a not-null constraint and a
//! foreign key. The backfill runs without throttle. During the first run, the server is otherwise
//! idle. In the second run, an application writes to the table, reports read it in transactions of
//! several seconds, and autovacuum runs. See benches/README.md for the method and one run.
//!
//!     ROWS=n      rows of the table (10,000,000)
//!     ONLY=a,b    only these runs: idle, busy

#![allow(
    clippy::disallowed_methods,
    reason = "a test may panic on an unexpected row; tests/layering forbids the other methods"
)]
#![allow(clippy::unwrap_used, reason = "a measurement that fails may panic")]
#![allow(clippy::print_stdout, reason = "that is what it is for")]

#[path = "../server.rs"]
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backfilld_testbed::cluster::Cluster;
use tokio::time::Instant;
use tokio_postgres::Client;

use server::{cluster, daemon, number, wanted};

/// Goal: no ACCESS EXCLUSIVE lock is held for longer than this, in seconds.
const GOAL: f64 = 0.05;

const TABLE: &str = "
create table public.customers (id int primary key);
insert into public.customers select generate_series(0, 999);
create table public.orders (id bigint generated always as identity primary key, total numeric(10, 2) not null, customer int not null, note text);
insert into public.orders (total, customer, note) select n % 10000 / 100.0, n % 1000, 'note ' || n from generate_series(1, ROWS) n;
alter table public.customers owner to owner;
alter table public.orders owner to owner;
vacuum analyze public.orders";

const SPEC: &str = r#"{"rollout": "NAME", "table": "public.orders", "until": "constrained", "backfill": {"throttle": "off"},
    "add_column": {"name": "NAME", "type": "int", "using": "(customer + 1) % 1000", "not_null": true, "check": "NAME >= 0",
                   "index": true, "references": "public.customers (id)"}}"#;

#[tokio::main]
async fn main() {
    let cluster = cluster().await;
    let rows = number("ROWS", 10_000_000);
    for statement in TABLE.replace("ROWS", &rows.to_string()).split(";\n") {
        cluster.sql("postgres", "app", statement).await;
    }
    let _daemon = daemon(&cluster).await;
    let version: String = cluster.value("postgres", "app", "select current_setting('server_version')").await;
    println!("PostgreSQL {version}, {rows} rows\n");
    println!(
        "| | seconds | longest ACCESS EXCLUSIVE lock, ms | other locks that block writes, ms | attempts | longest statement of the application, ms |"
    );
    println!("|---|---|---|---|---|---|");
    if wanted("idle") {
        run(&cluster, "idle", None).await;
    }
    if wanted("busy") {
        cluster.sql("postgres", "app", "alter system set autovacuum_naptime = '1s'").await;
        cluster.sql("postgres", "app", "select pg_reload_conf()").await;
        let vacuum = "alter table public.orders set (autovacuum_vacuum_threshold = 100, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 20, autovacuum_vacuum_cost_limit = 100)";
        cluster.sql("postgres", "app", vacuum).await;
        let stop = Arc::new(AtomicBool::new(false));
        let application = tokio::spawn(application(cluster.owner().await, rows, stop.clone()));
        let reports = tokio::spawn(reports(cluster.owner().await, stop.clone()));
        run(&cluster, "busy", Some((stop, application))).await;
        reports.await.unwrap();
    }
}

/// Runs a rollout up to stage `constrained`, shows its longest locks, and rolls it back.
async fn run(cluster: &Cluster, name: &str, busy: Option<(Arc<AtomicBool>, tokio::task::JoinHandle<f64>)>) {
    let owner = cluster.owner().await;
    let started = Instant::now();
    owner.execute("select backfill.rollout_start($1::text::jsonb)", &[&SPEC.replace("NAME", name)]).await.unwrap();
    until(&owner, name, "waiting").await;
    let seconds = started.elapsed().as_secs_f64();
    const LOCKS: &str = "
select coalesce(max(extract(epoch from held + committed)) filter (where lock = 'ACCESS EXCLUSIVE'), 0)::float8,
       coalesce(max(extract(epoch from held + committed)) filter (where lock <> 'ACCESS EXCLUSIVE'), 0)::float8, sum(attempts)
  from backfill.rollout_statements where name = $1";
    let row = owner.query_one(LOCKS, &[&name]).await.unwrap();
    let (exclusive, other, attempts): (f64, f64, i64) = (row.get(0), row.get(1), row.get(2));
    let felt = match busy {
        Some((stop, application)) => {
            stop.store(true, Ordering::SeqCst);
            format!("{:.1}", application.await.unwrap() * 1000.0)
        }
        None => String::new(),
    };
    println!(
        "| {name} | {seconds:.0} | {:.1} (goal {:.0}) | {:.1} | {attempts} | {felt} |",
        exclusive * 1000.0,
        GOAL * 1000.0,
        other * 1000.0
    );
    owner.execute("select backfill.rollout_rollback($1)", &[&name]).await.unwrap();
    until(&owner, name, "rolled_back").await;
}

/// Waits until the rollout has reached a state.
async fn until(owner: &Client, name: &str, state: &str) {
    loop {
        let row =
            owner.query_one("select state, error from backfill.rollouts where name = $1", &[&name]).await.unwrap();
        match row.get::<_, String>(0).as_str() {
            reached if reached == state => break,
            "failed" => panic!("{:?}", row.get::<_, Option<String>>(1)),
            _ => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

/// Changes and inserts rows, and returns the duration of the longest statement in seconds.
async fn application(client: Client, rows: i64, stop: Arc<AtomicBool>) -> f64 {
    let update = client.prepare("update public.orders set total = total + 1 where id = $1").await.unwrap();
    let insert = client.prepare("insert into public.orders (total, customer) values (1, $1)").await.unwrap();
    let (mut longest, mut n) = (0.0_f64, 0_i64);
    while !stop.load(Ordering::SeqCst) {
        n += 1;
        let started = Instant::now();
        if n % 2 == 0 {
            client.execute(&update, &[&(n * 7919 % rows + 1)]).await.unwrap();
        } else {
            client.execute(&insert, &[&i32::try_from(n % 1000).unwrap()]).await.unwrap();
        }
        longest = longest.max(started.elapsed().as_secs_f64());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    longest
}

/// Reads the table in transactions of four seconds, with half a second between two of them.
async fn reports(client: Client, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::SeqCst) {
        client
            .batch_execute("begin; select count(*) from public.orders where id < 100000; select pg_sleep(4); commit")
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
