//! Lists the replicas of this primary, and measures the lag of each replica.
//!
//! A replica is a standby that replays WAL. `pg_receivewal`, base backups and logical subscribers
//! do not replay WAL, so they are not replicas. A replica that the daemon cannot see, or that has
//! disconnected, does not count as healthy.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::replica::ReplicaRule;
use crate::throttle::measure::readings::Reading;
use crate::throttle::measure::replica_lag::history::History;
use crate::throttle::measure::replica_lag::lost::LostReplicas;
use crate::throttle::measure::replica_lag::replay_rate::ReplayRate;
use crate::throttle::measure::replica_lag::standby::LastAnswer;
use crate::throttle::measure::replica_lag::walsender::{PrimaryState, Walsender};
use crate::throttle::measure::signal::Signal;

/// Time for which a disconnected replica holds jobs if its rule does not require it. This time is
/// long enough for a restart or a short network failure. Without this grace period, jobs would
/// continue, and the replica would be far behind when it returns.
pub const GRACE: Duration = Duration::from_secs(10);

/// State of the signal: the primary's positions over time, and the replicas that the daemon has
/// seen.
#[derive(Debug)]
pub struct ReplicaLag {
    rules: Vec<ReplicaRule>,
    history: History,
    known: Vec<Replica>,
    lost: LostReplicas,
    /// Replay rates of the replicas that the daemon queries directly, by name.
    asked: BTreeMap<String, ReplayRate>,
}

#[derive(Debug)]
struct Replica {
    application_name: String,
    client_addr: Option<String>,
    pid: i32,
    /// Unique name of the replica in readings.
    source: String,
    rule: usize,
    replay: ReplayRate,
    /// None while the replica is connected.
    missing_since: Option<Instant>,
}

impl Replica {
    fn same_place(&self, walsender: &Walsender) -> bool {
        self.application_name == walsender.application_name && self.client_addr == walsender.client_addr
    }

    fn named_by_session(&self) -> bool {
        let name = &self.application_name;
        let by_address = self.client_addr.as_ref().map(|addr| format!("{name}@{addr}"));
        self.source != *name && Some(&self.source) != by_address.as_ref()
    }
}

impl ReplicaLag {
    /// Creates the signal. Replicas that match none of `rules` get the default limits.
    pub fn new(mut rules: Vec<ReplicaRule>) -> Self {
        rules.push(ReplicaRule::default());
        Self {
            rules,
            history: History::default(),
            known: Vec::new(),
            lost: LostReplicas::default(),
            asked: BTreeMap::new(),
        }
    }

    /// Computes the readings from the primary's state and from the results of the replicas that the
    /// daemon queries directly. These results must be older than the primary's state. If there is
    /// no replica whose lag counts, the returned list is empty.
    pub fn observe(&mut self, primary: &PrimaryState, answers: &[LastAnswer]) -> Vec<Reading> {
        self.history.record(primary.at, primary.primary_lsn);
        let mut readings = match self.blind(primary) {
            Some(blind) => vec![blind],
            None => self.shown(primary),
        };
        for answer in answers {
            readings.extend(self.asked(primary, answer));
        }
        readings
    }

    /// Returns the readings of a replica that the daemon queries directly.
    fn asked(&mut self, primary: &PrimaryState, answer: &LastAnswer) -> Vec<Reading> {
        let (rule, source) = (&answer.rule, &answer.rule.pattern);
        let failure = match &answer.replayed {
            // The primary was polled after the replica. If the primary's position is lower
            // nevertheless, the replica does not replay the WAL of this primary.
            Ok(replayed) if *replayed > primary.primary_lsn => {
                "the replica is ahead of the primary; check that its url points to a replica of this primary".to_owned()
            }
            Ok(replayed) => {
                let bytes = primary.primary_lsn - replayed;
                let replay = self.asked.entry(source.clone()).or_default();
                replay.observe(answer.at, *replayed, bytes);
                let seconds = self.history.behind(*replayed, answer.at).as_secs_f64();
                return lag(source, rule, Lag { seconds, bytes, drain: replay.drain(bytes), at: answer.at }).into();
            }
            Err(failure) => failure.clone(),
        };
        let reason = format!("could not read the lag of replica {source}: {failure}");
        vec![unreadable(source, rule, primary.at, reason)]
    }

