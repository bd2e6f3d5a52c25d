//! Tests of SIGHUP. They check which changed settings take effect in a running daemon, and which do
//! not.

use std::time::Duration;

use backfilld_testbed::cluster::Options;
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::wait;
use tokio_postgres::Client;

use crate::support::{BACKFILLD, SOON, daemon_with, installed, run, until_true, value};

/// Waits for a line of the log that contains all of these words, and returns the line.
async fn logged(daemon: &Daemon, words: &[&str]) -> String {
    let mut found = None;
    wait::until(SOON, &format!("the log has {words:?}"), async || {
        found = daemon.output().lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned);
        found.is_some()
    })
    .await;
    found.unwrap_or_default()
}

async fn table(client: &Client, rows: u32) {
    let sql = format!(
        "create table t (id int primary key, n int not null default 0); insert into t select generate_series(1, {rows})"
    );
    run(client, &sql).await;
}

#[tokio::test]
async fn sighup_applies_a_valid_file_and_an_invalid_one_changes_nothing() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    table(&owner, 30_000).await;
    let slow = "lease: {poll_ms: 100}\nlog: {level: info}\ndefaults: {max_rows_per_second: 50, max_batch_rows: 5}\n";
    let daemon = daemon_with(&cluster, slow).await;
    run(&owner, "select backfill.enqueue('j', 't', 'n = n + 1')").await;
    let scanned = "select rows_scanned from backfill.jobs";
    until_true(&owner, SOON, "select rows_scanned > 10 from backfill.jobs").await;

    let elsewhere = format!(
        "{slow}databases:\n  - {{name: main, executors: [{{run_as: owner, url: 'postgres://owner@127.0.0.1:1/app'}}]}}\n"
    );
    for (wrong, said) in [
        ("nope: 1\n", "unknown field `nope`"),
        ("retention: {days: 0}\n", "retention.days is 0"),
        ("log: [\n", "backfilld.yaml:"),
        ("http: {token_file: /nowhere/token}\n", "/nowhere/token"),
        ("defaults: {max_batch_rowz: 5}\n", "max_batch_rowz"),
        // No server listens on port 1, the port of the executor's URL.
        (elsewhere.as_str(), "executor for \"owner\": error connecting"),
    ] {
        daemon.reload(wrong);
        let line = logged(&daemon, &["could not apply the new configuration", said]).await;
        assert!(line.contains("ERROR") && line.contains("the previous configuration stays in effect"), "{line}");
        let before: i64 = value(&owner, scanned).await;
        until_true(&owner, SOON, &format!("select rows_scanned > {before} from backfill.jobs")).await;
    }
    assert!(value::<i64>(&owner, scanned).await < 2000, "an invalid configuration changed the rate");

    daemon.reload("lease: {poll_ms: 100}\nlog: {level: debug, format: json}\n");
    let line = logged(&daemon, &["configuration reloaded", "main"]).await;
    assert!(line.contains("INFO"), "{line}");
    logged(&daemon, &["takes effect only after backfilld restarts", "log.format"]).await;
    until_true(&owner, SOON, "select state = 'succeeded' from backfill.jobs").await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n <> 1").await, 0);
    logged(&daemon, &["DEBUG", "the configuration in force"]).await;
    let lost = "select count(*) from backfill.events where kind in ('takeover', 'failed')";
    assert_eq!(value::<i64>(&owner, lost).await, 0, "a lease was lost, or a job failed");

    // Only `log.format` has changed since the last reload. No service of a database depends on it,
    // so the list of restarted databases is empty.
    daemon.reload("lease: {poll_ms: 100}\nlog: {level: debug}\n");
    logged(&daemon, &["configuration reloaded", "[]"]).await;
    daemon.sigterm();
    assert!(daemon.wait_exit(SOON).await.success());
}

