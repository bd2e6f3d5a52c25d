//! Tests of takeovers, a failover, drains and reruns. After a takeover, a rerun, or a failover that
//! loses the claim, the former holder commits nothing.

use std::time::Duration;

use backfilld_testbed::cluster::{Cluster, Mode, Options};
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::proxy::Proxy;
use backfilld_testbed::standby::Standby;
use backfilld_testbed::wait;
use tokio_postgres::Client;

use crate::proof::{
    PLUS_ONE, PLUS_ONE_OF_ANOTHER_ROW, batches, enqueue, exact, metric, quick, table, until_more_batches,
};
use crate::support::{BACKFILLD, SOON, daemon, installed, run, until_state, until_true, value};

/// One worker walks the job in batches of 10 rows, slowly enough that the test can interrupt the
/// walk.
const SLOW: &str = r#"{"max_rows_per_second": 500, "max_batch_rows": 10}"#;

/// Returns the holder of a job's slices. In these tests a job has at most one holder.
async fn holder(owner: &Client, job: &str) -> Option<uuid::Uuid> {
    let sql =
        "select max(holder::text)::uuid from backfill.slices where name = $1 and lease_expires_at > clock_timestamp()";
    owner.query_one(sql, &[&job]).await.unwrap().get(0)
}

async fn until_other_holder(owner: &Client, job: &str, old: uuid::Uuid, limit: Duration) -> uuid::Uuid {
    wait::until_ok(limit, "another daemon holds the slice", async || match holder(owner, job).await {
        Some(new) if new != old => Ok(new),
        other => Err(other),
    })
    .await
}