    /// Returns the readings of each known replica, from the primary's list of standbys. A
    /// disconnected replica gets an unreadable reading, and so does a required rule that no replica
    /// matches.
    fn shown(&mut self, primary: &PrimaryState) -> Vec<Reading> {
        let standbys = self.recognize(primary);
        self.end_grace(primary.at);

        let mut readings = Vec::new();
        for replica in &mut self.known {
            let rule = &self.rules[replica.rule];
            let shown = standbys.iter().find(|walsender| walsender.pid == replica.pid);
            match (replica.missing_since, shown.and_then(|walsender| walsender.replay_lsn)) {
                (None, Some(replay_lsn)) => {
                    let seconds = self.history.behind(replay_lsn, primary.at).as_secs_f64();
                    let bytes = primary.primary_lsn.saturating_sub(replay_lsn);
                    replica.replay.observe(primary.at, replay_lsn, bytes);
                    let drain = replica.replay.drain(bytes);
                    readings.extend(lag(&replica.source, rule, Lag { seconds, bytes, drain, at: primary.at }));
                }
                (since, _) => {
                    let gone = primary.at.saturating_duration_since(since.unwrap_or(primary.at)).as_secs_f64();
                    let reason = if rule.required {
                        format!("required replica {} disconnected {gone:.0} s ago", replica.source)
                    } else {
                        let left = GRACE.as_secs_f64() - gone;
                        format!(
                            "replica {} disconnected {gone:.0} s ago; continuing without it in {left:.0} s",
                            replica.source
                        )
                    };
                    readings.push(unreadable(&replica.source, rule, primary.at, reason));
                }
            }
        }
        for rule in self.unmet() {
            let reason = format!("no replica matches the required rule \"{}\"", rule.pattern);
            readings.push(unreadable(&rule.pattern, rule, primary.at, reason));
        }
        readings
    }

    /// Returns the known replicas and the required rules that no replica matches, each with a flag
    /// that tells whether it is connected. They are as of the last state of the primary that showed
    /// its replicas.
    #[cfg(test)]
    pub fn replicas(&self) -> impl Iterator<Item = (&str, bool)> {
        let known = self.known.iter().map(|replica| (replica.source.as_str(), replica.missing_since.is_none()));
        known.chain(self.unmet().map(|rule| (rule.pattern.as_str(), false)))
    }

    /// If the server hides the state of some walsenders, returns a reading that holds jobs, because
    /// the daemon cannot tell whether these walsenders serve replicas.
    fn blind(&self, primary: &PrimaryState) -> Option<Reading> {
        let unseen: Vec<&Walsender> = primary
            .walsenders
            .iter()
            .filter(|walsender| walsender.state.is_none() && !walsender.logical && !self.ignores(walsender))
            .collect();
        let rule = &self.rules[self.rule_for(unseen.first()?)];
        let names: Vec<&str> = unseen.iter().map(|walsender| walsender.application_name.as_str()).collect();
        let reason = format!(
            "could not read the lag of {}: permission denied to read pg_stat_replication. As an administrator, run: {};",
            names.join(", "),
            primary.fix
        );
        Some(unreadable("*", rule, primary.at, reason))
    }

