//! Tests the isolation of a job's expressions. They run with the settings of the session that
//! enqueued the job. Neither the session state that another job left nor concurrent writes of the
//! application affect them. Also tests that the daemon's sessions do not leave transactions open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backfilld_testbed::cluster::Options;
use backfilld_testbed::proxy::Proxy;
use backfilld_testbed::wait;
use tokio::task::JoinSet;

use crate::proof::{Dice, enqueue, exact, quick, table, until_more_batches};
use crate::support::{SOON, installed, sql, until_state};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_under_the_settings_of_its_enqueuer() {
    let cluster = installed(Options::default().set("TimeZone", "UTC")).await;
    sql(
        &cluster,
        "create schema one; create schema two;
         create function one.who() returns text language sql immutable as $$ select 'one'::text $$;
         create function two.who() returns text language sql immutable as $$ select 'two'::text $$;
         create table moments (at timestamptz primary key, day date, text_of text, who text);
         insert into moments (at) select '2024-03-31 22:30+00'::timestamptz + i * interval '17 minutes' from generate_series(1, 500) i",
    )
    .await;
    for role in ["alter role owner set TimeZone = 'Asia/Tokyo'", "alter role owner set search_path = 'two'"] {
        cluster.sql("postgres", "app", role).await;
    }
    let enqueuer = cluster.owner().await;
    enqueuer
        .batch_execute(
            "set TimeZone = 'America/New_York'; set DateStyle = 'SQL, DMY'; set IntervalStyle = 'sql_standard'; set search_path = 'one', 'public';
             select backfill.enqueue(name => 'moments', target => 'public.moments', set => 'day = at::date, text_of = at::text, who = who()',
                                     options => '{\"max_batch_rows\": 7, \"slices\": 3}')",
        )
        .await
        .unwrap();
    let _daemon = quick(&cluster.owner_url()).start();
    until_state(&cluster, "moments", "succeeded", SOON).await;
    let wrong = "select count(*) from public.moments where day is distinct from at::date or text_of is distinct from at::text or who is distinct from 'one'";
    assert_eq!(enqueuer.query_one(wrong, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_state_of_one_job_does_not_reach_the_next() {
    let cluster = installed(Options::default()).await;
    sql(
        &cluster,
        "create function leave_traces() returns int language plpgsql as $$ begin
           perform set_config('my.trace', 'left', false), set_config('TimeZone', 'Asia/Tokyo', false), pg_advisory_lock_shared(4711);
           create temp table if not exists left_behind (x int); return 1; end $$;
         create function find_traces() returns int language sql as $$
           select (coalesce(current_setting('my.trace', true), '') <> '')::int + (current_setting('TimeZone') = 'Asia/Tokyo')::int * 10
                + (to_regclass('pg_temp.left_behind') is not null)::int * 100
                + (select count(*)::int from pg_locks where locktype = 'advisory' and objid = 4711) * 1000 $$",
    )
    .await;
    table(&cluster, "leaver", 200).await;
    table(&cluster, "finder", 200).await;
    // A single worker runs both jobs.
    let config = "databases: [{name: main, url: 'postgres://x', workers: 1}]";
    let daemon = quick(&cluster.owner_url()).config(config).start();
    daemon.wait_ready(SOON).await;
    enqueue(&cluster, "leaver", "n = leave_traces()", "{}").await;
    until_state(&cluster, "leaver", "succeeded", SOON).await;
    enqueue(&cluster, "finder", "n = find_traces() + 1", "{}").await;
    until_state(&cluster, "finder", "succeeded", SOON).await;
    exact(&cluster, "leaver", 200).await.unwrap();
    exact(&cluster, "finder", 200).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subquery_in_set_loses_no_update_of_the_application() {
    const ORDERS: i64 = 3_000;
    let cluster = installed(Options::default()).await;
    sql(
        &cluster,
        &format!(
            "create table orders (id bigint primary key, total bigint, touched int not null default 0);
             create table lines (order_id bigint not null, amount bigint not null);
             insert into orders (id) select i from generate_series(1, {ORDERS}) i;
             insert into lines select i, j from generate_series(1, {ORDERS}) i, generate_series(1, 3) j;
             create index on lines (order_id)"
        ),
    )
    .await;
    let over = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for _ in 0..8 {
        let (mut client, over) = (cluster.owner().await, Arc::clone(&over));
        writers.spawn(async move {
            let (mut dice, mut writes) = (Dice::new(), 0);
            while !over.load(Ordering::Relaxed) {
                let order = i64::try_from(dice.roll(1, ORDERS as u64)).unwrap();
                let write = client.transaction().await.unwrap();
                // After the job has filled the total of an order, the application keeps this total
                // up to date.
                let line = "insert into lines values ($1, 7)";
                let order_too = "update orders set total = total + 7, touched = touched + 1 where id = $1";
                write.execute(line, &[&order]).await.unwrap();
                write.execute(order_too, &[&order]).await.unwrap();
                write.commit().await.unwrap();
                writes += 1;
            }
            writes
        });
    }
    let owner = cluster.owner().await;
    wait::until(SOON, "the application writes", async || {
        owner.query_one("select count(*) > 50 from orders where touched > 0", &[]).await.unwrap().get(0)
    })
    .await;
    let job = "select backfill.enqueue('totals', 'orders', set => 'total = (select sum(amount) from lines l where l.order_id = orders.id)',
                options => '{\"throttle\": \"off\", \"slices\": 2, \"max_batch_rows\": 100}')";
    owner.batch_execute(job).await.unwrap();
    let _daemon = quick(&cluster.owner_url()).start();
    until_state(&cluster, "totals", "succeeded", SOON * 2).await;
    over.store(true, Ordering::Relaxed);
    let mut writes = 0;
    while let Some(done) = writers.join_next().await {
        writes += done.unwrap();
    }
    let wrong = "select count(*) from orders o where total is distinct from (select sum(amount) from lines l where l.order_id = o.id)";
    let wrong: i64 = owner.query_one(wrong, &[]).await.unwrap().get(0);
    assert_eq!(wrong, 0, "number of wrong totals after {writes} writes");
    let counted = "select rows_changed from backfill.jobs where name = 'totals'";
    assert_eq!(owner.query_one(counted, &[]).await.unwrap().get::<_, i64>(0), ORDERS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_of_a_daemon_stays_idle_in_transaction() {
    let cluster = installed(Options::default()).await;
    for (job, set) in [("open_rc", crate::proof::PLUS_ONE), ("open_rr", crate::proof::PLUS_ONE_OF_ANOTHER_ROW)] {
        table(&cluster, job, 2_000).await;
        enqueue(&cluster, job, set, r#"{"slices": 2, "max_rows_per_second": 1000, "max_batch_rows": 20}"#).await;
    }
    let daemon = quick(&cluster.owner_url()).start();
    let owner = cluster.owner().await;
    let open = "select count(*) from pg_stat_activity where application_name like 'backfilld%' and state like 'idle in transaction%' and state_change < clock_timestamp() - interval '100 ms'";
    let done = "select bool_and(state = 'succeeded') from backfill.jobs";
    wait::until(SOON, "the jobs are done", async || {
        assert_eq!(owner.query_one(open, &[]).await.unwrap().get::<_, i64>(0), 0, "a session is idle in transaction");
        owner.query_one(done, &[]).await.unwrap().get(0)
    })
    .await;

    // If a daemon is frozen, its sessions must not block other sessions. The server finishes the
    // statements that the daemon has sent, and no transaction stays open.
    table(&cluster, "open_frozen", 2_000).await;
    enqueue(
        &cluster,
        "open_frozen",
        crate::proof::PLUS_ONE_OF_ANOTHER_ROW,
        r#"{"max_rows_per_second": 1000, "max_batch_rows": 20}"#,
    )
    .await;
    until_more_batches(&owner, "open_frozen", 5).await;
    daemon.sigstop();
    let still = "select count(*) from pg_stat_activity where application_name like 'backfilld%' and (state = 'active' or state like 'idle in transaction%')";
    wait::until(SOON, "the frozen daemon has no open transaction", async || {
        owner.query_one(still, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    daemon.sigcont();
    until_state(&cluster, "open_frozen", "succeeded", SOON).await;
    exact(&cluster, "open_frozen", 2_000).await.unwrap();
}

/// The daemon passes bounds as text. With the default time zone abbreviations, a session would
/// interpret the abbreviation IST of Asia/Kolkata as another time zone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_holds_a_time_loses_no_row_under_a_date_style_with_zone_abbreviations() {
    let cluster = installed(Options::default()).await;
    let enqueuer = cluster.owner().await;
    enqueuer
        .batch_execute(
            "create domain moment as timestamptz;
             create table in_domain (at moment primary key, n int not null default 0);
             insert into in_domain select '2024-03-31 22:30+00'::timestamptz + i * interval '17 minutes' from generate_series(1, 500) i;
             create table in_range (during tstzrange primary key, n int not null default 0);
             insert into in_range select tstzrange(at, at + interval '1 hour') from in_domain;
             set TimeZone = 'Asia/Kolkata'; set DateStyle = 'SQL, DMY';
             select backfill.enqueue(t, t::regclass, set => 'n = n + 1', options => '{\"max_batch_rows\": 7, \"slices\": 3}') from unnest(array['in_domain', 'in_range']) t",
        )
        .await
        .unwrap();
    let _daemon = quick(&cluster.owner_url()).start();
    for job in ["in_domain", "in_range"] {
        until_state(&cluster, job, "succeeded", SOON).await;
        let wrong = format!("select count(*) from {job} where n <> 1");
        assert_eq!(enqueuer.query_one(&wrong, &[]).await.unwrap().get::<_, i64>(0), 0, "{job}");
    }
}

/// A late cancel request may cancel the `commit`. The transaction then stays open, so the daemon
/// must roll it back and run the batch again. A late request may also cancel the `begin`. The batch
/// then commits without a transaction block, so the daemon must read the checkpoint before the next
/// batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeatable_read_batch_whose_begin_or_commit_is_cancelled_is_tried_again() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    table(&cluster, "cancelled", 1_000).await;
    let set = crate::proof::PLUS_ONE_OF_ANOTHER_ROW;
    enqueue(&cluster, "cancelled", set, r#"{"max_rows_per_second": 500, "max_batch_rows": 10}"#).await;
    let proxy = Proxy::to(cluster.addr()).await;
    let _daemon = quick(&proxy.url("owner", "app")).start();
    let begin = "begin; lock table only public.cancelled in row exclusive mode";
    for query in ["commit", begin, "commit"] {
        until_more_batches(&owner, "cancelled", 5).await;
        proxy.exchange_query(query, "do $$ begin perform pg_cancel_backend(pg_backend_pid()), pg_sleep(60); end $$");
        wait::until(SOON, format!("{query} is cancelled"), async || proxy.exchanged()).await;
    }
    until_state(&cluster, "cancelled", "succeeded", SOON).await;
    exact(&cluster, "cancelled", 1_000).await.unwrap();
}
