//! The one place that knows all signals.

use std::time::Duration;

use super::watch::{How, Lane, Watch};
use super::{
    Look, active_sessions, archiver, checkpoints, deadlocks, http, lock_waits, oldest_xmin, probe_latency, prometheus,
    rollbacks, slot, sql, statement_time,
};
use crate::config::SignalRule;
use crate::throttle::batches::Batches;
use crate::throttle::reading::{Kind, Signal};

/// How often what the first batch must know is read while nobody works.
const BEFORE_WORK: Duration = Duration::from_secs(5);

/// What a built-in signal has unless a rule says otherwise.
pub struct Defaults {
    pub limit: Option<f64>,
    pub interval: Duration,
}

const fn default(limit: Option<f64>, seconds: u64) -> Defaults {
    Defaults { limit, interval: Duration::from_secs(seconds) }
}

/// Every signal of a database but replica lag.
pub fn registered(rules: &[SignalRule], batches: &Batches) -> Vec<Watch> {
    let rule = |signal: Signal| rules.iter().find(|rule| rule.name == signal.as_str());
    let built_in = |signal, kind, defaults: Defaults, look: fn(Option<f64>) -> Box<dyn Look>| {
        let rule = rule(signal);
        let limit = rule.and_then(|rule| rule.limit).or(defaults.limit);
        Watch::built_in(signal, kind, defaults, rule, look(limit))
    };
    let slots: Vec<SignalRule> = rules.iter().filter(|rule| rule.name == Signal::Slot.as_str()).cloned().collect();
    let mut watches = vec![
        Watch::built_in(Signal::Slot, Kind::Budget, default(None, 5), slots.first(), slot::Slots::new(slots.clone())),
        built_in(Signal::Archiver, Kind::Budget, default(None, 5), |limit| Box::new(archiver::Archiver { limit })),
        built_in(Signal::LockWaits, Kind::Load, default(Some(10.0), 1), |limit| {
            Box::new(lock_waits::LockWaits { limit })
        }),
        {
            let rule = rule(Signal::ActiveSessions);
            let look = active_sessions::ActiveSessions::new(
                rule.and_then(|rule| rule.limit),
                rule.and_then(|rule| rule.cores),
            );
            // Who begins to work must know who else is there.
            Watch::built_in(Signal::ActiveSessions, Kind::Load, default(None, 1), rule, look).also_at_rest(BEFORE_WORK)
        },
        {
            let (rule, default) = (rule(Signal::ProbeLatency), default(Some(0.15), 1));
            let limit = rule.and_then(|rule| rule.limit).or(default.limit);
            let look = probe_latency::ProbeLatency::new(limit, batches.clone());
            Watch::built_in(Signal::ProbeLatency, Kind::Load, default, rule, look)
        },
        built_in(Signal::OldestXmin, Kind::Load, default(None, 5), |limit| Box::new(oldest_xmin::OldestXmin { limit })),
        built_in(Signal::Checkpoints, Kind::Load, default(None, 10), |limit| {
            Box::new(checkpoints::Checkpoints::new(limit))
        }),
        built_in(Signal::StatementTime, Kind::Load, default(Some(3.0), 5), |limit| {
            Box::new(statement_time::StatementTime::new(limit))
        }),
        built_in(Signal::Rollbacks, Kind::Load, default(None, 5), |limit| Box::new(rollbacks::Rollbacks::new(limit))),
        built_in(Signal::Deadlocks, Kind::Load, default(Some(10.0), 5), |limit| {
            Box::new(deadlocks::Deadlocks::new(limit))
        }),
    ];
    watches.extend(rules.iter().filter_map(users_own));
    watches
}

/// None for a built-in one.
pub fn users_own(rule: &SignalRule) -> Option<Watch> {
    if let Some(query) = &rule.sql {
        let look = sql::Sql::new(&rule.name, query, rule.limit);
        return Some(Watch::users(rule, Kind::Load, How::Server(Lane::Users, Box::new(look))));
    }
    if let Some(url) = &rule.http {
        return Some(Watch::users(rule, Kind::Budget, How::Elsewhere(Box::new(http::Check::new(rule, url)))));
    }
    let query = rule.prometheus.as_ref()?;
    Some(Watch::users(rule, Kind::Load, How::Elsewhere(Box::new(prometheus::Query::new(rule, query)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of docs/signals.md: signal and kind, what it shows, limit, interval, what it takes.
    fn documented() -> Vec<(String, String, String)> {
        let text = include_str!("../../../docs/signals.md");
        let rows = text.lines().filter(|line| line.starts_with("| `"));
        let cells = rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
        let of_table = cells.filter(|cells| cells.len() == 5 && cells[3].ends_with(" s"));
        of_table.map(|cells| (cells[0].to_owned(), cells[2].to_owned(), cells[3].to_owned())).collect()
    }

    #[test]
    fn the_manual_tells_each_signal_with_its_limit_and_interval() {
        let documented = documented();
        for watch in registered(&[], &Batches::default()) {
            let name = format!("`{}`", watch.signal.as_str());
            let rows: Vec<_> = documented.iter().filter(|(signal, ..)| signal.starts_with(&name)).collect();
            assert!(!rows.is_empty(), "{name} is not in the table");
            let kind = if watch.limit.is_none() { "shown" } else { "load" };
            let limit = watch.limit.map(|limit| limit.to_string());
            let interval = format!("{} s", watch.interval.as_secs_f64());
            for (signal, told, each) in rows {
                assert!(signal.ends_with(kind), "{signal}: it is {kind}");
                let none = limit.is_none() && (told.is_empty() || told == "none");
                assert!(none || limit.as_ref() == Some(told), "{signal}: its limit is {limit:?} and not {told}");
                assert_eq!(each, &interval, "{signal}");
            }
        }
        let lag = documented.iter().filter(|(signal, ..)| signal.starts_with("`replica_lag_")).count();
        assert_eq!(documented.len(), lag + 11, "{documented:?}");
    }
}
