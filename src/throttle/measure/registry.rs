//! Creates all signals except replica lag.

use std::time::Duration;

use tokio_postgres::Client;

use crate::config::signal::SignalRule;
use crate::error::Result;
use crate::throttle::in_flight::InFlight;
use crate::throttle::measure::builtin::{
    active_sessions, archiver, checkpoints, deadlocks, lock_waits, oldest_xmin, probe_latency, rollbacks, slot,
    statement_time,
};
use crate::throttle::measure::custom::{http, prometheus, sql};
use crate::throttle::measure::poll::Poll;
use crate::throttle::measure::polled_signal::{Defaults, Lane, Place, PolledSignal};
use crate::throttle::measure::signal::{Signal, SignalKind};

/// While no job runs, `active_sessions` is polled at this interval, because the first batch needs
/// it.
const BEFORE_WORK: Duration = Duration::from_secs(5);

const fn default(limit: Option<f64>, seconds: u64) -> Defaults {
    Defaults { limit, interval: Duration::from_secs(seconds) }
}

/// Returns all signals of a database except replica lag. `in_flight` counts the batches that run on
/// the database.
pub fn registered(rules: &[SignalRule], in_flight: &InFlight) -> Vec<PolledSignal> {
    let rule = |signal: Signal| rules.iter().find(|rule| rule.name == signal.as_str());
    let built_in = |signal, kind, defaults: Defaults, poll: fn(Option<f64>) -> Box<dyn Poll>| {
        let rule = rule(signal);
        let limit = rule.and_then(|rule| rule.limit).or(defaults.limit);
        PolledSignal::built_in(signal, kind, defaults, rule, poll(limit))
    };
    let slots: Vec<SignalRule> = rules.iter().filter(|rule| rule.name == Signal::Slot.as_str()).cloned().collect();
    let mut signals = vec![
        PolledSignal::built_in(
            Signal::Slot,
            SignalKind::Budget,
            default(None, 5),
            slots.first(),
            Box::new(slot::Slots::new(slots.clone())),
        ),
        built_in(Signal::Archiver, SignalKind::Budget, default(None, 5), |limit| {
            Box::new(archiver::Archiver { limit })
        }),
        built_in(Signal::LockWaits, SignalKind::Load, default(Some(10.0), 1), |limit| {
            Box::new(lock_waits::LockWaits { limit })
        }),
        {
            let rule = rule(Signal::ActiveSessions);
            let (limit, cores) = (rule.and_then(|rule| rule.limit), rule.and_then(|rule| rule.cores));
            let poll = Box::new(active_sessions::ActiveSessions::new(limit, cores));
            // The first batch needs to know whether other sessions are active.
            PolledSignal::built_in(Signal::ActiveSessions, SignalKind::Load, default(None, 1), rule, poll)
                .also_at_rest(BEFORE_WORK)
        },
        {
            let (rule, default) = (rule(Signal::ProbeLatency), default(Some(0.15), 1));
            let limit = rule.and_then(|rule| rule.limit).or(default.limit);
            let poll = Box::new(probe_latency::ProbeLatency::new(limit, in_flight.clone()));
            PolledSignal::built_in(Signal::ProbeLatency, SignalKind::Load, default, rule, poll)
        },
        built_in(Signal::OldestXmin, SignalKind::Load, default(None, 5), |limit| {
            Box::new(oldest_xmin::OldestXmin { limit })
        }),
        built_in(Signal::Checkpoints, SignalKind::Load, default(None, 10), |limit| {
            Box::new(checkpoints::Checkpoints::new(limit))
        }),
        built_in(Signal::StatementTime, SignalKind::Load, default(Some(3.0), 5), |limit| {
            Box::new(statement_time::StatementTime::new(limit))
        }),
        built_in(Signal::Rollbacks, SignalKind::Load, default(None, 5), |limit| {
            Box::new(rollbacks::Rollbacks::new(limit))
        }),
        built_in(Signal::Deadlocks, SignalKind::Load, default(Some(10.0), 5), |limit| {
            Box::new(deadlocks::Deadlocks::new(limit))
        }),
    ];
    signals.extend(rules.iter().filter_map(custom));
    signals
}

/// Returns the user-defined signal of this rule. Returns none if the rule is for a built-in signal.
fn custom(rule: &SignalRule) -> Option<PolledSignal> {
    if let Some(query) = &rule.sql {
        let poll = sql::Sql::new(&rule.name, query, rule.limit);
        return Some(PolledSignal::custom(rule, SignalKind::Load, Place::Server(Lane::Custom, Box::new(poll))));
    }
    if let Some(url) = &rule.http {
        let poll = http::Check::new(rule, url);
        return Some(PolledSignal::custom(rule, SignalKind::Budget, Place::Elsewhere(Box::new(poll))));
    }
    let poll = prometheus::Query::new(rule, rule.prometheus.as_ref()?);
    Some(PolledSignal::custom(rule, SignalKind::Load, Place::Elsewhere(Box::new(poll))))
}

/// Polls the user-defined signal of this rule once and returns the result as text, for `doctor`.
/// Returns none if the rule is for a built-in signal.
///
/// # Errors
/// Returns the reason why the signal cannot be read.
pub async fn try_once(rule: &SignalRule, client: &Client) -> Option<Result<String>> {
    let samples = custom(rule)?.poll_once(client).await;
    Some(samples.map(|samples| {
        samples
            .first()
            .map_or_else(String::new, |sample| sample.says.clone().unwrap_or_else(|| format!("is {}", sample.value)))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the name, limit and interval that the table in docs/signals.md gives for each
    /// signal.
    fn documented() -> Vec<(String, String, String)> {
        let text = include_str!("../../../docs/signals.md");
        let rows = text.lines().filter(|line| line.starts_with("| `"));
        let cells = rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
        let of_table = cells.filter(|cells| cells.len() == 5 && cells[3].ends_with(" s"));
        of_table.map(|cells| (cells[0].to_owned(), cells[2].to_owned(), cells[3].to_owned())).collect()
    }

    #[test]
    fn the_manual_documents_each_signal_with_its_limit_and_interval() {
        let documented = documented();
        for polled in registered(&[], &InFlight::default()) {
            let name = format!("`{}`", polled.signal.as_str());
            let rows: Vec<_> = documented.iter().filter(|(signal, ..)| signal.starts_with(&name)).collect();
            assert!(!rows.is_empty(), "{name} is not in the table");
            let kind = if polled.limit.is_none() { "shown" } else { "load" };
            let limit = polled.limit.map(|limit| limit.to_string());
            let interval = format!("{} s", polled.interval.as_secs_f64());
            for (signal, shown, each) in rows {
                assert!(signal.ends_with(kind), "{signal}: it is {kind}");
                let none = limit.is_none() && (shown.is_empty() || shown == "none");
                assert!(none || limit.as_ref() == Some(shown), "{signal}: its limit is {limit:?} and not {shown}");
                assert_eq!(each, &interval, "{signal}");
            }
        }
        let lag = documented.iter().filter(|(signal, ..)| signal.starts_with("`replica_lag_")).count();
        assert_eq!(documented.len(), lag + 11, "{documented:?}");
    }
}
