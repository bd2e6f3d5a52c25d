//! Tests of network failures and server crashes while a job runs. Each row must still be
//! incremented exactly once.

use std::time::Duration;

use backfilld_testbed::cluster::{Mode, Options};
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::proxy::Proxy;
use backfilld_testbed::wait;
use tokio_postgres::Client;

use crate::exactly_once::POINTS;
use crate::proof::{
    Dice, PLUS_ONE, PLUS_ONE_OF_ANOTHER_ROW, batches, enqueue, exact, metric, quick, table, until_more_batches,
};
use crate::support::{BACKFILLD, NO_PROBE, SOON, installed, until_state, value};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_changed_once_even_if_answers_are_lost_with_one_statement_per_batch() {
    lose_connections("one_statement", PLUS_ONE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_changed_once_even_if_answers_are_lost_with_repeatable_read_batches() {
    lose_connections("repeatable_read", PLUS_ONE_OF_ANOTHER_ROW).await;
}

async fn lose_connections(job: &str, set: &str) {
    const ROWS: i64 = 60_000;
    let cluster = installed(Options::default()).await;
    let proxy = Proxy::to(cluster.addr()).await;
    table(&cluster, job, ROWS).await;
    enqueue(&cluster, job, set, r#"{"slices": 2, "throttle": "off", "max_batch_rows": 50}"#).await;
    let owner = cluster.owner().await;
    let daemon = quick(&proxy.url("owner", "app")).start();
    let mut dice = Dice::new();

    // A statement commits, but the daemon does not receive the result.
    for _ in 0..8 {
        until_more_batches(&owner, job, i64::try_from(dice.roll(1, 9)).unwrap()).await;
        let swallowed = proxy.swallowed();
        proxy.swallow_answers();
        wait::until(SOON, "a result is lost", async || proxy.swallowed() > swallowed + 200).await;
        // The proxy refuses new connections until it forwards responses again. Otherwise the
        // startup response of a new session could be lost, and the test would wait several seconds.
        proxy.refuse(true);
        proxy.cut();
        proxy.pass();
    }
    // The connection is cut in the middle of a request. A batch's request has about 200 bytes.
    for _ in 0..12 {
        until_more_batches(&owner, job, i64::try_from(dice.roll(1, 5)).unwrap()).await;
        let before = proxy.connections();
        proxy.cut_after_client_bytes(u32::try_from(dice.roll(1, 900)).unwrap());
        wait::until(SOON, "the daemon connects again", async || proxy.connections() > before).await;
        proxy.pass();
    }
    // The proxy refuses new connections until no worker holds a slice.
    proxy.refuse(true);
    proxy.cut();
    until_no_worker_holds(&owner, job).await;
    proxy.refuse(false);
    // The network is slow.
    proxy.delay(Duration::from_millis(30));
    until_more_batches(&owner, job, 5).await;
    proxy.cut();
    until_more_batches(&owner, job, 5).await;
    proxy.pass();
    // The network stalls until the leases have expired. The stalled data arrives later.
    until_more_batches(&owner, job, 5).await;
    proxy.black_hole(true);
    until_no_worker_holds(&owner, job).await;
    proxy.black_hole(false);
    let done = batches(&owner, job).await;
    until_more_batches(&owner, job, 1).await;
    let left: i64 = owner.query_one(&format!("select count(*) from {job} where n = 0"), &[]).await.unwrap().get(0);
    assert!(left > 0, "the job finished before the last fault");

    until_state(&cluster, job, "succeeded", SOON).await;
    exact(&cluster, job, ROWS).await.unwrap();
    let (durable, acknowledged) =
        (batches(&owner, job).await, metric(&daemon, "backfilld_batches_total", &[job, "\"committed\""]).await);
    #[allow(clippy::cast_precision_loss)]
    let lost = durable as f64 - acknowledged;
    assert!(
        lost >= 1.0,
        "no result of a batch was lost: {durable} batches committed ({done} before the last fault ended), {acknowledged} acknowledged"
    );
}

async fn until_no_worker_holds(owner: &Client, job: &str) {
    let sql =
        "select not exists (select from backfill.slices where name = $1 and lease_expires_at > clock_timestamp())";
    wait::until(SOON, "no worker holds a slice", async || owner.query_one(sql, &[&job]).await.unwrap().get(0)).await;
}

/// With asynchronous commit, the server acknowledges a batch before the batch is durable. A crash
/// then reverts the batch's rows and checkpoint. A worker that continued from the position in its
/// memory would skip these rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_changed_once_even_if_the_server_crashes_and_loses_acknowledged_batches() {
    const ROWS: i64 = 20_000;
    const CRASHES: u32 = 6;
    let cluster = installed(Options::default().set("wal_writer_delay", "10s")).await;
    for (job, set) in [("crash_rc", PLUS_ONE), ("crash_rr", PLUS_ONE_OF_ANOTHER_ROW)] {
        table(&cluster, job, ROWS).await;
        enqueue(&cluster, job, set, r#"{"slices": 2, "throttle": "off", "max_batch_rows": 10}"#).await;
    }
    let daemon = quick(&cluster.owner_url())
        .config("lease: {ttl_seconds: 2, heartbeat_seconds: 0.5, poll_ms: 50}\ndatabases: [{name: main, url: 'postgres://x', workers: 4}]")
        .start();
    const COUNTED: &str = "select coalesce(sum(rows_scanned), 0)::bigint from backfill.slices";
    let (mut forgotten, mut dice) = (Vec::new(), Dice::new());
    for crash in 0..CRASHES {
        let owner = cluster.owner().await;
        for job in ["crash_rc", "crash_rr"] {
            until_more_batches(&owner, job, i64::try_from(dice.roll(5, 40)).unwrap()).await;
        }
        // In every second round, the daemon is frozen during the crash, so that it begins no batch
        // between the count before the crash and the count after it. The difference is then the
        // number of rows that the crash reverted.
        let frozen = crash % 2 == 0;
        if frozen {
            daemon.sigstop();
        }
        let before: i64 = owner.query_one(COUNTED, &[]).await.unwrap().get(0);
        if crash == 3 {
            cluster.kill_postmaster().await;
            cluster.start_again().await;
        } else {
            cluster.restart(Mode::Immediate).await;
        }
        if frozen {
            let after: i64 = cluster.owner().await.query_one(COUNTED, &[]).await.unwrap().get(0);
            forgotten.push(before - after);
            daemon.sigcont();
        }
    }
    assert!(forgotten.iter().any(|rows| *rows > 0), "no crash reverted an acknowledged batch: {forgotten:?}");
    for job in ["crash_rc", "crash_rr"] {
        until_state(&cluster, job, "succeeded", SOON * 2).await;
        exact(&cluster, job, ROWS).await.unwrap_or_else(|wrong| panic!("{job}: {wrong}"));
    }
}

/// The server acknowledges a claim, and the last batch of a slice, only when the commit is durable.
/// With asynchronous commit, it acknowledges other batches before their commit is durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_survives_a_crash_right_after_it() {
    let cluster = installed(Options::default().set("wal_writer_delay", "10s").set("synchronous_commit", "off")).await;
    table(&cluster, "durable", 10).await;
    enqueue(&cluster, "durable", PLUS_ONE, "{}").await;
    let owner = cluster.owner().await;
    let register = "select backfill._register_executor('owner', 'owner', true)";
    owner.query_one(register, &[]).await.unwrap();
    let claim = "select backfill._claim(gen_random_uuid(), array['owner']::name[], '1 minute') ->> 'token'";
    let token: String = owner.query_one(claim, &[]).await.unwrap().get(0);
    cluster.restart(Mode::Immediate).await;
    let stored: String = cluster.value("owner", "app", "select token::text from backfill.lease").await;
    assert_eq!(stored, token);

    let owner = cluster.owner().await;
    let last = "update backfill.checkpoint set done = false, position = null";
    owner.batch_execute(last).await.unwrap();
    let advance = format!(
        "select backfill.advance(slice_id, '{token}', '(0,1)', null, array['9'], 10, 10, 0, true) from backfill.lease"
    );
    owner.query_one(&advance, &[]).await.unwrap();
    cluster.restart(Mode::Immediate).await;
    assert!(cluster.value::<bool>("owner", "app", "select done from backfill.checkpoint").await);
}

/// The lease times are the defaults. When a session is lost, the daemon uses another session to
/// release the slice of the lost one, so the job does not wait until the lease expires.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_connection_or_a_restarted_server_costs_less_than_a_lease() {
    const ROWS: i64 = 5_000;
    let cluster = installed(Options::default()).await;
    let proxy = Proxy::to(cluster.addr()).await;
    table(&cluster, "soon", ROWS).await;
    let daemon = Daemon::builder(BACKFILLD, &proxy.url("owner", "app")).start();
    daemon.wait_ready(SOON).await;
    enqueue(&cluster, "soon", PLUS_ONE, r#"{"slices": 2, "max_rows_per_second": 500, "max_batch_rows": 10}"#).await;
    for restart in [false, false, false, true] {
        let owner = cluster.owner().await;
        until_more_batches(&owner, "soon", 6).await;
        if restart {
            cluster.restart(Mode::Immediate).await;
        } else {
            proxy.cut();
        }
        let owner = cluster.owner().await;
        // The test checks both slices. Otherwise the progress of one slice could hide that the
        // other slice waits until its lease expires.
        const PASSED: &str = "select array_agg(batches order by slice) from backfill.slices where name = 'soon'";
        let before: Vec<i64> = owner.query_one(PASSED, &[]).await.unwrap().get(0);
        wait::until(SOON, "both slices make progress", async || {
            let now: Vec<i64> = owner.query_one(PASSED, &[]).await.unwrap().get(0);
            now.iter().zip(&before).all(|(now, before)| *now > before + 1)
        })
        .await;
        let takeovers: i64 =
            crate::support::value(&owner, "select count(*) from backfill.events where kind = 'takeover'").await;
        assert_eq!(takeovers, 0, "restart {restart}: a slice was claimed only after its lease had expired");
    }
    crate::support::sql(&cluster, r#"select backfill.tune('soon', '{"max_rows_per_second": 100000}')"#).await;
    until_state(&cluster, "soon", "succeeded", SOON).await;
    exact(&cluster, "soon", ROWS).await.unwrap();
}

/// The daemon loses the answer to one statement. The lease lasts longer than the test, so a slice
/// that the daemon forgot would never be finished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lost_answer_makes_a_slice_wait_until_its_lease_expires() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    for (point, visits) in POINTS {
        for visit in *visits {
            let job = format!("{point}_{visit}");
            table(&cluster, &job, 400).await;
            enqueue(&cluster, &job, PLUS_ONE, r#"{"slices": 2, "throttle": "off", "max_batch_rows": 25}"#).await;
            let _daemon = quick(&cluster.owner_url())
                .config(format!("lease: {{ttl_seconds: 3600, heartbeat_seconds: 0.2, poll_ms: 50}}\n{NO_PROBE}"))
                .env("BACKFILLD_FAILPOINT", format!("{point}:{visit}=error"))
                .start();
            until_state(&cluster, &job, "succeeded", SOON).await;
            exact(&cluster, &job, 400).await.unwrap_or_else(|wrong| panic!("{job}: {wrong}"));
        }
    }
    let takeovers: i64 = value(&owner, "select count(*) from backfill.events where kind = 'takeover'").await;
    assert_eq!(takeovers, 0, "an abandoned lease of the daemon itself counts as a takeover");
}

/// A claim passes the tokens of the leases that its daemon still holds. All other leases of this
/// daemon count as abandoned, and their slices can be claimed again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_finds_the_abandoned_leases_of_its_daemon() {
    let cluster = installed(Options::default()).await;
    table(&cluster, "forgotten", 10).await;
    enqueue(&cluster, "forgotten", PLUS_ONE, "{}").await;
    let owner = cluster.owner().await;
    let worker = uuid::Uuid::new_v4();
    let claim = async |worker: uuid::Uuid, held: Option<Vec<uuid::Uuid>>| -> Option<uuid::Uuid> {
        const CLAIM: &str =
            "select (backfill._claim($1, array['owner']::name[], '1 hour', 1, '{}', $2) ->> 'token')::uuid";
        owner.query_one(CLAIM, &[&worker, &held]).await.unwrap().get(0)
    };
    let first = claim(worker, Some(vec![])).await.unwrap();
    assert_eq!(claim(worker, Some(vec![first])).await, None, "the worker holds the slice");
    assert_eq!(claim(worker, None).await, None, "a daemon of an earlier release names no leases");
    assert_eq!(claim(uuid::Uuid::new_v4(), Some(vec![])).await, None, "another daemon holds the slice");
    let second = claim(worker, Some(vec![])).await.unwrap();
    assert_ne!(first, second);
    let tokens: Vec<uuid::Uuid> = value(&owner, "select array_agg(token) from backfill.lease").await;
    assert_eq!(tokens, [second]);
    // The expired lease belongs to a job that is paused now. The claim ends this lease, and does
    // not count the slice of the other job as taken over.
    table(&cluster, "other", 10).await;
    enqueue(&cluster, "other", PLUS_ONE, "{}").await;
    owner
        .batch_execute(
            "select backfill.pause('forgotten'); update backfill.lease set expires_at = now() - interval '1 s'",
        )
        .await
        .unwrap();
    const NEXT: &str = "select (c ->> 'name') || ' ' || (c ->> 'takeover') from backfill._claim(gen_random_uuid(), array['owner']::name[], '1 hour') c";
    assert_eq!(value::<String>(&owner, NEXT).await, "other false");
    assert_eq!(value::<String>(&owner, "select state from backfill.jobs where name = 'forgotten'").await, "paused");
}
