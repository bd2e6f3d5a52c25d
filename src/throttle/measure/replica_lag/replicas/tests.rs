//! Tests of replica lag. The tests set the clock and the state of the primary.

use super::*;

fn standby(name: &str, pid: i32, replay_lsn: u64) -> Walsender {
    Walsender {
        pid,
        application_name: name.to_owned(),
        client_addr: Some("10.0.0.1".to_owned()),
        client_port: Some(40_000 + pid),
        state: Some("streaming".to_owned()),
        replay_lsn: Some(replay_lsn),
        logical: false,
    }
}

/// Holds the signal, and a clock that the test sets.
struct Bench {
    lag: ReplicaLag,
    at: Instant,
}

impl Bench {
    fn new(rules: Vec<ReplicaRule>) -> Self {
        Self { lag: ReplicaLag::new(rules), at: Instant::now() }
    }

    fn sees(&mut self, after: f64, primary_lsn: u64, walsenders: &[Walsender]) -> Vec<Reading> {
        self.at += Duration::from_secs_f64(after);
        let fix = "grant pg_read_all_stats to backfilld".to_owned();
        self.lag.observe(&PrimaryState { at: self.at, primary_lsn, fix, walsenders: walsenders.to_vec() }, &[])
    }

    /// Observes the primary's state, and an answer of `replica` that is `before` seconds old.
    fn is_told(
        &mut self,
        primary_lsn: u64,
        before: f64,
        replica: &ReplicaRule,
        replayed: std::result::Result<u64, &str>,
    ) -> Vec<Reading> {
        self.at += Duration::from_secs(1);
        let at = self.at - Duration::from_secs_f64(before);
        let answer = LastAnswer { rule: replica.clone(), at, replayed: replayed.map_err(str::to_owned) };
        let walsenders = vec![standby(&replica.pattern, 1, 0)];
        self.lag.observe(&PrimaryState { at: self.at, primary_lsn, fix: String::new(), walsenders }, &[answer])
    }
}

fn values(readings: &[Reading]) -> Vec<(&str, f64)> {
    readings.iter().map(|r| (r.source.as_str(), (r.value.unwrap_or(-1.0) * 1e6).round() / 1e6)).collect()
}

fn reasons(readings: &[Reading]) -> Vec<&str> {
    readings.iter().filter_map(|r| r.note.as_deref()).collect()
}

#[tokio::test]
async fn a_standby_that_has_replayed_everything_of_an_idle_primary_is_not_behind() {
    let mut bench = Bench::new(vec![]);
    bench.sees(0.0, 1000, &[standby("s1", 1, 1000)]);
    let readings = bench.sees(3600.0, 1000, &[standby("s1", 1, 1000)]);
    assert_eq!(values(&readings), [("s1", 0.0), ("s1", 0.0)]);
    assert_eq!((readings[0].limit, readings[1].limit), (1.0, 67_108_864.0));
}

#[tokio::test]
async fn a_standby_that_replays_nothing_falls_behind_in_time_and_bytes() {
    let mut bench = Bench::new(vec![]);
    bench.sees(0.0, 1000, &[standby("s1", 1, 1000)]);
    bench.sees(1.0, 2000, &[standby("s1", 1, 1000)]);
    let readings = bench.sees(1.0, 3000, &[standby("s1", 1, 1000)]);
    assert_eq!(values(&readings), [("s1", 2.0), ("s1", 2000.0)]);
}

#[tokio::test]
async fn a_standby_ahead_of_the_primarys_last_position_is_not_behind() {
    let mut bench = Bench::new(vec![]);
    assert_eq!(values(&bench.sees(0.0, 1000, &[standby("s1", 1, 1200)])), [("s1", 0.0), ("s1", 0.0)]);
}

#[tokio::test]
async fn receivers_backups_and_subscribers_are_not_replicas() {
    let mut bench = Bench::new(vec![]);
    let receivewal = Walsender { replay_lsn: None, ..standby("pg_receivewal", 1, 0) };
    let backup = Walsender { state: Some("backup".to_owned()), ..standby("pg_basebackup", 2, 0) };
    let subscriber = Walsender { logical: true, ..standby("sub", 3, 0) };
    let idle = Walsender { state: Some("startup".to_owned()), replay_lsn: None, ..standby("psql", 4, 0) };
    assert_eq!(bench.sees(0.0, 1000, &[receivewal, backup, subscriber, idle]), []);
    let catching_up = Walsender { state: Some("catchup".to_owned()), ..standby("s1", 5, 400) };
    assert_eq!(values(&bench.sees(1.0, 1000, &[catching_up])), [("s1", 1.0), ("s1", 600.0)]);
}

