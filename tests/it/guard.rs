//! Tests of the guard: if a long batch blocks a session, the session waits only briefly, and the
//! batch is retried with fewer rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backfilld::config::database::Database;
use backfilld::config::secret::SecretUrl;
use backfilld::error::Kind;
use backfilld::execute::guard::Guard;
use backfilld::pg::pools::Logins;
use backfilld::worker::error_policy::action;
use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::wait;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::proof::metric;
use crate::support::{SOON, daemon, installed, run, sql, until_state, until_true, value};

/// Each row takes 2 ms, so a batch of 200 rows holds its row locks for about 400 ms.
const TABLE: &str = "create table t (id int primary key, n int not null default 0, used int not null default 0);
    insert into t select generate_series(1, 1200);
    create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.002); return null; end $$;
    create trigger slow after update of n on t for each row execute function slow()";

fn enqueue(more: &str) -> String {
    format!(
        r#"select backfill.enqueue('j', 't', 'n = n + 1', options => '{{"target_batch_ms": 400, "max_batch_rows": 200, "slices": 1{more}}}')"#
    )
}

/// Updates rows all over the table, one at a time, until `over` is set. Returns the number of
/// updates and the duration of each.
async fn application(client: Client, seed: i32, over: Arc<AtomicBool>) -> (i64, Vec<Duration>) {
    let mut waits = Vec::new();
    let mut updates = 0;
    let mut row = seed;
    while !over.load(Ordering::SeqCst) {
        row = (row + 137) % 1200;
        let began = Instant::now();
        client.execute("update t set used = used + 1 where id = $1", &[&(row + 1)]).await.unwrap();
        waits.push(began.elapsed());
        updates += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    (updates, waits)
}

/// Returns the durations of the updates of four sessions while the job runs, in ascending order.
async fn waits_during(cluster: &Cluster, options: &str) -> Vec<Duration> {
    let over = Arc::new(AtomicBool::new(false));
    let mut sessions = tokio::task::JoinSet::new();
    for seed in 0..4 {
        sessions.spawn(application(cluster.owner().await, seed * 300, Arc::clone(&over)));
    }
    sql(cluster, &enqueue(options)).await;
    until_state(cluster, "j", "succeeded", SOON * 2).await;
    over.store(true, Ordering::SeqCst);
    let (mut updates, mut waits) = (0, Vec::new());
    while let Some(session) = sessions.join_next().await {
        let (made, waited) = session.unwrap();
        updates += made;
        waits.extend(waited);
    }
    let owner = cluster.owner().await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n <> 1").await, 0);
    assert_eq!(value::<i64>(&owner, "select sum(used) from t").await, updates, "an update was lost");
    waits.sort_unstable();
    waits
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_waits_long_behind_a_long_batch() {
    let cluster = installed(Options::default()).await;
    sql(&cluster, TABLE).await;
    let daemon = daemon(&cluster).await;
    let guarded = waits_during(&cluster, "").await;
    let page = daemon.get("/metrics").await.unwrap().1;
    let yields = page.lines().find_map(|line| line.strip_prefix("backfilld_guard_yields_total{database=\"main\"} "));
    assert!(yields.is_some_and(|yields| yields.parse::<u64>().unwrap() > 0), "{page}");
    assert!(page.contains("outcome=\"yielded\""), "{page}");
    assert!(daemon.output().contains(action(Kind::Yielded).1), "{}", daemon.output());

    // Without the guard, the same application waits for whole batches.
    sql(&cluster, "select backfill.forget('j'); update t set n = 0, used = 0").await;
    let unguarded = waits_during(&cluster, r#", "max_victim_wait_ms": 60000"#).await;
    let longest = |waits: &[Duration]| *waits.last().unwrap();
    assert!(longest(&unguarded) > Duration::from_millis(250), "{:?}", longest(&unguarded));
    // The test compares the two runs with each other, because a busy machine lengthens the waits in
    // both. For each run, it adds up the time by which each wait exceeded 150 ms, and divides the
    // sum by the number of waits, because an application whose waits are shorter completes more
    // updates and therefore waits more often.
    let lost = |waits: &[Duration]| -> f64 {
        let sum: Duration = waits.iter().map(|wait| wait.saturating_sub(Duration::from_millis(150))).sum();
        sum.as_secs_f64() / waits.len() as f64
    };
    let (with, without) = (lost(&guarded), lost(&unguarded));
    assert!(
        with * 5.0 < without,
        "{with} s in each of {} waits, without the guard {without} s in each of {}",
        guarded.len(),
        unguarded.len()
    );
}

#[tokio::test]
async fn ddl_gets_its_lock_at_once() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let daemon = daemon(&cluster).await;
    run(&owner, &enqueue("")).await;
    until_true(&owner, SOON, "select rows_changed > 0 from backfill.jobs").await;
    // No other session is active, so batches yield only to the DDL statements below. A batch that
    // yields is cancelled long before it has slept for 400 ms.
    let yields = async || metric(&daemon, "backfilld_guard_yields_total", &[]).await;
    run(&owner, "create index concurrently on t (used)").await;
    wait::until(SOON, "a batch yields to an ALTER TABLE", async || {
        run(&owner, "alter table t add column x int").await;
        run(&owner, "alter table t drop column x").await;
        yields().await > 0.5
    })
    .await;
    assert!(value::<bool>(&owner, "select state = 'running' from backfill.jobs").await, "the job finished too soon");
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n <> 1").await, 0);
}

/// PostgreSQL's planner locks the table too. While the planner evaluates a constant filter, it
/// holds the lock, possibly for a long time.
#[tokio::test]
async fn ddl_does_not_wait_for_planning() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, n int not null default 0); insert into t values (1);
         create function slow_one(n int) returns bool language plpgsql immutable as $$ begin
           if current_setting('application_name') like 'backfilld%' then perform pg_sleep(600); end if; return n = 0; end $$",
    )
    .await;
    run(&owner, "select backfill.enqueue('j', 't', 'n = n + 1', filter => 'slow_one(0)')").await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select count(*) > 0 from pg_stat_activity a join pg_locks l using (pid) where a.application_name like 'backfilld%' and l.relation = 't'::regclass").await;
    // The planner evaluates the filter, which sleeps for 10 minutes.
    let altered = tokio::time::timeout(SOON, run(&owner, "alter table t add column x int")).await;
    assert!(altered.is_ok(), "the ALTER TABLE still waits for the planner");
    run(&owner, "create or replace function slow_one(n int) returns bool language sql immutable as 'select n = 0'")
        .await;
    until_state(&cluster, "j", "succeeded", SOON * 2).await;
    assert_eq!(value::<i32>(&owner, "select n from t").await, 1);
}

