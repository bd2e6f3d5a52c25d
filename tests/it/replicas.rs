//! Two daemons on one job, as a Deployment with two replicas has them: a rollout, and a node that is gone.

use std::time::Duration;

use backfilld_testbed::cluster::Options;
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::proxy::Proxy;
use backfilld_testbed::wait;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::proof::{PLUS_ONE, batches, enqueue, exact, metric, table, until_more_batches};
use crate::support::{BACKFILLD, SOON, daemon, daemon_with, installed, sql, until_state, until_true, value};

const ROWS: i64 = 60_000;
/// Four slices, two for each daemon, and slow enough that all of what happens does so in the middle of the job.
const FOUR: &str = r#"{"slices": 4, "max_rows_per_second": 1000, "max_batch_rows": 10}"#;
const FASTER: &str = r#"select backfill.tune('rows', '{"max_rows_per_second": 1000000, "max_batch_rows": 5000}')"#;

const BOTH_AT_WORK: &str =
    "select count(distinct holder) = 2 and count(*) filter (where holder is not null and batches > 0) = 4
  from backfill.slices where name = 'rows' and lease_expires_at > clock_timestamp()";

/// The longest time without a batch, until it is aborted.
async fn longest_gap(owner: Client, told: tokio::sync::watch::Sender<Duration>) {
    let (mut seen, mut since) = (batches(&owner, "rows").await, Instant::now());
    loop {
        let now = batches(&owner, "rows").await;
        told.send_if_modified(|longest| {
            let gap = since.elapsed();
            std::mem::replace(longest, gap.max(*longest)) < gap
        });
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_in_the_middle_of_a_job_is_not_felt_by_it() {
    let cluster = installed(Options::default()).await;
    table(&cluster, "rows", ROWS).await;
    let owner = cluster.owner().await;
    let mut replicas = vec![daemon(&cluster).await, daemon(&cluster).await];
    enqueue(&cluster, "rows", PLUS_ONE, FOUR).await;
    until_true(&owner, SOON, BOTH_AT_WORK).await;
    let (told, gap) = tokio::sync::watch::channel(Duration::ZERO);
    let watching = tokio::spawn(longest_gap(cluster.owner().await, told));
    // maxSurge 1, maxUnavailable 0: the next one is ready before an old one is asked to go.
    for replica in &mut replicas {
        let next = daemon(&cluster).await;
        replica.sigterm();
        assert!(replica.wait_exit(SOON).await.success(), "{}", replica.output());
        *replica = next;
        until_more_batches(&owner, "rows", 20).await;
    }
    until_true(&owner, SOON, BOTH_AT_WORK).await;
    watching.abort();
    let gap = *gap.borrow();
    // A slice whose lease has to run out would be a gap of six seconds: none is taken over, as is checked below.
    eprintln!("the longest time without a batch: {gap:?}");
    sql(&cluster, FASTER).await;
    until_state(&cluster, "rows", "succeeded", SOON).await;
    exact(&cluster, "rows", ROWS).await.unwrap();
    // Nothing was lost, so nothing was taken over; and who drained has taken its leave.
    for daemon in &replicas {
        for name in ["backfilld_lease_takeovers_total", "backfilld_fenced_writes_total"] {
            assert!(metric(daemon, name, &[]).await < 0.5, "{name}");
        }
        assert!(metric(daemon, "backfilld_rows_changed_total", &[]).await > 0.5, "a new replica got nothing to do");
    }
    until_true(&owner, SOON, "select count(*) = 2 from backfill.workers").await;
}

/// How a node ends: its process dies and the kernel closes its connections; or all of it is gone, and to the server its
/// connections are still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Process,
    Node,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_replica_s_slices_go_on_when_their_leases_run_out() {
    lose(Loss::Process).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slices_of_a_replica_whose_node_is_gone_go_on_when_their_leases_run_out() {
    lose(Loss::Node).await;
}

async fn lose(loss: Loss) {
    let cluster = installed(Options::default()).await;
    table(&cluster, "rows", ROWS).await;
    let owner = cluster.owner().await;
    let network = Proxy::to(cluster.addr()).await;
    let lost = Daemon::builder(BACKFILLD, &network.url("owner", "app")).start();
    lost.wait_ready(SOON).await;
    enqueue(&cluster, "rows", PLUS_ONE, FOUR).await;
    until_true(&owner, SOON, "select count(holder) = 2 from backfill.slices where name = 'rows'").await;
    // With hands free for all four: one whose workers are busy goes on with its own slices, and lets the others lie.
    // And it ignores the probe: how slow the machine is just now is not what is tried.
    let config = format!(
        "databases: [{{name: main, url: '{}', workers: 4, signals: [{{name: probe_latency, limit: 1000}}]}}]",
        cluster.owner_url()
    );
    let survivor = daemon_with(&cluster, &config).await;
    until_true(&owner, SOON, BOTH_AT_WORK).await;
    let pid = i32::try_from(lost.pid()).unwrap();
    let theirs: Vec<i32> = owner
        .query_one(
            "select array_agg(s.slice order by s.slice) from backfill.slices s join backfill.workers w on w.id = s.holder where s.name = 'rows' and w.pid = $1",
            &[&pid],
        )
        .await
        .unwrap()
        .get(0);
    if loss == Loss::Node {
        network.black_hole(true);
    }
    lost.sigkill();
    // By the server's clock: what is left of a lease is never more than its term, however slow the machine is.
    let left = "select max(extract(epoch from lease_expires_at - clock_timestamp()))::float8 from backfill.slices where name = 'rows'";
    let left: f64 = value(&owner, left).await;
    assert!(left <= 6.0, "a lease had {left} s left");
    let at_loss: Vec<i64> = batches_of(&owner, &theirs).await;
    wait::until(SOON, "each of its slices has moved on", async || {
        batches_of(&owner, &theirs).await.iter().zip(&at_loss).all(|(now, then)| now > then)
    })
    .await;

    // What an operator sees: the takeovers, and that one daemon is left, with all four.
    let takeovers = metric(&survivor, "backfilld_lease_takeovers_total", &[]).await;
    #[allow(clippy::cast_precision_loss)]
    let expected = theirs.len() as f64;
    assert!(takeovers >= expected, "{takeovers} takeovers of {expected} slices");
    let alone = "select count(*) = 1 and min(pid) <> $1 from backfill.workers where alive";
    wait::until(SOON, "one daemon is alive", async || owner.query_one(alone, &[&pid]).await.unwrap().get(0)).await;
    let before = metric(&survivor, "backfilld_rows_changed_total", &[]).await;
    sql(&cluster, FASTER).await;
    until_state(&cluster, "rows", "succeeded", SOON).await;
    exact(&cluster, "rows", ROWS).await.unwrap();
    assert!(metric(&survivor, "backfilld_rows_changed_total", &[]).await > before);
    assert!(metric(&survivor, "backfilld_jobs_finished_total", &["\"succeeded\""]).await > 0.5);
}

/// Else a daemon with a free hand cuts its own slice for it, and the lost one lies until another is free.
#[tokio::test]
async fn a_slice_whose_holder_is_gone_is_waited_for_before_another_is_cut() {
    let cluster = installed(Options::default()).await;
    table(&cluster, "rows", ROWS).await;
    let owner = cluster.owner().await;
    let frozen = daemon(&cluster).await;
    enqueue(&cluster, "rows", PLUS_ONE, r#"{"slices": 2, "max_rows_per_second": 200, "max_batch_rows": 10}"#).await;
    until_true(&owner, SOON, "select count(holder) = 2 from backfill.slices where name = 'rows' and batches > 0").await;
    frozen.sigstop();
    // Its statement may be under way still.
    until_true(
        &owner,
        SOON,
        "select count(*) = 0 from pg_stat_activity where application_name like 'backfilld rows%' and state = 'active'",
    )
    .await;
    sql(&cluster, "update backfill.lease set expires_at = 'infinity'").await;
    let may = async |wanted: i32| -> bool {
        let asked = format!("select bool_or(backfill._may_split(l.slice_id, l.token, {wanted})) from backfill.lease l");
        owner.query_one(&asked, &[]).await.unwrap().get(0)
    };
    assert!(may(3).await && !may(2).await, "two are under way");
    sql(
        &cluster,
        "update backfill.lease set expires_at = now() where slice_id = (select min(slice_id) from backfill.lease)",
    )
    .await;
    assert!(!may(2).await, "one of them is to be taken over");
    frozen.sigcont();
}

/// Batches of these slices of the job, in their order.
async fn batches_of(owner: &Client, slices: &[i32]) -> Vec<i64> {
    let sql = "select array_agg(batches order by slice) from backfill.slices where name = 'rows' and slice = any ($1)";
    owner.query_one(sql, &[&slices]).await.unwrap().get(0)
}