#[tokio::test]
async fn an_invisible_replica_holds_jobs_and_the_grant_is_printed() {
    let mut bench =
        Bench::new(vec![ReplicaRule { pattern: "archive*".to_owned(), ignore: true, ..ReplicaRule::default() }]);
    let hidden =
        |name: &str, logical| Walsender { pid: 7, application_name: name.to_owned(), logical, ..Walsender::default() };
    let readings = bench.sees(0.0, 1000, &[hidden("s1", false), hidden("sub", true), hidden("archive-1", false)]);
    assert_eq!(
        reasons(&readings),
        [
            "could not read the lag of s1: permission denied to read pg_stat_replication. As an administrator, run: grant pg_read_all_stats to backfilld;"
        ]
    );
    assert!(readings[0].must_hold);
    assert_eq!(bench.sees(1.0, 1000, &[hidden("sub", true), hidden("archive-1", false)]), []);
}

#[tokio::test]
async fn a_vanished_replica_holds_for_its_grace_only() {
    let mut bench = Bench::new(vec![]);
    bench.sees(0.0, 1000, &[standby("s1", 1, 1000)]);
    bench.sees(1.0, 1000, &[]);
    let gone = bench.sees(4.0, 1000, &[]);
    assert_eq!(reasons(&gone), ["replica s1 disconnected 4 s ago; continuing without it in 6 s"]);
    assert_eq!(bench.lag.replicas().collect::<Vec<_>>(), [("s1", false)]);
    assert_eq!(bench.sees(6.0, 1000, &[]), []);
    assert_eq!(bench.lag.lost(bench.at), ["s1"]);
    // A replica of the same name replaces the lost one, even if it has another address.
    let moved = Walsender { client_addr: Some("10.0.0.9".to_owned()), ..standby("s1", 2, 1000) };
    bench.sees(1.0, 1000, &[moved]);
    assert!(bench.lag.lost(bench.at).is_empty());
    // A reload forgets the replica even if the replica disconnected a moment ago.
    assert_eq!(bench.sees(1.0, 1000, &[]).len(), 1);
    bench.lag.forget_lost();
    assert_eq!(bench.sees(20.0, 1000, &[]), []);
    assert!(bench.lag.lost(bench.at).is_empty());
}

#[tokio::test]
async fn the_replica_that_returns_is_not_mistaken_for_the_one_that_is_still_lost() {
    let at = |pid, addr: &str| Walsender { client_addr: Some(addr.to_owned()), ..standby("walreceiver", pid, 1000) };
    let mut bench = Bench::new(vec![]);
    bench.sees(0.0, 1000, &[at(1, "10.0.0.1"), at(2, "10.0.0.2")]);
    bench.sees(1.0, 1000, &[]);
    bench.sees(11.0, 1000, &[]);
    assert_eq!(bench.lag.lost(bench.at).len(), 2);
    bench.sees(1.0, 1000, &[at(3, "10.0.0.2")]);
    assert_eq!(bench.lag.lost(bench.at), ["walreceiver@10.0.0.1"]);
}

#[tokio::test]
async fn a_required_replica_holds_from_the_start_without_a_limit() {
    let rule = ReplicaRule { pattern: "s1".to_owned(), required: true, ..ReplicaRule::default() };
    let mut bench = Bench::new(vec![rule]);
    assert_eq!(reasons(&bench.sees(0.0, 1000, &[])), ["no replica matches the required rule \"s1\""]);
    assert_eq!(reasons(&bench.sees(1.0, 1000, &[standby("s1", 1, 1000)])), [""; 0]);
    bench.sees(1.0, 1000, &[]);
    let gone = bench.sees(86_400.0, 1000, &[]);
    assert_eq!(reasons(&gone), ["required replica s1 disconnected 86400 s ago"]);
}

