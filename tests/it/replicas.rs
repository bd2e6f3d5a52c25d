//! Tests for a Deployment with several replicas that run one job. They cover a rolling restart, the
//! loss of a process, the loss of a node, and the order of takeovers and splits.

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
/// Four slices, two for each daemon. The job is so slow that it is still running at each step of a
/// test.
const FOUR: &str = r#"{"slices": 4, "max_rows_per_second": 1000, "max_batch_rows": 10}"#;
const FASTER: &str = r#"select backfill.tune('rows', '{"max_rows_per_second": 1000000, "max_batch_rows": 5000}')"#;

const BOTH_AT_WORK: &str =
    "select count(distinct holder) = 2 and count(*) filter (where holder is not null and batches > 0) = 4
  from backfill.slices where name = 'rows' and lease_expires_at > clock_timestamp()";

/// Reports the longest time in which no batch of job `rows` committed. Runs until the task is
/// aborted.
async fn longest_gap(owner: Client, reported: tokio::sync::watch::Sender<Duration>) {
    let (mut seen, mut since) = (batches(&owner, "rows").await, Instant::now());
    loop {
        let now = batches(&owner, "rows").await;
        reported.send_if_modified(|longest| {
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
async fn a_rolling_restart_does_not_disturb_a_running_job() {
    let cluster = installed(Options::default()).await;
    table(&cluster, "rows", ROWS).await;
    let owner = cluster.owner().await;
    let mut replicas = vec![daemon(&cluster).await, daemon(&cluster).await];
    enqueue(&cluster, "rows", PLUS_ONE, FOUR).await;
    until_true(&owner, SOON, BOTH_AT_WORK).await;
    let (reported, gap) = tokio::sync::watch::channel(Duration::ZERO);
    let watching = tokio::spawn(longest_gap(cluster.owner().await, reported));
    // With `maxSurge: 1` and `maxUnavailable: 0`, Kubernetes stops an old replica only after the
    // next one is ready.
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
    // The gap is only printed, because it depends on the speed of the machine. The metrics below
    // show that no slice waited for an expired lease.
    eprintln!("the longest time without a batch: {gap:?}");
    sql(&cluster, FASTER).await;
    until_state(&cluster, "rows", "succeeded", SOON).await;
    exact(&cluster, "rows", ROWS).await.unwrap();
    // The new replicas took over no expired lease, and the fence refused none of their writes. Each
    // drained daemon has deregistered.
    for daemon in &replicas {
        for name in ["backfilld_lease_takeovers_total", "backfilld_fenced_writes_total"] {
            assert!(metric(daemon, name, &[]).await < 0.5, "{name}");
        }
        assert!(metric(daemon, "backfilld_rows_changed_total", &[]).await > 0.5, "a new replica changed no rows");
    }
    until_true(&owner, SOON, "select count(*) = 2 from backfill.workers").await;
}

/// How a daemon is lost. Either its process is killed and the kernel closes its connections, or the
/// whole node disappears and the server keeps its connections open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Process,
    Node,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slices_of_a_killed_replica_resume_when_their_leases_expire() {
    lose(Loss::Process).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slices_of_a_lost_node_resume_when_their_leases_expire() {
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
    // The remaining daemon has enough workers for all four slices. A daemon without a free worker
    // continues with its own slices and does not claim the slices of the lost daemon. The speed of
    // the machine is not under test, so the limit of probe_latency is set so high that the probe
    // has no effect.
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
    // This check uses the server's clock. The remaining time of a lease is never more than its TTL,
    // however slow the machine is.
    let left = "select max(extract(epoch from lease_expires_at - clock_timestamp()))::float8 from backfill.slices where name = 'rows'";
    let left: f64 = value(&owner, left).await;
    assert!(left <= 6.0, "a lease had {left} s left");
    let at_loss: Vec<i64> = batches_of(&owner, &theirs).await;
    wait::until(SOON, "each slice of the lost daemon makes progress", async || {
        // One batch of the lost daemon may have been in flight, and may have committed since.
        batches_of(&owner, &theirs).await.iter().zip(&at_loss).all(|(now, then)| *now > then + 1)
    })
    .await;

    // The metrics show the takeovers. Only the remaining daemon is alive, and it finishes the job.
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

/// A daemon with a free worker takes over a lost slice before it splits its own slice. If it split
/// first, the lost slice would wait for another free worker.
#[tokio::test]
async fn a_lost_slice_is_taken_over_before_another_is_split() {
    let cluster = installed(Options::default()).await;
    table(&cluster, "rows", ROWS).await;
    let owner = cluster.owner().await;
    let frozen = daemon(&cluster).await;
    enqueue(&cluster, "rows", PLUS_ONE, r#"{"slices": 2, "max_rows_per_second": 200, "max_batch_rows": 10}"#).await;
    until_true(&owner, SOON, "select count(holder) = 2 from backfill.slices where name = 'rows' and batches > 0").await;
    frozen.sigstop();
    // A statement of the frozen daemon may still be running.
    until_true(
        &owner,
        SOON,
        "select count(*) = 0 from pg_stat_activity where application_name like 'backfilld job %' and state = 'active'",
    )
    .await;
    sql(&cluster, "update backfill.lease set expires_at = 'infinity'").await;
    let may = async |wanted: i32| -> bool {
        let asked = format!("select bool_or(backfill._may_split(l.slice_id, l.token, {wanted})) from backfill.lease l");
        owner.query_one(&asked, &[]).await.unwrap().get(0)
    };
    assert!(
        may(3).await && !may(2).await,
        "two slices are held, so only a job with three requested slices may split one"
    );
    sql(
        &cluster,
        "update backfill.lease set expires_at = now() where slice_id = (select min(slice_id) from backfill.lease)",
    )
    .await;
    assert!(!may(2).await, "a slice may be split although another slice waits for a takeover");
    frozen.sigcont();
}

/// Returns how many batches each of these slices of job `rows` has committed, ordered by slice
/// number.
async fn batches_of(owner: &Client, slices: &[i32]) -> Vec<i64> {
    let sql = "select array_agg(batches order by slice) from backfill.slices where name = 'rows' and slice = any ($1)";
    owner.query_one(sql, &[&slices]).await.unwrap().get(0)
}
