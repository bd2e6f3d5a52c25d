//! Tests daemons of two releases on one database, and even on the same job. By default, this binary
//! acts as both releases: as itself, and as the next release (`Release::next`).
//! `BACKFILLD_PREVIOUS` can name the binary of an earlier release, which `make test-upgrade` builds
//! from its tag. In this case, that binary is the earlier release, and this binary is the later
//! one.

use std::path::PathBuf;

use backfilld::pg::schema::release::PLAY_NEXT;
use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::{Builder, Daemon};

use crate::proof::{Dice, PLUS_ONE, PLUS_ONE_OF_ANOTHER_ROW, QUICK, enqueue, exact, quick, table, until_more_batches};
use crate::support::{BACKFILLD, SOON, make_roles, run, sql, until_state, until_true, value};

const FAST: &str = r#"{"max_rows_per_second": 1000000}"#;

fn previous() -> Option<PathBuf> {
    std::env::var_os("BACKFILLD_PREVIOUS").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Returns the binary of the earlier of the two releases.
fn earlier() -> PathBuf {
    previous().unwrap_or_else(|| PathBuf::from(BACKFILLD))
}

/// Returns the environment that makes this binary act as the later release. The environment is
/// empty if `BACKFILLD_PREVIOUS` is set, because this binary is then already the later release.
fn later_environment() -> Vec<(&'static str, &'static str)> {
    if previous().is_some() { Vec::new() } else { vec![(PLAY_NEXT, "1")] }
}

async fn backfilld(
    binary: &PathBuf,
    environment: &[(&'static str, &'static str)],
    cluster: &Cluster,
    arguments: &[&str],
) {
    let mut command = tokio::process::Command::new(binary);
    command.args(arguments).env("BACKFILLD_DATABASE_URL", cluster.owner_url()).envs(environment.iter().copied());
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Starts a cluster with a database in which the earlier release installed the schema.
async fn installed_by_the_earlier() -> Cluster {
    let cluster = Cluster::with_owner(Options::default()).await;
    make_roles(&cluster).await;
    backfilld(&earlier(), &[], &cluster, &["migrate"]).await;
    cluster
}

async fn upgrade(cluster: &Cluster) {
    backfilld(&PathBuf::from(BACKFILLD), &later_environment(), cluster, &["migrate"]).await;
}

/// Returns [`QUICK`] with this number of workers.
fn config(workers: u32) -> String {
    format!("{QUICK}\ndatabases: [{{name: main, url: 'postgres://x', workers: {workers}}}]")
}

/// Returns a builder for a daemon of the earlier release. The daemon migrates the schema at its
/// start if necessary.
fn old(cluster: &Cluster, workers: u32) -> Builder {
    Daemon::builder(earlier(), &cluster.owner_url()).config(config(workers))
}

/// Returns a builder for a daemon of the later release.
fn new(cluster: &Cluster, workers: u32) -> Builder {
    let builder = quick(&cluster.owner_url()).config(config(workers));
    later_environment().into_iter().fold(builder, |builder, (name, value)| builder.env(name, value))
}

/// Returns whether both the later release's daemon and a daemon of the earlier release hold slices
/// of the job at the moment.
async fn both_at_work(cluster: &Cluster, job: &str, later: &Daemon) -> bool {
    let sql = format!(
        "select count(distinct w.pid = {}) = 2 from backfill.slices s join backfill.workers w on w.id = s.holder where s.name = '{job}'",
        later.pid()
    );
    value(&cluster.owner().await, &sql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_releases_share_a_job_through_an_upgrade_even_if_both_are_killed_repeatedly() {
    const ROWS: i64 = 200_000;
    let cluster = installed_by_the_earlier().await;
    let owner = cluster.owner().await;
    for (job, set) in [("rc", PLUS_ONE), ("rr", PLUS_ONE_OF_ANOTHER_ROW)] {
        table(&cluster, job, ROWS).await;
        enqueue(&cluster, job, set, r#"{"slices": 4, "max_rows_per_second": 5000, "max_batch_rows": 150}"#).await;
    }
    // Together, three daemons with three workers each can run all slices at once. A single daemon
    // cannot. The daemon `stays` runs during the whole test and is never restarted.
    let stays = old(&cluster, 3).start();
    stays.wait_ready(SOON).await;
    let mut killed = old(&cluster, 3).start();
    until_more_batches(&owner, "rc", 10).await;
    until_more_batches(&owner, "rr", 10).await;

    upgrade(&cluster).await;
    until_more_batches(&owner, "rc", 10).await;
    let mut this = new(&cluster, 3).start();
    let mut dice = Dice::new();
    let (mut shared, mut kills) = (false, 0);
    while kills < 12 || !shared {
        let job = if dice.roll(0, 1) == 0 { "rc" } else { "rr" };
        until_more_batches(&owner, job, i64::try_from(dice.roll(1, 30)).unwrap()).await;
        shared |= both_at_work(&cluster, "rc", &this).await || both_at_work(&cluster, "rr", &this).await;
        // Kill a daemon of either release, so that each release takes over slices from the other
        // one.
        if dice.roll(0, 1) == 0 {
            killed.sigkill();
            killed = old(&cluster, 3).start();
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
    assert!(takeovers > 0, "no slice was taken over: no killed daemon held a slice");
    assert!(!stays.output().contains("panicked"), "{}", stays.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_earlier_release_resumes_jobs_that_the_later_one_planned_after_a_rollback() {
    const ROWS: i64 = 20_000;
    let cluster = installed_by_the_earlier().await;
    let owner = cluster.owner().await;
    upgrade(&cluster).await;
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
    // Kill the daemon of the later release, as an operator does in a rollback that cannot wait for
    // a drain.
    this.sigkill();
    this.wait_exit(SOON).await;
    for job in ["rc", "rr", "filtered"] {
        let left: i64 = value(&owner, &format!("select count(*) from {job} where n = 0")).await;
        assert!(left > ROWS / 4, "{job}: only {left} rows were left at the rollback");
    }

    let last = old(&cluster, 9).start();
    last.wait_ready(SOON).await;
    for job in ["rc", "rr", "filtered"] {
        sql(&cluster, &format!("select backfill.tune('{job}', '{FAST}')")).await;
        until_state(&cluster, job, "succeeded", SOON).await;
        exact(&cluster, job, ROWS).await.unwrap_or_else(|wrong| panic!("{job}: {wrong}"));
    }
    // The earlier release also runs new jobs that its own command line enqueues. It ignores a job
    // whose slice has an unsupported protocol (here 1000).
    table(&cluster, "next", 100).await;
    backfilld(&earlier(), &[], &cluster, &["enqueue", "next", "--target", "next", "--set", "n = n + 1"]).await;
    until_state(&cluster, "next", "succeeded", SOON).await;
    exact(&cluster, "next", 100).await.unwrap();
    run(&owner, "select backfill.pause_all()").await;
    table(&cluster, "later", 100).await;
    enqueue(&cluster, "later", PLUS_ONE, "{}").await;
    run(&owner, "update backfill.slice set protocol = 1000 where job_id = (select id from backfill.job where name = 'later'); select backfill.resume_all()").await;
    table(&cluster, "other", 100).await;
    enqueue(&cluster, "other", PLUS_ONE, "{}").await;
    until_state(&cluster, "other", "succeeded", SOON).await;
    assert_eq!(value::<String>(&owner, "select state from backfill.jobs where name = 'later'").await, "queued");
    assert!(last.ended().is_none(), "{}", last.output());
}

/// An operator rolls out a new image: `backfilld run` of the later release starts and upgrades the
/// schema. Meanwhile, daemons of the earlier release use the schema.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_the_later_release_upgrades_while_the_earlier_one_works() {
    const ROWS: i64 = 60_000;
    let cluster = installed_by_the_earlier().await;
    let owner = cluster.owner().await;
    table(&cluster, "rolling", ROWS).await;
    enqueue(&cluster, "rolling", PLUS_ONE, r#"{"slices": 4, "max_rows_per_second": 20000, "max_batch_rows": 50}"#)
        .await;
    let olds = [old(&cluster, 2).start(), old(&cluster, 2).start()];
    until_more_batches(&owner, "rolling", 20).await;
    // For each old daemon, first a new daemon starts, then the old one drains.
    let mut news = Vec::new();
    for last in &olds {
        let new = later_environment()
            .into_iter()
            .fold(Daemon::builder(BACKFILLD, &cluster.owner_url()).config(QUICK), |builder, (name, value)| {
                builder.env(name, value)
            })
            .start();
        new.wait_ready(SOON).await;
        assert!(last.ended().is_none(), "{}", last.output());
        last.sigterm();
        assert!(last.wait_exit(SOON).await.success(), "{}", last.output());
        news.push(new);
    }
    until_state(&cluster, "rolling", "succeeded", SOON).await;
    exact(&cluster, "rolling", ROWS).await.unwrap();
    let failed = olds.iter().chain(&news).filter(|daemon| daemon.output().contains("job failed")).count();
    assert_eq!(failed, 0);
    assert!(
        value::<bool>(&owner, "select count(*) > 1 from backfill.schema_version").await,
        "no daemon upgraded the schema"
    );
}

/// A daemon can neither claim nor take over a slice of a later protocol.
#[tokio::test]
async fn a_daemon_is_never_offered_a_slice_of_a_later_protocol() {
    let cluster = crate::support::installed(Options::default()).await;
    let owner = cluster.owner().await;
    table(&cluster, "t", 10).await;
    run(&owner, "select backfill._register_executor('owner', 'owner', true)").await;
    enqueue(&cluster, "t", PLUS_ONE, "{}").await;
    run(&owner, "update backfill.slice set protocol = 2").await;
    let offered = "select backfill._claim(gen_random_uuid(), array['owner']::name[], '1 ms', 1) is not null";
    assert!(!value::<bool>(&owner, offered).await, "the slice was offered");
    // Simulates a daemon that supports the protocol, claims the slice and is then killed.
    run(&owner, "select backfill._claim(gen_random_uuid(), array['owner']::name[], '-1 s', 2)").await;
    assert!(!value::<bool>(&owner, offered).await, "the takeover was offered");
    run(&owner, "update backfill.slice set protocol = 1").await;
    assert!(value::<bool>(&owner, offered).await);
}
