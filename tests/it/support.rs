//! Code that the tests share: a cluster with the role `owner`, a daemon, and the queries that many
//! tests need.

use std::time::Duration;

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::server::describe;
use backfilld_testbed::wait;
use tokio_postgres::Client;
use tokio_postgres::types::FromSqlOwned;

/// The time limit of most waits. It is long enough for a busy machine.
pub const SOON: Duration = Duration::from_secs(60);

/// The binary that the tests run.
pub const BACKFILLD: &str = env!("CARGO_BIN_EXE_backfilld");

/// Starts a primary with database `app`, role `owner`, and schema backfill installed.
pub async fn installed(options: Options) -> Cluster {
    let cluster = Cluster::with_owner(options).await;
    make_roles(&cluster).await;
    let output = migrate(&cluster, "owner", "app").await;
    assert!(output.status.success(), "migrate: {}", String::from_utf8_lossy(&output.stderr));
    cluster
}

/// Creates the roles that docs/contract.md names, because `owner` lacks the privilege to create
/// roles.
pub async fn make_roles(cluster: &Cluster) {
    for role in ["backfill_reader", "backfill_submitter", "backfill_operator"] {
        cluster.create_role(role, "nologin").await;
    }
}

/// Returns true and prints a message if the server is older than version `since` of PostgreSQL. A
/// test of a feature of that version must then be skipped.
pub fn not_before(since: u32, cluster: &Cluster, what: &str) -> bool {
    let skipped = cluster.major() < since;
    if skipped {
        eprintln!("skipped: PostgreSQL {} has no {what}; PostgreSQL {since} introduced it", cluster.major());
    }
    skipped
}

/// Starts a daemon with the owner's URL and waits until it is ready.
pub async fn daemon(cluster: &Cluster) -> Daemon {
    let daemon = Daemon::builder(BACKFILLD, &cluster.owner_url()).start();
    daemon.wait_ready(SOON).await;
    daemon
}

/// Runs SQL statements as the owner, in a new session.
pub async fn sql(cluster: &Cluster, statement: &str) {
    cluster.sql("owner", "app", statement).await;
}

/// Waits until a job is in `state`. Panics with the job's error if the job fails instead. The
/// daemon is slower on a machine that is busy with other tests. Therefore, if a wait for
/// `succeeded` reaches `limit` but the job has scanned rows in this time, the wait continues for
/// another `limit`.
pub async fn until_state(cluster: &Cluster, name: &str, state: &str, limit: Duration) {
    let owner = cluster.owner().await;
    let what = format!("job {name} is {state}");
    let came_further = std::cell::Cell::new(false);
    let mut before = None;
    let mut is_there = async || {
        let row = owner
            .query_one(
                "select state, coalesce(error, ''), rows_scanned::int8 from backfill.jobs where name = $1",
                &[&name],
            )
            .await
            .unwrap();
        let (now, error, rows): (String, String, i64) = (row.get(0), row.get(1), row.get(2));
        assert!(now == state || now != "failed", "job {name} failed: {error}");
        let there = now == state;
        came_further.set(came_further.get() || before.replace((now, rows)).is_some_and(|before| before.1 != rows));
        if there { Ok(()) } else { Err(before.clone()) }
    };
    loop {
        came_further.set(false);
        let waited = tokio::time::timeout(limit, wait::until_ok(limit * 2, &*what, &mut is_there)).await;
        match waited {
            Ok(()) => return,
            Err(_elapsed) if state == "succeeded" && came_further.get() => {}
            Err(_elapsed) => panic!("timed out after {limit:?} while waiting until {what}; last seen: {before:?}"),
        }
    }
}

/// An error that the server reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl From<tokio_postgres::Error> for ServerError {
    fn from(error: tokio_postgres::Error) -> Self {
        let db = error.as_db_error().unwrap_or_else(|| panic!("the error does not come from the server: {error}"));
        Self {
            sqlstate: db.code().code().to_owned(),
            message: db.message().to_owned(),
            detail: db.detail().map(str::to_owned),
            hint: db.hint().map(str::to_owned),
        }
    }
}

/// Runs a statement that must fail, and returns its error.
pub async fn refused(client: &Client, statement: &str) -> ServerError {
    match client.batch_execute(statement).await {
        Ok(()) => panic!("the statement was accepted: {statement}"),
        Err(error) => error.into(),
    }
}

/// Returns the single value of a query in an open session.
pub async fn value<T: FromSqlOwned>(client: &Client, query: &str) -> T {
    let answer = client.query_one(query, &[]).await.and_then(|row| row.try_get(0));
    answer.unwrap_or_else(|error| panic!("{query}\n{}", describe(&error)))
}

/// Runs statements in an open session.
pub async fn run(client: &Client, statements: &str) {
    client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}\n{}", describe(&error)));
}

/// Waits until a query returns true.
pub async fn until_true(client: &Client, limit: Duration, query: &str) {
    wait::until(limit, query, async || value::<bool>(client, query).await).await;
}

/// Runs `backfilld migrate` on this database of the cluster as `user`, and returns its output.
pub async fn migrate(cluster: &Cluster, user: &str, database: &str) -> std::process::Output {
    tokio::process::Command::new(BACKFILLD)
        .arg("migrate")
        .env("BACKFILLD_DATABASE_URL", cluster.url(user, database))
        .output()
        .await
        .unwrap()
}

/// Configuration in which the probe has no effect. The probe's readings depend on everything that
/// runs on the machine. With the probe, jobs on a busy machine would therefore run at their minimum
/// rate.
pub const NO_PROBE: &str = "databases: [{name: main, url: x, signals: [{name: probe_latency, limit: 1000}]}]";

/// Starts a daemon with the owner's URL and this configuration, and waits until it is ready.
pub async fn daemon_with(cluster: &Cluster, yaml: &str) -> Daemon {
    let daemon = Daemon::builder(BACKFILLD, &cluster.owner_url()).config(yaml).start();
    daemon.wait_ready(SOON).await;
    daemon
}

/// Runs a command of `backfilld` as the owner, and returns its standard output. The command must
/// succeed.
pub async fn backfilld(cluster: &Cluster, arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::new(BACKFILLD);
    let output = command.args(arguments).env("BACKFILLD_DATABASE_URL", cluster.owner_url()).output().await.unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
