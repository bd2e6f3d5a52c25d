//! Tests of the throttle on real servers: replica lag with a standby, the metrics of a replica,
//! published duty cycles, a custom signal and lock waits.

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::standby::Standby;

use crate::support::{
    NO_PROBE, SOON, daemon, daemon_with, installed, make_roles, migrate, run, until_state, until_true, value,
};

const TABLE: &str = "create table t (id int primary key, a int, pad text);
    insert into t select i, null, repeat('x', 100) from generate_series(1, 60000) i";

#[tokio::test]
async fn a_standby_that_does_not_replay_holds_jobs_until_it_does() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let standby = Standby::of(&cluster).await;
    standby.wait_caught_up(SOON).await;
    let _daemon = daemon(&cluster).await;
    // While the primary is idle, no job is held, however old the standby's last transaction is.
    until_true(&owner, SOON, "select count(*) > 0 from backfill.signals where source = 'standby'").await;
    assert!(!value::<bool>(&owner, "select bool_or(holding) from backfill.signals").await);
    run(&owner, "select backfill.enqueue('quick', 't', 'a = 0', 'id <= 10 and a is null')").await;
    until_state(&cluster, "quick", "succeeded", SOON).await;

    standby.wait_caught_up(SOON).await;
    standby.pause_replay().await;
    run(
        &owner,
        "select backfill.enqueue('j', 't', 'a = 1', 'a is null', options => '{\"max_rows_per_second\": 5000}')",
    )
    .await;
    let held = "select coalesce(waiting_reason = 'replica_lag', false) and exists (select from backfill.signals where source = 'standby' and holding) from backfill.jobs where name = 'j'";
    until_true(&owner, SOON, held).await;
    let signal: String = value(&owner, "select concat_ws(' ', holding, kind, reason) from backfill.signals where source = 'standby' and holding limit 1").await;
    assert!(signal.starts_with("t budget standby is ") && signal.contains("behind"), "{signal}");
    let text: String = value(&owner, "select waiting_text from backfill.jobs where name = 'j'").await;
    assert!(text.contains("standby"), "{text}");
    // In the meantime a job with `throttle: off` runs to its end, and the held job can be paused.
    run(&owner, "create table u (id int primary key, a int); insert into u select generate_series(1, 1000); select backfill.enqueue('unthrottled', 'u', 'a = 1', options => '{\"throttle\": \"off\"}')").await;
    until_state(&cluster, "unthrottled", "succeeded", SOON).await;
    assert_eq!(value::<String>(&owner, "select state from backfill.jobs where name = 'j'").await, "running");
    run(&owner, "select backfill.pause('j')").await;
    until_state(&cluster, "j", "paused", SOON).await;
    run(&owner, "select backfill.tune('j', '{\"max_rows_per_second\": null}'); select backfill.resume('j')").await;
    until_true(
        &owner,
        SOON,
        "select coalesce(waiting_reason = 'replica_lag', false) from backfill.jobs where name = 'j'",
    )
    .await;

    standby.resume_replay().await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    until_true(&owner, SOON, "select not bool_or(holding) from backfill.signals").await;
    // The start and the end of each hold are recorded once.
    let reported = "select string_agg(kind, ' ' order by at, detail ->> 'signal') from backfill.events where job_id is null and kind in ('hold', 'go') and detail ->> 'signal' = 'replica_lag_seconds'";
    let reported: String = value(&owner, reported).await;
    assert!(reported.replace("hold go", "").trim().is_empty(), "{reported}");
    standby.wait_caught_up(SOON).await;
    assert_eq!(standby.value::<i64>("postgres", "app", "select count(*) from t where a is not null").await, 60_000);
}

#[tokio::test]
async fn an_unreadable_lag_holds_jobs_and_names_the_grant() {
    let cluster = Cluster::start(Options::default()).await;
    make_roles(&cluster).await;
    cluster.create_role("owner", "login").await;
    cluster.create_database("app", "owner").await;
    assert!(migrate(&cluster, "owner", "app").await.status.success());
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let _standby = Standby::of(&cluster).await;
    let _daemon = daemon(&cluster).await;
    run(&owner, "select backfill.enqueue('j', 't', 'a = 1')").await;
    until_true(&owner, SOON, "select coalesce(waiting_reason = 'replica_lag', false) from backfill.jobs").await;
    let text: String = value(&owner, "select waiting_text from backfill.jobs").await;
    assert!(text.to_lowercase().contains("grant pg_read_all_stats to owner"), "{text}");
    let signal: String = value(&owner, "select reason from backfill.signals where holding limit 1").await;
    assert!(signal.to_lowercase().contains("grant pg_read_all_stats to owner"), "{signal}");
    assert_eq!(value::<i64>(&owner, "select count(*) from t where a is not null").await, 0);
    cluster.sql("postgres", "postgres", "grant pg_read_all_stats to owner").await;
    until_state(&cluster, "j", "succeeded", SOON).await;
}

#[tokio::test]
async fn no_series_of_a_replica_is_shown_twice() {
    let cluster = crate::support::installed(backfilld_testbed::cluster::Options::default()).await;
    let _standby = backfilld_testbed::standby::Standby::named(&cluster, "s1").await;
    let daemon = crate::support::daemon(&cluster).await;
    let mut page = String::new();
    backfilld_testbed::wait::until(crate::support::SOON, "the replica is shown", async || {
        page = daemon.get("/metrics").await.unwrap().1;
        page.contains("backfilld_replica_up{")
    })
    .await;
    let mut seen = std::collections::BTreeSet::new();
    for line in page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let series = line.rsplit_once(' ').unwrap().0;
        assert!(seen.insert(series), "twice: {series}\n{page}");
    }
}

