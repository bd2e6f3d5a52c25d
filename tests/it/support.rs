//! What the tests share: a cluster with the usual owner, a daemon on it, and the questions they all ask.

use std::time::Duration;

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::wait;

/// Long enough for a busy machine; a test that reaches it has failed.
pub const SOON: Duration = Duration::from_secs(30);

/// The binary under test.
pub const BACKFILLD: &str = env!("CARGO_BIN_EXE_backfilld");

/// A primary with database `app`, role `owner`, and schema backfill installed.
pub async fn installed(options: Options) -> Cluster {
    let cluster = Cluster::with_owner(options).await;
    let output = tokio::process::Command::new(BACKFILLD)
        .arg("migrate")
        .env("BACKFILLD_DATABASE_URL", cluster.owner_url())
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "migrate: {}", String::from_utf8_lossy(&output.stderr));
    cluster
}

/// A daemon on the owner's url that is ready to work.
pub async fn daemon(cluster: &Cluster) -> Daemon {
    let daemon = Daemon::builder(BACKFILLD, &cluster.owner_url()).start();
    daemon.wait_ready(SOON).await;
    daemon
}

/// One SQL statement as the owner.
pub async fn sql(cluster: &Cluster, statement: &str) {
    cluster.sql("owner", "app", statement).await;
}

/// Waits until a job is in `state`; panics with its error if it fails instead.
pub async fn until_state(cluster: &Cluster, name: &str, state: &str, limit: Duration) {
    let owner = cluster.owner().await;
    let what = format!("job {name} is {state}");
    wait::until(limit, &what, async || {
        let row = owner
            .query_one("select state, coalesce(error, '') from backfill.jobs where name = $1", &[&name])
            .await
            .unwrap();
        let (now, error): (String, String) = (row.get(0), row.get(1));
        assert!(now == state || now != "failed", "job {name} failed: {error}");
        now == state
    })
    .await;
}
