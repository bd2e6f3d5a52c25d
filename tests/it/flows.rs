//! Tests of failures that affect single connections of the daemon, while the server works and new
//! connections succeed. The job must continue without waiting until a lease expires.

use std::time::Duration;

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::proxy::{Direction, FlowFault, Harm, Proxy};
use backfilld_testbed::wait;
use tokio::time::Instant;

use crate::proof::{PLUS_ONE, PLUS_ONE_OF_ANOTHER_ROW, enqueue, exact, table, until_more_batches};
use crate::support::{BACKFILLD, SOON, installed, sql, until_state, value};

const ROWS: i64 = 100_000;

/// Starts a job with a low rate, and a daemon with the default lease times. The daemon connects
/// through the proxy.
async fn begun(job: &str, set: &str) -> (Cluster, Proxy, Daemon) {
    let cluster = installed(Options::default()).await;
    let proxy = Proxy::to(cluster.addr()).await;
    table(&cluster, job, ROWS).await;
    let daemon = Daemon::builder(BACKFILLD, &proxy.url("owner", "app")).start();
    daemon.wait_ready(SOON).await;
    enqueue(&cluster, job, set, r#"{"slices": 2, "max_rows_per_second": 300, "max_batch_rows": 10}"#).await;
    until_more_batches(&cluster.owner().await, job, 4).await;
    (cluster, proxy, daemon)
}

/// Lets the job finish, and checks that each row was changed once, and that no slice had to wait
/// until its lease expired.
async fn ended(cluster: &Cluster, job: &str) {
    let owner = cluster.owner().await;
    let takeovers: i64 = value(&owner, "select count(*) from backfill.events where kind = 'takeover'").await;
    sql(
        cluster,
        &format!(r#"select backfill.tune('{job}', '{{"max_rows_per_second": 1000000, "max_batch_rows": 5000}}')"#),
    )
    .await;
    until_state(cluster, job, "succeeded", SOON).await;
    exact(cluster, job, ROWS).await.unwrap();
    assert_eq!(takeovers, 0, "a slice continued only after its lease had expired");
}

async fn survive(job: &str, set: &str, startup: &'static str) {
    let (cluster, proxy, _daemon) = begun(job, set).await;
    let owner = cluster.owner().await;
    for direction in [Direction::ToClient, Direction::ToServer] {
        for harm in [Harm::Lose, Harm::Stall, Harm::Delay(Duration::from_millis(700))] {
            let (started, harmed) = (Instant::now(), proxy.harmed());
            // If the daemon is still replacing connections because of the previous fault, this
            // fault must also affect the new connections.
            wait::until(SOON, "the fault has an effect", async || {
                proxy.harm_open_flows(FlowFault { startup, direction, harm });
                proxy.harmed() > harmed
            })
            .await;
            until_more_batches(&owner, job, 6).await;
            eprintln!("{startup:?} {direction:?} {harm:?}: 6 batches after {:?}", started.elapsed());
            proxy.pass();
            until_more_batches(&owner, job, 3).await;
        }
    }
    ended(&cluster, job).await;
}

/// The server is repeatedly suspended and resumed, for times from milliseconds to seconds. These
/// suspensions alone can delay an answer, so the daemon must not blame a row or the job's code.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_survives_a_server_that_is_suspended_again_and_again() {
    let (cluster, _proxy, _daemon) = begun("suspended", PLUS_ONE).await;
    let owner = cluster.owner().await;
    for (suspended, running, times) in [(10, 20, 60), (150, 150, 15), (700, 100, 6), (1500, 150, 4), (4000, 150, 4)] {
        for _ in 0..times {
            cluster.suspend(Duration::from_millis(suspended)).await;
            tokio::time::sleep(Duration::from_millis(running)).await;
        }
        let started = Instant::now();
        until_more_batches(&owner, "suspended", 6).await;
        eprintln!("{times} times {suspended} ms: 6 batches {:?} after the last", started.elapsed());
    }
    sql(&cluster, r#"select backfill.tune('suspended', '{"max_rows_per_second": 1000000, "max_batch_rows": 5000}')"#)
        .await;
    until_state(&cluster, "suspended", "succeeded", SOON).await;
    exact(&cluster, "suspended", ROWS).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_survives_faults_of_its_executors_connections() {
    survive("executor", PLUS_ONE, "backfilld job").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeatable_read_job_survives_faults_of_its_executors_connections() {
    survive("executor_rr", PLUS_ONE_OF_ANOTHER_ROW, "backfilld job").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_survives_faults_of_the_control_connections() {
    survive("control", PLUS_ONE, "backfilld control").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_survives_faults_of_the_heartbeats_connection() {
    survive("heartbeat", PLUS_ONE, "backfilld heartbeat").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_survives_faults_of_all_open_connections() {
    survive("every", PLUS_ONE, "backfilld").await;
}

/// Each answer arrives half a second late. Batches grow, and the job reports why it is slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_slow_network_batches_grow_and_the_job_says_why_it_is_slow() {
    let cluster = installed(Options::default()).await;
    let proxy = Proxy::to(cluster.addr()).await;
    table(&cluster, "slow", ROWS).await;
    let daemon = Daemon::builder(BACKFILLD, &proxy.url("owner", "app")).start();
    daemon.wait_ready(SOON).await;
    let owner = cluster.owner().await;
    enqueue(&cluster, "slow", PLUS_ONE, r#"{"slices": 1}"#).await;
    until_more_batches(&owner, "slow", 1).await;
    let fault = FlowFault {
        startup: "backfilld job",
        direction: Direction::ToClient,
        harm: Harm::Delay(Duration::from_millis(500)),
    };
    wait::until(SOON, "the delay has an effect and is reported", async || {
        proxy.harm_open_flows(fault);
        let told =
            "select throttled_text like 'the network to the server is slow: it adds % ms to each batch%' from backfill.jobs";
        value::<Option<bool>>(&owner, told).await == Some(true)
    })
    .await;
    proxy.pass();
    ended(&cluster, "slow").await;
}
