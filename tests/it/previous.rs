//! This release beside the last one's own binary: `make test-upgrade` builds it and names it in `BACKFILLD_PREVIOUS`.
//! Without that these tests are skipped; what the last release says to the database is tested in `upgrade.rs` anyway.

use std::path::PathBuf;

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::{Builder, Daemon};

use crate::proof::{Dice, PLUS_ONE, PLUS_ONE_OF_ANOTHER_ROW, QUICK, enqueue, exact, quick, table, until_more_batches};
use crate::support::{SOON, make_roles, migrate, run, sql, until_state, until_true, value};

const FAST: &str = r#"{"max_rows_per_second": 1000000}"#;

/// The last release's binary, if there is one here.
fn previous() -> Option<PathBuf> {
    let binary = std::env::var_os("BACKFILLD_PREVIOUS").filter(|path| !path.is_empty()).map(PathBuf::from);
    if binary.is_none() {
        eprintln!("skipped: BACKFILLD_PREVIOUS does not name the last release's binary (make test-upgrade does)");
    }
    binary
}

/// A database that the last release's `migrate` installed.
async fn installed_by(previous: &PathBuf) -> Cluster {
    let cluster = Cluster::with_owner(Options::default()).await;
    make_roles(&cluster).await;
    let mut command = tokio::process::Command::new(previous);
    let output = command.arg("migrate").env("BACKFILLD_DATABASE_URL", cluster.owner_url()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    cluster
}

/// As [`QUICK`], with so many slices at once.
fn config(workers: u32) -> String {
    format!("{QUICK}\ndatabases: [{{name: main, url: 'postgres://x', workers: {workers}}}]")
}

/// A daemon of the last release, as it is run by default: it migrates, or finds that it need not.
fn old(previous: &PathBuf, cluster: &Cluster, workers: u32) -> Builder {
    Daemon::builder(previous, &cluster.owner_url()).config(config(workers))
}

/// A daemon of this release.
fn new(cluster: &Cluster, workers: u32) -> Builder {
    quick(&cluster.owner_url()).config(config(workers))
}

async fn versions_at_work(cluster: &Cluster, job: &str) -> i64 {
    let sql = format!(
        "select count(distinct w.version) from backfill.slices s join backfill.workers w on w.id = s.holder where s.name = '{job}'"
    );
    value(&cluster.owner().await, &sql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_releases_share_a_job_through_an_upgrade_though_both_are_killed_again_and_again() {
    let Some(previous) = previous() else { return };
    const ROWS: i64 = 200_000;
    let cluster = installed_by(&previous).await;
    let owner = cluster.owner().await;
    for (job, set) in [("rc", PLUS_ONE), ("rr", PLUS_ONE_OF_ANOTHER_ROW)] {
        table(&cluster, job, ROWS).await;
        enqueue(&cluster, job, set, r#"{"slices": 4, "max_rows_per_second": 5000, "max_batch_rows": 150}"#).await;
    }
    // Three daemons with three workers each: enough for all slices, and none for all of them.
    // This one was there before, is there throughout, and is never restarted.
    let stays = old(&previous, &cluster, 3).start();
    stays.wait_ready(SOON).await;
    let mut killed = old(&previous, &cluster, 3).start();
    until_more_batches(&owner, "rc", 10).await;
    until_more_batches(&owner, "rr", 10).await;

    let output = migrate(&cluster, "owner", "app").await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    until_more_batches(&owner, "rc", 10).await;
    let mut this = new(&cluster, 3).start();
    let mut dice = Dice::new();
    let (mut shared, mut kills) = (false, 0);
    while kills < 12 || !shared {
        let job = if dice.roll(0, 1) == 0 { "rc" } else { "rr" };
        until_more_batches(&owner, job, i64::try_from(dice.roll(1, 30)).unwrap()).await;
        shared |= versions_at_work(&cluster, "rc").await > 1 || versions_at_work(&cluster, "rr").await > 1;
        // Both releases take over from either.
        if dice.roll(0, 1) == 0 {
            killed.sigkill();
            killed = old(&previous, &cluster, 3).start();
        } else {
            this.sigkill();
            this = new(&cluster, 3).start();
        }
        kills += 1;
    }
    assert!(stays.ended().is_none(), "{}", stays.output());
    sql(&cluster, &format!("select backfill.tune('rc', '{FAST}'), backfill.tune('rr', '{FAST}')")).await;
    for job in ["rc", "rr"] {
        until_state(&cluster, job, "succeeded", SOON * 2).await;
        exact(&cluster, job, ROWS).await.unwrap_or_else(|wrong| panic!("{job}: {wrong}"));
    }
    let takeovers: i64 = value(&owner, "select count(*) from backfill.events where kind = 'takeover'").await;
    assert!(takeovers > 0, "nobody's slice was taken over: the kills met nobody at work");
    assert!(!stays.output().contains("panicked"), "{}", stays.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_rollback_the_last_release_goes_on_with_what_this_one_planned() {
    let Some(previous) = previous() else { return };
    const ROWS: i64 = 20_000;
    let cluster = installed_by(&previous).await;
    let owner = cluster.owner().await;
    assert!(migrate(&cluster, "owner", "app").await.status.success());
    let slow = r#"{"slices": 3, "max_rows_per_second": 1000, "max_batch_rows": 100}"#;
    for (job, set) in [("rc", PLUS_ONE), ("rr", PLUS_ONE_OF_ANOTHER_ROW)] {
        table(&cluster, job, ROWS).await;
        enqueue(&cluster, job, set, slow).await;
    }
    table(&cluster, "filtered", ROWS).await;
    run(&owner, &format!("select backfill.enqueue('filtered', 'filtered', 'n = 1', 'n = 0', options => '{slow}')"))
        .await;
    let this = new(&cluster, 9).start();
    for job in ["rc", "rr", "filtered"] {
        until_true(&owner, SOON, &format!("select rows_changed > 500 from backfill.jobs where name = '{job}'")).await;
    }
    // One is killed, as in a rollback that can't wait.
    this.sigkill();
    this.wait_exit(SOON).await;
    for job in ["rc", "rr", "filtered"] {
        let left: i64 = value(&owner, &format!("select count(*) from {job} where n = 0")).await;
        assert!(left > ROWS / 4, "{job} was over before the rollback");
    }

    let last = old(&previous, &cluster, 9).start();
    last.wait_ready(SOON).await;
    for job in ["rc", "rr", "filtered"] {
        sql(&cluster, &format!("select backfill.tune('{job}', '{FAST}')")).await;
        until_state(&cluster, job, "succeeded", SOON).await;
        exact(&cluster, job, ROWS).await.unwrap_or_else(|wrong| panic!("{job}: {wrong}"));
    }
    // New work too, from its own command line, and what it can't do it leaves alone.
    table(&cluster, "next", 100).await;
    let mut command = tokio::process::Command::new(&previous);
    command.args(["enqueue", "next", "--target", "next", "--set", "n = n + 1"]);
    let output = command.env("BACKFILLD_DATABASE_URL", cluster.owner_url()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    until_state(&cluster, "next", "succeeded", SOON).await;
    exact(&cluster, "next", 100).await.unwrap();
    run(&owner, "select backfill.pause_all()").await;
    table(&cluster, "needs", 100).await;
    enqueue(&cluster, "needs", PLUS_ONE, "{}").await;
    run(&owner, "update backfill.slice set needs = 2 where job_id = (select id from backfill.job where name = 'needs'); select backfill.resume_all()").await;
    table(&cluster, "other", 100).await;
    enqueue(&cluster, "other", PLUS_ONE, "{}").await;
    until_state(&cluster, "other", "succeeded", SOON).await;
    assert_eq!(value::<String>(&owner, "select state from backfill.jobs where name = 'needs'").await, "queued");
    // Forward again.
    let _this = new(&cluster, 2).start();
    until_state(&cluster, "needs", "succeeded", SOON).await;
    exact(&cluster, "needs", 100).await.unwrap();
    assert!(last.ended().is_none(), "{}", last.output());
}

/// `backfilld run` of this release, with its migration, on the live schema of the last: what an operator who rolls out
/// a new image does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_this_release_upgrades_under_the_last_ones_hands() {
    let Some(previous) = previous() else { return };
    const ROWS: i64 = 60_000;
    let cluster = installed_by(&previous).await;
    let owner = cluster.owner().await;
    table(&cluster, "rolling", ROWS).await;
    enqueue(&cluster, "rolling", PLUS_ONE, r#"{"slices": 4, "max_rows_per_second": 20000, "max_batch_rows": 50}"#)
        .await;
    let olds = [old(&previous, &cluster, 2).start(), old(&previous, &cluster, 2).start()];
    until_more_batches(&owner, "rolling", 20).await;
    // One at a time: the new one comes, an old one drains.
    let mut news = Vec::new();
    for last in &olds {
        let new = Daemon::builder(crate::support::BACKFILLD, &cluster.owner_url()).config(QUICK).start();
        new.wait_ready(SOON).await;
        assert!(last.ended().is_none(), "{}", last.output());
        last.sigterm();
        assert!(last.wait_exit(SOON).await.success(), "{}", last.output());
        news.push(new);
    }
    until_state(&cluster, "rolling", "succeeded", SOON).await;
    exact(&cluster, "rolling", ROWS).await.unwrap();
    let fenced = olds.iter().chain(&news).filter(|daemon| daemon.output().contains("job failed")).count();
    assert_eq!(fenced, 0);
}