    /// Returns the standbys that the primary shows, and remembers each of them.
    ///
    /// A standby that reconnects has a walsender with another process ID and port. So if a standby
    /// is missing, a new walsender with the same application name and address counts as this
    /// standby.
    fn recognize<'a>(&mut self, primary: &'a PrimaryState) -> Vec<&'a Walsender> {
        let standbys: Vec<&Walsender> =
            primary.walsenders.iter().filter(|walsender| walsender.replays() && !self.ignores(walsender)).collect();
        for replica in &mut self.known {
            let here = standbys.iter().any(|walsender| walsender.pid == replica.pid && replica.same_place(walsender));
            if !here {
                replica.missing_since.get_or_insert(primary.at);
            }
        }
        for walsender in &standbys {
            let here = |replica: &Replica| replica.pid == walsender.pid && replica.same_place(walsender);
            let index = self
                .known
                .iter()
                .position(here)
                .or_else(|| self.known.iter().position(|r| r.missing_since.is_some() && r.same_place(walsender)));
            match index {
                Some(index) => {
                    let session_ended = self.known[index].pid != walsender.pid;
                    self.known[index].pid = walsender.pid;
                    self.known[index].missing_since = None;
                    // A name that contains the port or pid would refer to a session that has ended.
                    if session_ended && self.known[index].named_by_session() {
                        self.known[index].source = self.source_for(walsender, &standbys);
                    }
                }
                None => {
                    let source = self.source_for(walsender, &standbys);
                    self.lost.replaced_by(&walsender.application_name, walsender.client_addr.as_deref());
                    self.known.push(Replica {
                        application_name: walsender.application_name.clone(),
                        client_addr: walsender.client_addr.clone(),
                        pid: walsender.pid,
                        source,
                        rule: self.rule_for(walsender),
                        replay: ReplayRate::default(),
                        missing_since: None,
                    });
                }
            }
        }
        standbys
    }

    /// Returns the replicas that disconnected, no longer hold jobs, and did not return.
    pub fn lost(&mut self, now: Instant) -> Vec<String> {
        self.lost.sources(now)
    }

    /// Forgets the lost replicas. Also forgets the replicas that have disconnected and are still
    /// within their grace period, so that they no longer hold jobs. Keeps required replicas.
    pub fn forget_lost(&mut self) {
        self.lost.clear();
        // A replica that disconnected a moment ago would become lost later.
        let rules = &self.rules;
        self.known.retain(|replica| replica.missing_since.is_none() || rules[replica.rule].required);
    }

    /// When the grace period of a replica is over, moves the replica to the lost replicas. Required
    /// replicas have no grace period.
    fn end_grace(&mut self, now: Instant) {
        let (rules, lost) = (&self.rules, &mut self.lost);
        self.known.retain(|replica| {
            let Some(since) = replica.missing_since else { return true };
            let keeps = rules[replica.rule].required || now.saturating_duration_since(since) < GRACE;
            if !keeps {
                lost.add(&replica.source, &replica.application_name, replica.client_addr.as_deref(), since);
            }
            keeps
        });
    }

    /// Returns the required rules that no replica has ever matched. A replica that the daemon
    /// queries directly has its own reading, so its rule is left out.
    fn unmet(&self) -> impl Iterator<Item = &ReplicaRule> {
        let met = |index: usize| self.known.iter().any(|replica| replica.rule == index);
        let required = |rule: &ReplicaRule| rule.required && !rule.ignore && !rule.asks_itself();
        self.rules.iter().enumerate().filter(move |&(index, rule)| required(rule) && !met(index)).map(|(_, rule)| rule)
    }

    fn rule_for(&self, walsender: &Walsender) -> usize {
        let matches = |rule: &ReplicaRule| {
            rule.matches(
                &walsender.application_name,
                walsender.client_addr.as_deref().and_then(|addr| addr.split('/').next()?.parse().ok()),
            )
        };
        // The last rule is the default rule, which matches everything.
        self.rules.iter().position(matches).unwrap_or(self.rules.len() - 1)
    }

    /// Returns whether the walsender does not count. A replica that the daemon queries directly
    /// does not count here, because otherwise it would count twice.
    fn ignores(&self, walsender: &Walsender) -> bool {
        let rule = &self.rules[self.rule_for(walsender)];
        rule.ignore || rule.asks_itself()
    }

    /// Returns a name for the replica's readings. This is the application name if it is unique.
    /// Otherwise the address is added, and the port if the address is not enough. A replica that
    /// connects over a Unix socket has no address, so its process ID is added instead.
    fn source_for(&self, walsender: &Walsender, standbys: &[&Walsender]) -> String {
        let name = &walsender.application_name;
        let others = |place: bool| {
            let known = self
                .known
                .iter()
                .any(|r| r.application_name == *name && (!place || r.same_place(walsender)) && r.pid != walsender.pid);
            let here = standbys.iter().any(|other| {
                other.application_name == *name
                    && (!place || other.client_addr == walsender.client_addr)
                    && other.pid != walsender.pid
            });
            known || here
        };
        match (&walsender.client_addr, walsender.client_port) {
            _ if !others(false) => name.clone(),
            (Some(addr), _) if !others(true) => format!("{name}@{addr}"),
            (Some(addr), Some(port)) => format!("{name}@{addr}:{port}"),
            _ => format!("{name}@pid {}", walsender.pid),
        }
    }
}