#[tokio::test]
async fn daemons_on_one_database_publish_their_duty_cycles() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, n int not null default 0); insert into t select generate_series(1, 60000); create table u (like t including all); insert into u select * from t").await;
    let _standby = Standby::of(&cluster).await;
    let (_one, _two) = (daemon_with(&cluster, NO_PROBE).await, daemon_with(&cluster, NO_PROBE).await);
    run(&owner, "select backfill.enqueue(name, name::regclass, 'n = n + 1', options => '{\"max_rows_per_second\": 10000, \"slices\": 4}') from unnest(array['t', 'u']) name").await;
    until_true(
        &owner,
        SOON,
        "select count(*) = 2 and coalesce(bool_and(duty_cycle > 0 and duty_cycle <= 1), false) from backfill.workers",
    )
    .await;
    // Both daemons speed up, until the higher duty cycle is less than twice the lower one.
    until_true(
        &owner,
        SOON,
        "select coalesce(max(duty_cycle) > 0.2 and max(duty_cycle) < 2 * min(duty_cycle), false) from backfill.workers",
    )
    .await;
    for job in ["t", "u"] {
        until_state(&cluster, job, "succeeded", SOON).await;
    }
    until_true(&owner, SOON, "select bool_and(duty_cycle is null) from backfill.workers").await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t join u using (id) where t.n <> 1 or u.n <> 1").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_custom_signal_slows_jobs_down_and_is_reported() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, n int not null default 0); insert into t select generate_series(1, 100000); create table depth (n numeric); insert into depth values (20)").await;
    let config = "databases: [{name: main, url: x, signals: [{name: depth, sql: 'select n from public.depth', limit: 10, interval_seconds: 1}, {name: probe_latency, limit: 1000}]}]";
    let daemon = daemon_with(&cluster, config).await;
    // Once the signal has reached its limit, the duty cycle halves twice a second. The job must be
    // long enough that it is still running when the duty cycle has reached its minimum.
    let options = r#"{"max_batch_rows": 200, "max_rows_per_second": 5000}"#;
    run(&owner, &format!("select backfill.enqueue('t', 't', 'n = n + 1', options => '{options}')")).await;
    let slow = "select coalesce(throttled_by = 'signal' and throttled_text like 'signal depth is 20 (limit 10): batches run 1 \\% of the time', false) from backfill.jobs";
    until_true(&owner, SOON, slow).await;
    // The job continues slowly and is not held.
    let before: i64 = value(&owner, "select rows_changed from backfill.jobs").await;
    until_true(&owner, SOON, &format!("select rows_changed > {before} from backfill.jobs")).await;
    let shown = "select string_agg(concat_ws(' ', signal, source, kind, value, \"limit\", holding), ', ' order by source) from backfill.signals where signal in ('signal', 'lock_waits')";
    assert_eq!(value::<String>(&owner, shown).await, "signal depth load 20 10 f, lock_waits server load 0 10 f");
    for arguments in [["status"].as_slice(), &["status", "t"]] {
        let reported = crate::support::backfilld(&cluster, arguments).await;
        let words = reported.lines().find_map(|line| line.strip_prefix("signal ")).expect("the signal is shown");
        let words: Vec<&str> = words.split_whitespace().collect();
        assert_eq!(words[..6], ["depth", "load", "20", "10", "200", "%"], "{reported}");
        assert!(words[6].parse::<f64>().is_ok_and(|age| age < 30.0), "{reported}");
        assert!(reported.contains("signal depth is 20 (limit 10): batches run "), "{reported}");
    }
    run(&owner, r#"update depth set n = 1; select backfill.tune('t', '{"max_rows_per_second": 100000}')"#).await;
    until_state(&cluster, "t", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n <> 1").await, 0);
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_wait_for_locks_slow_jobs_down() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, n int not null default 0); insert into t select generate_series(1, 100000); create table hot (n int); insert into hot values (0)").await;
    let config = "databases: [{name: main, url: x, signals: [{name: lock_waits, limit: 3, interval_seconds: 1}, {name: probe_latency, limit: 1000}]}]";
    let _daemon = daemon_with(&cluster, config).await;
    let holder = cluster.owner().await;
    run(&holder, "begin; update hot set n = 1").await;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let waiter = cluster.owner().await;
        waiting.spawn(async move { waiter.batch_execute("update hot set n = n + 1").await });
    }
    run(&owner, "select backfill.enqueue('t', 't', 'n = n + 1', options => '{\"max_batch_rows\": 100}')").await;
    let slow = "select coalesce(throttled_by = 'lock_waits' and throttled_text like '4 sessions are waiting for locks (limit 3)%', false) from backfill.jobs";
    until_true(&owner, SOON, slow).await;
    run(&holder, "commit").await;
    until_state(&cluster, "t", "succeeded", SOON).await;
    while let Some(done) = waiting.join_next().await {
        done.unwrap().unwrap();
    }
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n <> 1").await, 0);
}