/// Changing one row takes longer than `max_victim_wait_ms`, and two other sessions update this row
/// continuously.
#[tokio::test]
async fn a_slow_hot_row_is_retried_when_no_session_waits() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, n int not null default 0, used int not null default 0);
         insert into t select generate_series(1, 1000);
         create function heavy() returns trigger language plpgsql as $$ begin
           if new.id = 500 and new.n <> old.n then perform pg_sleep(0.3); end if; return null; end $$;
         create trigger heavy after update on t for each row execute function heavy()",
    )
    .await;
    let over = Arc::new(AtomicBool::new(false));
    let mut sessions = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let (client, over) = (cluster.owner().await, Arc::clone(&over));
        sessions.spawn(async move {
            while !over.load(Ordering::SeqCst) {
                client.execute("update t set used = used + 1 where id = 500", &[]).await.unwrap();
            }
        });
    }
    let _daemon = daemon(&cluster).await;
    run(&owner, "select backfill.enqueue('j', 't', 'n = n + 1')").await;
    // All other rows are done, and the daemon still retries the hot row.
    wait::until(SOON, "the other rows are done", async || {
        value::<i64>(&owner, "select count(*) from t where n <> 1").await == 1
    })
    .await;
    assert_eq!(value::<i32>(&owner, "select id from t where n = 0").await, 500);
    assert!(value::<bool>(&owner, "select finished_at is null from backfill.jobs").await);
    over.store(true, Ordering::SeqCst);
    sessions.join_all().await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n <> 1").await, 0);
}

/// The second waiter on a row waits for the first waiter. A third session waits for a lock that the
/// first waiter holds. The guard must count all three sessions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_tree_of_waiting_sessions_is_seen() {
    let cluster = Cluster::with_owner(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, n int); insert into t values (1, 0), (2, 0), (3, 0)").await;
    let guard = Guard::new("main".to_owned());
    let stop = CancellationToken::new();
    let url = SecretUrl::new(cluster.owner_url());
    let logins = Logins::new(Database { url: Some(url), ..Database::default() });
    let keeping = tokio::spawn(guard.clone().keep(logins, stop.clone()));

    let pid: i32 = value(&owner, "select pg_backend_pid()").await;
    run(&owner, "begin; update t set n = 1 where id = 1").await;
    // The guard also watches the session `other`. This session does not block any other session.
    let other = cluster.owner().await;
    let mut idle =
        guard.watch(value(&other, "select pg_backend_pid()").await, Duration::from_millis(50), Duration::MAX);
    let mut watched = guard.watch(pid, Duration::from_millis(400), Duration::MAX);
    let mut waiting = tokio::task::JoinSet::new();
    for script in [
        "begin; update t set n = 2 where id = 2; update t set n = 2 where id = 1; commit",
        "update t set n = 3 where id = 1",
        "update t set n = 4 where id = 2",
    ] {
        let client = cluster.owner().await;
        waiting.spawn(async move { client.batch_execute(script).await.unwrap() });
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let victims = tokio::time::timeout(SOON, watched.in_the_way()).await.expect("victims are reported");
    assert_eq!(victims.sessions, 3);
    assert!(victims.waited.as_millis() >= 400, "{victims:?}");
    assert!(tokio::time::timeout(Duration::from_millis(1), idle.in_the_way()).await.is_err());
    run(&owner, "rollback").await;
    waiting.join_all().await;
    stop.cancel();
    keeping.await.unwrap();
}
