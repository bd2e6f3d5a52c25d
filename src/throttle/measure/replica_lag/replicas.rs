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

/// Time for which a disconnected replica holds jobs if its rule does not require this replica. This
/// time is long enough for a restart or a short network failure. Without this grace period, jobs
/// would continue, and the replica would be far behind when it returns.
pub const GRACE: Duration = Duration::from_secs(10);

/// State of the signal: the primary's positions over time, and the replicas that the daemon has
/// seen.
#[derive(Debug)]
pub struct ReplicaLag {
    rules: Vec<ReplicaRule>,
    history: History,
    known: Vec<Replica>,
    lost: LostReplicas,
    /// Replay rates, by replica name, of the replicas that the daemon queries directly.
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
    /// daemon queries directly. These results must be older than the primary's state. If no
    /// replica's lag is taken into account, the returned list is empty.
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

    /// Returns the readings of each known replica, based on the primary's list of standbys. A
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

    /// Returns the known replicas and the required rules that no replica matches, as of the last
    /// poll in which the primary showed its replicas. The flag of each replica tells whether that
    /// replica is connected.
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
                    // If the name contains the old session's port or pid, it now refers to a
                    // session that has ended.
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
        // If a replica that disconnected a moment ago were kept here, it would be added to the lost
        // replicas at the end of its grace period.
        let rules = &self.rules;
        self.known.retain(|replica| replica.missing_since.is_none() || rules[replica.rule].required);
    }

    /// Moves each replica whose grace period has ended to the list of lost replicas. A required
    /// replica is never moved: it holds jobs until it returns.
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

    /// Returns whether the walsender is ignored. The walsender of a replica that the daemon queries
    /// directly is ignored, because otherwise this replica would count twice.
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
mod tests;