async fn committed(daemon: &Daemon, job: &str) -> f64 {
    metric(daemon, "backfilld_batches_total", &[job, "\"committed\""]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_stopped_between_batches_commits_nothing_after_a_takeover() {
    const ROWS: i64 = 4_000;
    let cluster = installed(Options::default()).await;
    table(&cluster, "stopped", ROWS).await;
    let owner = cluster.owner().await;
    let old = daemon(&cluster).await;
    enqueue(&cluster, "stopped", PLUS_ONE, SLOW).await;
    until_more_batches(&owner, "stopped", 5).await;
    let first = holder(&owner, "stopped").await.unwrap();
    let next = daemon(&cluster).await;
    old.sigstop();
    until_other_holder(&owner, "stopped", first, SOON).await;
    until_more_batches(&owner, "stopped", 2).await;
    old.sigcont();
    // The frozen daemon's metric also counts the last batch that committed before the takeover,
    // even if the daemon receives the result only after it is unfrozen.
    until_more_batches(&owner, "stopped", 3).await;
    let known = committed(&old, "stopped").await;
    until_more_batches(&owner, "stopped", 20).await;
    assert!((committed(&old, "stopped").await - known).abs() < 0.5, "the old holder committed a batch");
    crate::support::sql(&cluster, r#"select backfill.tune('stopped', '{"max_rows_per_second": 100000}')"#).await;
    until_state(&cluster, "stopped", "succeeded", SOON).await;
    exact(&cluster, "stopped", ROWS).await.unwrap();
    assert!(metric(&next, "backfilld_lease_takeovers_total", &[]).await >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_stopped_in_the_middle_of_a_batch_blocks_its_successor_no_longer_than_a_lease() {
    for (job, set) in [("middle_rc", PLUS_ONE), ("middle_rr", PLUS_ONE_OF_ANOTHER_ROW)] {
        stop_in_a_batch(job, set).await;
    }
}

async fn stop_in_a_batch(job: &str, set: &str) {
    const ROWS: i64 = 2_000;
    let cluster = installed(Options::default()).await;
    table(&cluster, job, ROWS).await;
    // A trigger of the table removes the timeouts, so that only the takeover can end the batch.
    let unlimited = format!(
        "create function no_limits() returns trigger language plpgsql as $$ begin
           perform set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false); return new; end $$;
         create trigger no_limits before update on {job} for each row execute function no_limits()"
    );
    crate::support::sql(&cluster, &unlimited).await;
    let owner = cluster.owner().await;
    let lease = "lease: {ttl_seconds: 2, heartbeat_seconds: 0.5, poll_ms: 100}";
    let old = quick(&cluster.owner_url()).config(lease).start();
    old.wait_ready(SOON).await;
    let mut application = cluster.owner().await;
    let lock = application.transaction().await.unwrap();
    lock.batch_execute(&format!("select from {job} where note = 'row 777' for update")).await.unwrap();
    enqueue(&cluster, job, set, r#"{"max_batch_rows": 20, "throttle": "off", "target_batch_ms": 500}"#).await;
    let session = "select pid from pg_stat_activity where application_name = 'backfilld job ' || (select id from backfill.jobs where name = $1) and wait_event_type = 'Lock'";
    let pid: i32 = wait::until_ok(SOON, "a batch waits for the locked row", async || {
        owner.query_opt(session, &[&job]).await.unwrap().map(|row| row.get(0)).ok_or("no session waits")
    })
    .await;
    let first = holder(&owner, job).await.unwrap();
    let next = quick(&cluster.owner_url()).config(lease).start();
    next.wait_ready(SOON).await;
    old.sigstop();
    // The old daemon is still stopped in its batch, and the row is still locked. The successor
    // nevertheless waits only until the lease expires.
    until_other_holder(&owner, job, first, SOON).await;
    wait::until(SOON, "the stopped daemon's session is gone", async || {
        owner.query_opt("select from pg_stat_activity where pid = $1", &[&pid]).await.unwrap().is_none()
    })
    .await;
    lock.rollback().await.unwrap();
    old.sigcont();
    until_state(&cluster, job, "succeeded", SOON).await;
    exact(&cluster, job, ROWS).await.unwrap();
    drop((old, next));
}

/// The claim did not reach the standby, so the promoted server does not know the token of the
/// claim.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_whose_claim_was_lost_in_a_failover_commits_nothing() {
    const ROWS: i64 = 3_000;
    let cluster = installed(Options::default()).await;
    let proxy = Proxy::to(cluster.addr()).await;
    table(&cluster, "failover", ROWS).await;
    let standby = Standby::of(&cluster).await;
    enqueue(&cluster, "failover", PLUS_ONE, SLOW).await;
    let first = quick(&proxy.url("owner", "app")).start();
    let owner = cluster.owner().await;
    until_more_batches(&owner, "failover", 5).await;
    first.sigterm();
    first.wait_exit(SOON).await;
    standby.wait_caught_up(SOON).await;
    // From now on the standby receives no WAL.
    standby.sql("postgres", "postgres", "alter system set primary_conninfo = ''").await;
    standby.sql("postgres", "postgres", "select pg_reload_conf()").await;
    wait::until(SOON, "the standby has stopped streaming", async || {
        standby.value::<bool>("postgres", "postgres", "select not exists (select from pg_stat_wal_receiver)").await
    })
    .await;
    let known = standby.value::<i64>("owner", "app", "select sum(batches)::bigint from backfill.slices").await;
    let holder = quick(&proxy.url("owner", "app")).start();
    until_more_batches(&owner, "failover", 5).await;
    let claim = "select slice_id, token::text from backfill.lease";
    let row = owner.query_one(claim, &[]).await.unwrap();
    let (slice, token): (i64, String) = (row.get(0), row.get(1));
    cluster.stop(Mode::Immediate).await;
    standby.promote().await;

    // The test sends the next write of the lost claim to the new primary. The server refuses the
    // whole statement, so the changes to the rows are rolled back, too.
    let promoted = standby.client("owner", "app").await;
    let batch = format!(
        "with u as (update failover set n = n + 100 where id <= 3000 returning 1)
         select backfill.advance({slice}, '{token}', '(0,1)', (select position from backfill.checkpoint where slice_id = {slice}), array['3000'], count(*), count(*), 0, false) from u"
    );
    let refused = promoted.query(&batch, &[]).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "BF006");

    let now = batches(&promoted, "failover").await;
    assert_eq!(now, known, "the promoted server has batches of the lost claim");
    proxy.retarget(standby.addr());
    proxy.cut();
    until_more_batches(&promoted, "failover", 2).await;
    promoted.batch_execute(r#"select backfill.tune('failover', '{"max_rows_per_second": 100000}')"#).await.unwrap();
    let sql = "select j.state = 'succeeded' and j.rows_changed = 3000 and j.rows_scanned = 3000 and not exists (select from failover where n <> 1) from backfill.jobs j";
    wait::until(SOON, "each row is incremented exactly once on the promoted server", async || {
        promoted.query_one(sql, &[]).await.unwrap().get(0)
    })
    .await;
    drop(holder);
}

/// Runs a daemon with the default lease times, ends it with `end`, and waits for the first batch of
/// its successor. Returns how often the successor took over an expired lease.
async fn takeovers_until_next_batch(cluster: &Cluster, job: &str, end: impl AsyncFnOnce(&Daemon)) -> i64 {
    let owner = cluster.owner().await;
    table(cluster, job, 4_000).await;
    let old = daemon(cluster).await;
    enqueue(cluster, job, PLUS_ONE, SLOW).await;
    until_more_batches(&owner, job, 5).await;
    let next = Daemon::builder(BACKFILLD, &cluster.owner_url()).start();
    next.wait_ready(SOON).await;
    end(&old).await;
    let seen = batches(&owner, job).await;
    wait::until(SOON, "the successor commits a batch", async || batches(&owner, job).await > seen).await;
    let takeovers = value(&owner, "select count(*) from backfill.events where kind = 'takeover'").await;
    crate::support::sql(cluster, &format!(r#"select backfill.tune('{job}', '{{"max_rows_per_second": 100000}}')"#))
        .await;
    until_state(cluster, job, "succeeded", SOON).await;
    exact(cluster, job, 4_000).await.unwrap();
    takeovers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_daemon_is_taken_over_when_its_lease_of_six_seconds_expires() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    let mut expires = f64::NAN;
    let takeovers = takeovers_until_next_batch(&cluster, "killed", async |old| {
        old.sigkill();
        old.wait_exit(SOON).await;
        // This check uses the server's clock. The remaining time of a lease is never more than its
        // TTL, however slow the machine is.
        let left = "select extract(epoch from lease_expires_at - clock_timestamp())::float8 from backfill.slices";
        expires = value(&owner, left).await;
    })
    .await;
    assert_eq!(takeovers, 1);
    assert!(expires <= 6.0, "the lease had {expires} s left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_daemon_hands_over_at_once() {
    let cluster = installed(Options::default()).await;
    let takeovers = takeovers_until_next_batch(&cluster, "drained", async |old| {
        old.sigterm();
        let status = old.wait_exit(SOON).await;
        assert_eq!(status.code(), Some(0), "{}", old.output());
    })
    .await;
    assert_eq!(takeovers, 0, "the successor waited until the lease expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_gives_every_lease_back_and_loses_no_work() {
    let cluster = installed(Options::default()).await;
    table(&cluster, "drain", 4_000).await;
    let owner = cluster.owner().await;
    let only = daemon(&cluster).await;
    enqueue(&cluster, "drain", PLUS_ONE, r#"{"slices": 2, "max_rows_per_second": 500, "max_batch_rows": 10}"#).await;
    until_more_batches(&owner, "drain", 10).await;
    only.sigterm();
    assert_eq!(only.wait_exit(SOON).await.code(), Some(0), "{}", only.output());
    assert!(!only.output().contains("stopping immediately"), "the drain exceeded its grace period: {}", only.output());
    let sql = "select (select count(*) from backfill.lease), (select count(*) from backfill.workers), (select count(*) from drain where n = 1), (select sum(rows_changed)::bigint from backfill.slices), (select count(*) from pg_stat_activity where application_name like 'backfilld%')";
    let row = owner.query_one(sql, &[]).await.unwrap();
    let found: [i64; 4] = std::array::from_fn(|column| row.get(column));
    assert_eq!(found, [0, 0, found[3], found[3]], "leases, workers, rows changed, rows counted");
    wait::until(SOON, "the sessions of the daemon have ended", async || {
        owner.query_one(sql, &[]).await.unwrap().get::<_, i64>(4) == 0
    })
    .await;
}

#[tokio::test]
async fn a_rerun_fences_the_holders_of_slices_of_the_previous_run() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, n int not null default 0);
        insert into t select generate_series(1, 40000); analyze t; create table trap (at int); insert into trap values (300)",
    )
    .await;
    let application = cluster.owner().await;
    application.batch_execute("begin; select 1 from t where id between 20000 and 40000 for update").await.unwrap();
    // The slice that fails at row 300 (see table `trap`) is delayed by a lock on row 1 until both
    // slices have a holder.
    let starter = cluster.owner().await;
    starter.batch_execute("begin; select 1 from t where id = 1 for update").await.unwrap();
    run(&owner, r#"select backfill.enqueue('j', 't', 'n = n + 1 / (case when exists (select from trap where at = t.id) then 0 else 1 end)', options => '{"slices": 2, "max_row_errors": 0}')"#).await;
    // A worker reaches this failpoint at the end of each claim. The claim of the plan slice ends
    // first, and the claim of the slice that fails ends second. The third claim to end is the claim
    // of the worker that waits for the rows that the application has locked. The failpoint delays
    // this end by 3 s.
    let _daemon = Daemon::builder(BACKFILLD, &cluster.owner_url())
        .env("BACKFILLD_FAILPOINT", "before_giving_back:3=sleep:3000")
        .start();
    until_true(&owner, SOON, "select count(*) = 2 from backfill.slices where holder is not null and name = 'j'").await;
    starter.batch_execute("commit").await.unwrap();
    until_true(&owner, SOON, "select state = 'failed' from backfill.jobs where name = 'j'").await;
    // The other slice waits for the application's rows.
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.lease").await, 1);
    run(&owner, "delete from trap; update t set n = 0 where n <> 0 and id < 20000; select backfill.rerun('j')").await;
    assert_eq!(
        value::<i64>(
            &owner,
            "select count(*) from backfill.lease l join backfill.slice s on s.id = l.slice_id where s.run = 1"
        )
        .await,
        0
    );
    application.batch_execute("commit").await.unwrap();
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n <> 1").await, 0);
}
