//! Tests of the log of a running daemon.

use std::time::Duration;

use backfilld_testbed::cluster::Options;
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::standby::Standby;
use backfilld_testbed::wait;
use serde_json::Value;

use crate::support::{NO_PROBE, SOON, daemon_with, installed, run, until_state, until_true, value};

fn lines(daemon: &Daemon) -> Vec<Value> {
    let read = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    daemon.output().lines().map(read).collect()
}

fn said<'a>(lines: &'a [Value], message: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with(message))).collect()
}

/// In the log, a hint is a field of its own. A message with a hint in it would have several lines,
/// and the log would show them as one line with a literal `\n`.
#[tokio::test]
async fn a_hint_is_a_field_of_the_log_line() {
    let cluster = installed(Options::default()).await;
    cluster.sql("postgres", "app", "revoke pg_read_all_stats from owner").await;
    let daemon = daemon_with(&cluster, &format!("log: {{format: json, level: info}}\n{NO_PROBE}")).await;
    wait::until(SOON, "the failed measurement is logged", async || {
        !said(&lines(&daemon), "could not read a signal").is_empty()
    })
    .await;
    let lines = lines(&daemon);
    let line = said(&lines, "could not read a signal")[0];
    assert!(line["hint"].as_str().is_some_and(|hint| hint.ends_with("grant pg_read_all_stats to owner;")), "{line}");
    for text in lines.iter().filter_map(Value::as_object).flat_map(|line| line.values()).filter_map(Value::as_str) {
        assert!(!text.contains('\n'), "{text}");
    }
}

#[tokio::test]
async fn a_hold_logs_a_line_at_its_start_and_end_and_a_batch_logs_none() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, n int); insert into t select generate_series(1, 60000)").await;
    let standby = Standby::of(&cluster).await;
    standby.wait_caught_up(SOON).await;
    let daemon = daemon_with(&cluster, &format!("log: {{format: json, level: info}}\n{NO_PROBE}")).await;
    run(&owner, r#"select backfill.enqueue('j', 't', 'n = 1', options => '{"max_rows_per_second": 6000, "max_batch_rows": 50}')"#).await;
    until_true(&owner, SOON, "select rows_changed > 3000 from backfill.jobs").await;
    standby.pause_replay().await;
    wait::until(SOON, "the wait is logged", async || !said(&lines(&daemon), "waits: ").is_empty()).await;
    standby.resume_replay().await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    wait::until(SOON, "the end is logged", async || !said(&lines(&daemon), "job succeeded").is_empty()).await;

    let lines = lines(&daemon);
    let one = |message: &str| match said(&lines, message).as_slice() {
        [line] => (*line).clone(),
        found => panic!("{message}: {found:?} of {lines:?}"),
    };
    let waits = one("waits: ");
    assert_eq!(
        (&waits["database.name"], &waits["job.name"], &waits["job.slice"], &waits["reason"]),
        (&"main".into(), &"j".into(), &0.into(), &"replica_lag".into())
    );
    assert!(one("resumed")["seconds"].as_i64() >= Some(5));
    // The lag of the replica holds all jobs, so the log line about the hold names no job.
    let held = said(&lines, "work held: standby is ");
    assert!(
        (1..=2).contains(&held.len()),
        "expected a line for the lag in seconds, and perhaps one for bytes: {held:?}"
    );
    assert_eq!((&held[0]["signal.source"], &held[0]["level"]), (&"standby".into(), &"WARN".into()));
    assert_eq!(said(&lines, "signal no longer holds jobs").len(), held.len());
    let batches: i64 = value(&owner, "select sum(batches)::int8 from backfill.slices").await;
    assert!(batches > 500 && lines.len() < 20, "{} lines for {batches} batches: {lines:?}", lines.len());
    for line in &lines {
        assert!(line["timestamp"].is_string() && line["level"].is_string() && line["target"].is_string(), "{line}");
    }
}

#[tokio::test]
async fn the_log_level_follows_the_configuration_of_a_running_daemon() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, n int); insert into t values (1)").await;
    let daemon = daemon_with(&cluster, "log: {format: json, level: info}\n").await;
    let at_debug = async || said(&lines(&daemon), "").iter().any(|line| line["level"] == "DEBUG");
    assert!(!at_debug().await);
    daemon.reload("log: {format: json, level: debug}\n");
    wait::until(SOON, "a line is logged at level debug", at_debug).await;
    daemon.reload("log: {format: json, level: warn}\n");
    // Level warn applies only after the reload is finished. Until then the level is debug, so the
    // info line about SIGHUP is still logged.
    wait::until(SOON, "the configuration is reloaded", async || said(&lines(&daemon), "received SIGHUP").len() == 2)
        .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = lines(&daemon).len();
    run(&owner, "select backfill.enqueue('j', 't', 'n = 1')").await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    let after: Vec<Value> = lines(&daemon).split_off(before);
    assert!(after.iter().all(|line| line["level"] == "WARN" || line["level"] == "ERROR"), "{after:?}");
}
