//! Renders the tables and lists below the jobs: signals, daemons and events.

use maud::{Markup, html};

use super::super::database_state::{Event, Rollout, Signal, Worker};
use super::elements::time;
use crate::text;
use crate::throttle::measure::signal;

pub(super) fn signals(at: usize, signals: &[Signal]) -> Markup {
    html! {
        @if !signals.is_empty() {
            h3 id=(format!("db{at}-signals")) { "Signals" }
            (table(&format!("db{at}-signals"), &[("Signal", false), ("Source", false), ("Value", true), ("Limit", true), ("Used", true), ("Reason", false)], html! {
                @for signal in signals {
                    tr.holding[signal.holding] {
                        th scope="row" { (signal.signal) }
                        td { (signal.source) }
                        td.number { (shown(signal, signal.value).unwrap_or_else(|| "?".to_owned())) }
                        td.number { (shown(signal, signal.limit).unwrap_or_default()) }
                        td.number { @if let Some(utilization) = signal.utilization { (format!("{} %", text::fixed(utilization * 100.0, 0))) } }
                        td {
                            @if signal.holding { strong { "Holding. " } }
                            @if let Some(reason) = &signal.reason { (reason) }
                        }
                    }
                }
            }))
        }
    }
}

pub(super) fn rollouts(at: usize, rollouts: &[Rollout], today: &str) -> Markup {
    html! {
        @if !rollouts.is_empty() {
            h3 id=(format!("db{at}-rollouts")) { "Rollouts" }
            (table(&format!("db{at}-rollouts"), &[("Rollout", false), ("Table", false), ("Stage", false), ("Since", false), ("State", false), ("Waits, or failed", false)], html! {
                @for rollout in rollouts {
                    tr {
                        th scope="row" { (rollout.name) }
                        td { (rollout.table_name) }
                        td { (rollout.stage) " (until " (rollout.until) ")" }
                        td { (time(&rollout.since, today)) }
                        td { @if rollout.desired_state == "paused" { "paused" } @else { (rollout.state.replace('_', " ")) } }
                        td {
                            @if let Some(error) = &rollout.error { (error) " " }
                            @if let Some(hint) = &rollout.hint { (hint) }
                            @if let (None, Some(text)) = (&rollout.error, &rollout.waiting_text) { (text) }
                        }
                    }
                }
            }))
        }
    }
}

/// Formats a value with the unit of its signal.
fn shown(signal: &Signal, value: Option<f64>) -> Option<String> {
    let value = value?;
    Some(signal::Signal::read(&signal.signal).map_or_else(|| text::figure(value), |signal| signal.show(value)))
}

pub(super) fn workers(at: usize, workers: &[Worker]) -> Markup {
    html! {
        h3 id=(format!("db{at}-daemons")) { "Daemons" }
        @if workers.is_empty() { p.quiet { "No daemon is running on this database." } }
        @else {
            (table(&format!("db{at}-daemons"), &[("Host", false), ("Process", true), ("Version", false), ("Slices", true), ("Last heartbeat", true)], html! {
                @for worker in workers {
                    tr {
                        th scope="row" { (worker.host) }
                        td.number { (worker.pid) }
                        td { (worker.version) }
                        td.number { (worker.slices) }
                        td.number { (text::seconds(worker.heartbeat_age_seconds)) " ago" }
                    }
                }
            }))
        }
    }
}

/// Renders a table. `head` contains the name of each column and whether the column contains
/// numbers. A table that is wider than the screen scrolls separately from the page.
fn table(labelled_by: &str, head: &[(&str, bool)], rows: Markup) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-labelledby=(labelled_by) {
            table aria-labelledby=(labelled_by) {
                thead { tr { @for (name, number) in head { th.number[*number] scope="col" { (name) } } } }
                tbody { (rows) }
            }
        }
    }
}

pub(super) fn events(events: &[Event], today: &str) -> Markup {
    html! {
        @if !events.is_empty() {
            h3 { "Last events" }
            ol.events {
                @for event in events {
                    li {
                        (time(&event.at, today)) " "
                        @if let Some(name) = &event.name { b { (name) } " " }
                        span.kind { (event.kind) } " " (event.message) " " span.quiet { "(" (event.actor) ")" }
                    }
                }
            }
        }
    }
}
