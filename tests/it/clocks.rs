//! Tests of clocks that are wrong, and of a schema that is installed again under a running daemon.

use backfilld_testbed::cluster::Options;
use backfilld_testbed::daemon::Daemon;

use crate::proof::{PLUS_ONE, enqueue, exact, table, until_more_batches};
use crate::support::{BACKFILLD, SOON, daemon, installed, migrate, run, until_state, until_true, value};

/// The clock of the server is set back by an hour after a daemon has died, so the leases of this
/// daemon seem to last for another hour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_from_before_the_clock_was_set_back_is_taken_over() {
    const ROWS: i64 = 2_000;
    let cluster = installed(Options::default()).await;
    table(&cluster, "late", ROWS).await;
    let owner = cluster.owner().await;
    let dead = daemon(&cluster).await;
    enqueue(&cluster, "late", PLUS_ONE, r#"{"slices": 2, "max_rows_per_second": 200, "max_batch_rows": 10}"#).await;
    until_more_batches(&owner, "late", 4).await;
    dead.sigkill();
    dead.wait_exit(SOON).await;
    run(&owner, "update backfill.lease set expires_at = expires_at + interval '1 hour'; update backfill.worker set expires_at = expires_at + interval '1 hour'").await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select count(*) > 0 from backfill.events where kind = 'takeover'").await;
    until_true(&owner, SOON, "select count(*) = 1 from backfill.workers where alive").await;
    run(&owner, r#"select backfill.tune('late', '{"max_rows_per_second": 1000000, "max_batch_rows": 1000}')"#).await;
    until_state(&cluster, "late", "succeeded", SOON).await;
    exact(&cluster, "late", ROWS).await.unwrap();
}

/// The clock of the daemon is an hour ahead. Only the server's clock decides whether a window is
/// open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_follow_the_clock_of_the_server() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    for name in ["open", "closed"] {
        table(&cluster, name, 100).await;
    }
    // One window opened 5 minutes ago for half an hour. The other one opens in 55 minutes.
    let enqueue = "select backfill.enqueue(x.name, x.name::regclass, 'n = n + 1', options => jsonb_build_object('window', jsonb_build_object(
        'open', to_char(now() at time zone 'UTC' + x.opens, 'FMMI FMHH24') || ' * * *', 'hours', 0.5)))
        from (values ('open', interval '-5 minutes'), ('closed', interval '55 minutes')) x(name, opens)";
    run(&owner, enqueue).await;
    let daemon =
        Daemon::builder(BACKFILLD, &cluster.owner_url()).env("BACKFILLD_FAILPOINT", "clock_an_hour_ahead=on").start();
    until_state(&cluster, "open", "succeeded", SOON).await;
    until_true(
        &owner,
        SOON,
        "select coalesce(waiting_reason = 'window', false) from backfill.jobs where name = 'closed'",
    )
    .await;
    assert!(
        daemon.output().contains("the clocks of this machine and of the database server differ"),
        "{}",
        daemon.output()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_registers_again_if_the_schema_was_installed_again() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    let daemon = daemon(&cluster).await;
    for round in 0..2 {
        run(&owner, "drop schema backfill cascade").await;
        if round == 1 {
            // Long enough for the daemon to notice.
            tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        }
        assert!(migrate(&cluster, "owner", "app").await.status.success());
        let name = format!("again{round}");
        table(&cluster, &name, 100).await;
        enqueue(&cluster, &name, PLUS_ONE, "{}").await;
        until_state(&cluster, &name, "succeeded", SOON).await;
        exact(&cluster, &name, 100).await.unwrap();
        assert_eq!(value::<i64>(&owner, "select count(*) from backfill.workers where alive").await, 1);
    }
    assert!(daemon.ended().is_none());
}