#[tokio::test]
async fn a_replica_that_returns_is_the_same_one() {
    let mut bench = Bench::new(vec![]);
    bench.sees(0.0, 1000, &[standby("s1", 1, 1000)]);
    let connecting = Walsender { state: Some("startup".to_owned()), replay_lsn: None, ..standby("s1", 2, 0) };
    assert_eq!(reasons(&bench.sees(1.0, 2000, std::slice::from_ref(&connecting))).len(), 1);
    let readings = bench.sees(1.0, 2000, &[standby("s1", 3, 1000)]);
    assert_eq!(values(&readings), [("s1", 2.0), ("s1", 1000.0)]);
    assert_eq!(bench.lag.known.len(), 1);
}

#[tokio::test]
async fn replicas_of_one_name_are_distinguished() {
    let at = |walsender: Walsender, addr: &str| Walsender { client_addr: Some(addr.to_owned()), ..walsender };
    let local = |pid| Walsender { client_addr: None, client_port: Some(-1), ..standby("walreceiver", pid, 1000) };
    let mut bench = Bench::new(vec![]);
    let all = [
        at(standby("walreceiver", 1, 1000), "10.0.0.1"),
        at(standby("walreceiver", 2, 1000), "10.0.0.2"),
        at(standby("walreceiver", 3, 1000), "10.0.0.2"),
        local(4),
        local(5),
    ];
    bench.sees(0.0, 1000, &all);
    let sources: Vec<&str> = bench.lag.replicas().map(|(source, _)| source).collect();
    assert_eq!(
        sources,
        [
            "walreceiver@10.0.0.1",
            "walreceiver@10.0.0.2:40002",
            "walreceiver@10.0.0.2:40003",
            "walreceiver@pid 4",
            "walreceiver@pid 5"
        ]
    );
    // One of two replicas disconnects. The other replica is not mistaken for the disconnected
    // one.
    let readings = bench.sees(1.0, 1000, &all[..4]);
    assert_eq!(reasons(&readings).len(), 1);
    assert!(reasons(&readings)[0].contains("walreceiver@pid 5"));
    // The replica returns with another session and is named after that session.
    let mut back = all[..4].to_vec();
    back.push(local(6));
    let readings = bench.sees(1.0, 1000, &back);
    assert_eq!(reasons(&readings), [""; 0]);
    assert_eq!(bench.lag.replicas().last(), Some(("walreceiver@pid 6", true)));
}

#[tokio::test]
async fn a_replica_that_is_polled_directly_counts_by_its_own_answer() {
    let rule = ReplicaRule { pattern: "far".to_owned(), url_env: Some("FAR_URL".to_owned()), ..ReplicaRule::default() };
    let mut bench = Bench::new(vec![rule.clone()]);
    bench.sees(0.0, 1000, &[]);
    // The primary also shows the replica, with an older position. This older position does not
    // count.
    assert_eq!(values(&bench.is_told(2000, 0.5, &rule, Ok(1000))), [("far", 0.5), ("far", 1000.0)]);
    assert_eq!(values(&bench.is_told(2000, 0.2, &rule, Ok(2000))), [("far", 0.0), ("far", 0.0)]);
    let old = bench.is_told(2000, 0.9, &rule, Ok(2000));
    let later = bench.at + Duration::from_secs_f64(1.5);
    assert_eq!(old[0].hold(later).as_deref(), Some("replica_lag_seconds of far has not been read for 2.4 s"));
    for (answer, reason) in [(Err("connection refused"), "connection refused"), (Ok(2001), "ahead of the primary")] {
        let readings = bench.is_told(2000, 0.1, &rule, answer);
        assert!(readings.len() == 1 && readings[0].must_hold, "{readings:?}");
        assert!(reasons(&readings)[0].starts_with("could not read the lag of replica far: "), "{readings:?}");
        assert!(reasons(&readings)[0].contains(reason), "{readings:?}");
    }
}

#[tokio::test]
async fn the_first_rule_that_matches_counts() {
    let far = ReplicaRule { pattern: "eu-*".to_owned(), max_lag: Duration::from_secs(10), ..ReplicaRule::default() };
    let backup = ReplicaRule { pattern: "backup*".to_owned(), ignore: true, ..ReplicaRule::default() };
    let mut bench = Bench::new(vec![far, backup]);
    let seen = [standby("eu-1", 1, 0), standby("backup-1", 2, 0), standby("us-1", 3, 0)];
    let readings = bench.sees(0.0, 1000, &seen);
    let limits: Vec<(&str, f64)> = readings.iter().step_by(2).map(|r| (r.source.as_str(), r.limit)).collect();
    assert_eq!(limits, [("eu-1", 10.0), ("us-1", 1.0)]);
}