/// The lag of a replica.
struct Lag {
    seconds: f64,
    bytes: u64,
    /// Seconds that the replica needs to replay all WAL that has been written so far.
    drain: Option<f64>,
    at: Instant,
}

fn lag(source: &str, rule: &ReplicaRule, lag: Lag) -> [Reading; 2] {
    let budget = |signal, value, limit| Reading::budget(signal, source, value, limit, lag.at);
    [
        budget(Signal::ReplicaLagSeconds, lag.seconds, rule.max_lag.as_secs_f64()).with_forecast(lag.drain),
        budget(Signal::ReplicaLagBytes, lag.bytes as f64, rule.max_lag_bytes as f64),
    ]
}

fn unreadable(source: &str, rule: &ReplicaRule, at: Instant, reason: String) -> Reading {
    Reading::unreadable(Signal::ReplicaLagSeconds, source, rule.max_lag.as_secs_f64(), at, reason)
}

#[cfg(test)]
mod tests {
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

        /// Observes the primary's state, with the result that `replica` returned `before` seconds
        /// earlier.
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
        let hidden = |name: &str, logical| Walsender {
            pid: 7,
            application_name: name.to_owned(),
            logical,
            ..Walsender::default()
        };
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
        // A reload forgets the replica even if it disconnected a moment ago.
        assert_eq!(bench.sees(1.0, 1000, &[]).len(), 1);
        bench.lag.forget_lost();
        assert_eq!(bench.sees(20.0, 1000, &[]), []);
        assert!(bench.lag.lost(bench.at).is_empty());
    }

    #[tokio::test]
    async fn the_replica_that_returns_is_not_mistaken_for_the_one_that_is_still_lost() {
        let at =
            |pid, addr: &str| Walsender { client_addr: Some(addr.to_owned()), ..standby("walreceiver", pid, 1000) };
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
        let rule =
            ReplicaRule { pattern: "far".to_owned(), url_env: Some("FAR_URL".to_owned()), ..ReplicaRule::default() };
        let mut bench = Bench::new(vec![rule.clone()]);
        bench.sees(0.0, 1000, &[]);
        // The primary also shows the replica, with an older position. This older position does not
        // count.
        assert_eq!(values(&bench.is_told(2000, 0.5, &rule, Ok(1000))), [("far", 0.5), ("far", 1000.0)]);
        assert_eq!(values(&bench.is_told(2000, 0.2, &rule, Ok(2000))), [("far", 0.0), ("far", 0.0)]);
        let old = bench.is_told(2000, 0.9, &rule, Ok(2000));
        let later = bench.at + Duration::from_secs_f64(1.5);
        assert_eq!(old[0].hold(later).as_deref(), Some("replica_lag_seconds of far has not been read for 2.4 s"));
        for (answer, reason) in [(Err("connection refused"), "connection refused"), (Ok(2001), "ahead of the primary")]
        {
            let readings = bench.is_told(2000, 0.1, &rule, answer);
            assert!(readings.len() == 1 && readings[0].must_hold, "{readings:?}");
            assert!(reasons(&readings)[0].starts_with("could not read the lag of replica far: "), "{readings:?}");
            assert!(reasons(&readings)[0].contains(reason), "{readings:?}");
        }
    }

    #[tokio::test]
    async fn the_first_rule_that_matches_counts() {
        let far =
            ReplicaRule { pattern: "eu-*".to_owned(), max_lag: Duration::from_secs(10), ..ReplicaRule::default() };
        let backup = ReplicaRule { pattern: "backup*".to_owned(), ignore: true, ..ReplicaRule::default() };
        let mut bench = Bench::new(vec![far, backup]);
        let seen = [standby("eu-1", 1, 0), standby("backup-1", 2, 0), standby("us-1", 3, 0)];
        let readings = bench.sees(0.0, 1000, &seen);
        let limits: Vec<(&str, f64)> = readings.iter().step_by(2).map(|r| (r.source.as_str(), r.limit)).collect();
        assert_eq!(limits, [("eu-1", 10.0), ("us-1", 1.0)]);
    }
}