#[tokio::test]
async fn executors_and_databases_can_be_added_and_removed() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    cluster.create_role("filler", "nologin").await;
    cluster.create_role("x_filler", "login in role filler").await;
    cluster.sql("postgres", "postgres", "grant backfill_submitter to filler; grant filler to owner").await;
    cluster.sql("postgres", "postgres", "create database other owner owner").await;
    table(&owner, 100).await;
    run(&owner, "grant create on schema public to filler; alter table t owner to filler").await;
    let main = format!("{{name: main, url: '{}'", cluster.url("owner", "app"));
    let as_owner = format!("{{run_as: owner, url: '{}'}}", cluster.url("owner", "app"));
    let as_filler = format!("{{run_as: filler, url: '{}'}}", cluster.url("x_filler", "app"));
    let base = "lease: {poll_ms: 100}\ndatabases:\n  - ";
    let daemon = Daemon::builder(BACKFILLD, "").config(format!("{base}{main}, executors: [{as_owner}]}}\n")).start();
    daemon.wait_ready(SOON).await;
    run(&owner, "set role filler; select backfill.enqueue('j', 't', 'n = n + 1', run_as => 'filler'); reset role")
        .await;
    until_true(&owner, SOON, "select waiting_reason = 'executor' from backfill.jobs").await;

    // Add an executor and a database. The daemon installs the schema in the new database at once.
    let both = format!("{base}{main}, executors: [{as_owner}, {as_filler}]}}\n");
    let other = format!("  - {{name: other, url: '{}'}}\n", cluster.url("owner", "other"));
    daemon.reload(&format!("{both}{other}"));
    until_true(&owner, SOON, "select state = 'succeeded' from backfill.jobs").await;
    logged(&daemon, &["configuration reloaded", "main", "other"]).await;
    let there = cluster.client("owner", "other").await;
    table(&there, 100).await;
    run(&there, "select backfill.enqueue('there', 't', 'n = n + 1')").await;
    until_true(&there, SOON, "select state = 'succeeded' from backfill.jobs").await;

    // Remove the database from the configuration. Then no worker uses the database, and the daemon
    // stays ready even without the schema.
    daemon.reload(&both);
    until_true(&there, SOON, "select count(*) = 0 from backfill.worker").await;
    run(&there, "select backfill.rerun('there'); drop schema backfill cascade").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (status, said) = daemon.get("/readyz").await.unwrap();
    assert_eq!(status, 200, "{said}");
    // Add the database, remove it, and add it again without waiting. A new service for the database
    // may then start before the previous service has ended.
    daemon.reload(&format!("{both}{other}"));
    daemon.reload(&both);
    daemon.reload(&format!("{both}{other}"));
    until_true(&there, SOON, "select to_regclass('backfill.worker') is not null").await;
    until_true(&there, SOON, "select count(*) > 0 from backfill.worker").await;
    run(&there, "update t set n = 0; select backfill.enqueue('there', 't', 'n = n + 1')").await;
    until_true(&there, SOON, "select state = 'succeeded' from backfill.jobs").await;
    assert_eq!(value::<i64>(&there, "select count(*) from t where n <> 1").await, 0);
    daemon.sigterm();
    assert!(daemon.wait_exit(SOON).await.success());
}

#[tokio::test]
async fn the_status_page_requires_the_token_of_the_new_file() {
    let cluster = installed(Options::default()).await;
    let daemon = daemon_with(&cluster, "log: {level: info}\n").await;
    assert_eq!(daemon.get("/").await.unwrap().0, 200);
    // The path is relative to the daemon's working directory, which contains its configuration.
    daemon.reload("http: {token_file: backfilld.yaml}\n");
    wait::until(SOON, "the page requires the token", async || daemon.get("/").await.unwrap().0 == 401).await;
    assert_eq!(daemon.get("/readyz").await.unwrap().0, 200);
    daemon.reload("http: {status_page: false}\n");
    wait::until(SOON, "the page is switched off", async || daemon.get("/").await.unwrap().0 == 404).await;
}
