//! Tests of rollouts during which daemons are killed and servers crash.

use backfilld_testbed::cluster::Options;
use backfilld_testbed::proxy::Proxy;
use backfilld_testbed::server::Mode;
use backfilld_testbed::standby::Standby;
use backfilld_testbed::wait;

use crate::support::{SOON, installed, run, value};

use super::{DIFFERENT, TABLE, daemon, daemon_at, fingerprint, spec, start, until_rollout};

/// A daemon is killed before and after each statement. The next daemon continues.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_goes_on_after_a_kill_at_each_statement() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let before = fingerprint(&owner).await;
    start(&owner, &spec("switched")).await;
    let mut kills = 0;
    loop {
        // Only statements that create an index reach the third failpoint.
        let creates_index = value::<bool>(&owner, "select stage = 'verified' from backfill.rollouts").await;
        let points = ["rollout_claimed", "rollout_statement_ended", "rollout_before_record"];
        let point = points[kills % if creates_index { 3 } else { 2 }];
        let killed = daemon(&cluster).env("BACKFILLD_FAILPOINT", format!("{point}=abort")).start();
        wait::until(SOON * 2, "the daemon is killed, or the rollout waits", async || {
            killed.ended().is_some() || value::<bool>(&owner, "select state = 'waiting' from backfill.rollouts").await
        })
        .await;
        if killed.ended().is_none() {
            break;
        }
        kills += 1;
        // The lease of the killed daemon ends now, as it would after half a minute.
        run(&owner, "update backfill.rollout set expires_at = now() - interval '1 s' where expires_at is not null")
            .await;
        assert_ne!(value::<String>(&owner, "select state from backfill.rollouts").await, "failed");
    }
    assert!(kills > 8, "{kills} kills");
    assert_eq!(value::<String>(&owner, "select stage from backfill.rollouts").await, "switched");
    assert_eq!(value::<i64>(&owner, DIFFERENT).await, 0);
    run(&owner, "select backfill.rollout_rollback('cents')").await;
    let mut points = ["rollout_statement_ended", "rollout_claimed"].iter().cycle();
    loop {
        let killed = daemon(&cluster).env("BACKFILLD_FAILPOINT", format!("{}=abort", points.next().unwrap())).start();
        wait::until(SOON * 2, "the daemon is killed, or the rollout is rolled back", async || {
            killed.ended().is_some()
                || value::<bool>(&owner, "select state = 'rolled_back' from backfill.rollouts").await
        })
        .await;
        if killed.ended().is_none() {
            break;
        }
        run(&owner, "update backfill.rollout set expires_at = now() - interval '1 s' where expires_at is not null")
            .await;
    }
    assert_eq!(fingerprint(&owner).await, before);
}

/// The number of kills. `make test-rollout-kills` sets a higher one.
fn kills() -> u32 {
    std::env::var("BACKFILLD_ROLLOUT_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

/// Daemons are killed, and the server crashes, at random moments of a rollout and of its rollback.
/// Afterwards either the rollout is complete, or the schema is the same as before the rollout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_survives_random_kills() {
    let cluster = installed(Options::default()).await;
    run(&cluster.owner().await, TABLE).await;
    let before = fingerprint(&cluster.owner().await).await;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let (mut killed, mut round) = (0, 0);
    while killed < kills() {
        round += 1;
        let owner = cluster.owner().await;
        let rolls_back = round % 3 == 0;
        start(&owner, &spec("switched")).await;
        let mut asked = false;
        loop {
            let running = daemon(&cluster).start();
            running.wait_ready(SOON).await;
            tokio::time::sleep(std::time::Duration::from_millis(next(1200))).await;
            running.sigkill();
            killed += 1;
            if next(8) == 0 {
                cluster.restart(Mode::Immediate).await;
            }
            let owner = cluster.owner().await;
            run(&owner, "update backfill.rollout set expires_at = now() - interval '1 s' where expires_at is not null")
                .await;
            run(&owner, "update backfill.lease set expires_at = now() - interval '1 s'").await;
            let (stage, state): (String, String) = {
                let row = owner.query_one("select stage, state from backfill.rollouts", &[]).await.unwrap();
                (row.get(0), row.get(1))
            };
            assert_ne!(
                state,
                "failed",
                "{}",
                value::<String>(&owner, "select error || ' ' || hint from backfill.rollouts").await
            );
            if rolls_back && !asked && stage != "planned" && next(3) == 0 {
                run(&owner, "select backfill.rollout_rollback('cents')").await;
                asked = true;
            }
            if ["waiting", "rolled_back"].contains(&state.as_str()) {
                break;
            }
        }
        let owner = cluster.owner().await;
        if value::<String>(&owner, "select state from backfill.rollouts").await == "waiting" {
            assert_eq!(value::<i64>(&owner, DIFFERENT).await, 0);
            let _daemon = daemon(&cluster).start();
            run(&owner, "select backfill.rollout_rollback('cents')").await;
            until_rollout(&owner, "cents", "state = 'rolled_back'").await;
        }
        assert_eq!(fingerprint(&owner).await, before, "round {round}");
        run(&owner, "select backfill.forget(name) from backfill.jobs where finished_at is not null").await;
    }
}

/// The standby has not received the last statements of a rollout when it is promoted. The rollout
/// continues on the promoted server from the last state that the standby received, and can be
/// rolled back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_goes_on_after_a_failover_that_loses_statements() {
    let cluster = installed(Options::default()).await;
    let proxy = Proxy::to(cluster.addr()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let before = fingerprint(&owner).await;
    let standby = Standby::of(&cluster).await;
    let _daemon = daemon_at(&proxy.url("owner", "app")).start();
    start(&owner, &spec("syncing")).await;
    until_rollout(&owner, "cents", "stage = 'syncing' and state = 'waiting'").await;
    standby.wait_caught_up(SOON).await;
    // From now on the standby receives no WAL.
    standby.sql("postgres", "postgres", "alter system set primary_conninfo = ''").await;
    standby.sql("postgres", "postgres", "select pg_reload_conf()").await;
    wait::until(SOON, "the standby has stopped streaming", async || {
        standby.value::<bool>("postgres", "postgres", "select not exists (select from pg_stat_wal_receiver)").await
    })
    .await;
    for stage in ["backfilled", "verified", "constrained"] {
        run(&owner, "select backfill.rollout_advance('cents')").await;
        until_rollout(&owner, "cents", &format!("stage = '{stage}' and state = 'waiting'")).await;
    }
    cluster.stop(Mode::Immediate).await;
    standby.promote().await;
    proxy.retarget(standby.addr());
    proxy.cut();
    let promoted = standby.client("owner", "app").await;
    assert_eq!(value::<String>(&promoted, "select stage from backfill.rollouts").await, "syncing");
    run(&promoted, "insert into orders (total) values (77)").await;
    for stage in ["backfilled", "verified", "constrained", "switched"] {
        run(&promoted, "select backfill.rollout_advance('cents')").await;
        until_rollout(&promoted, "cents", &format!("stage = '{stage}' and state = 'waiting'")).await;
    }
    assert_eq!(value::<i64>(&promoted, DIFFERENT).await, 0);
    run(&promoted, "select backfill.rollout_rollback('cents')").await;
    until_rollout(&promoted, "cents", "state = 'rolled_back' and error is null").await;
    assert_eq!(fingerprint(&promoted).await, before);
}
