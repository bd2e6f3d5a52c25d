//! The page. One request brings all of it: a phone in a tunnel loads it whole or not at all, and a browser has no token
//! for further ones. Every text goes through the template's escaping.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::chart::{Chart, draw};
use super::seen::{Event, Job, Seen, Signal, Worker};
use super::sql::{self, Offer};
use super::{Database, Status};
use crate::job::next::Next;
use crate::job::state::State;
use crate::text;
use crate::throttle::reading;

pub(super) const STYLE: &str = include_str!("page.css");
pub(super) const SCRIPT: &str = include_str!("page.js");
/// Without the script.
const REFRESH_SECONDS: u32 = 5;
/// A page whose databases were seen longer ago than this says so.
const OLD_SECONDS: f64 = 5.0;
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' height='16' rx='3' fill='%23336791'/%3E%3Cpath d='M3 12h10M3 8h7M3 4h4' stroke='white' stroke-width='2'/%3E%3C/svg%3E";

pub(super) fn render(status: &Status, refreshes: bool) -> Markup {
    let headline = headline(status);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (headline) " · backfilld" }
                link rel="icon" href=(ICON);
                @if refreshes {
                    noscript { meta http-equiv="refresh" content=(REFRESH_SECONDS); }
                }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#jobs" { "To the jobs" }
                header {
                    h1 { "backfilld " span.version { (status.version) } }
                    p.updated {
                        "As of " (time(&status.at)) ". "
                        span #refresh {
                            noscript {
                                @if refreshes {
                                    "Refreshes every " (REFRESH_SECONDS) " s. " a href="/?refresh=off" { "Stop" }
                                } @else {
                                    "Does not refresh itself. " a href="/" { "Refresh" }
                                }
                            }
                        }
                    }
                }
                main #page {
                    p.headline role="status" #headline { (headline) }
                    @if status.draining {
                        p.banner.warn { "This daemon is draining: the batch in flight finishes, then it stops. Others take over." }
                    }
                    div #jobs tabindex="-1" {
                        @for (at, database) in status.databases.iter().enumerate() { (section(at, database)) }
                    }
                }
                footer {
                    p { "Read-only: changes are made by SQL or the command line, where rights are the database's." }
                    nav aria-label="Other pages" {
                        a href="/status.json" { "status.json" } " " a href="/metrics" { "metrics" } " "
                        a href="/livez" { "livez" } " " a href="/readyz" { "readyz" }
                    }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

/// What it is about, in a line.
fn headline(status: &Status) -> String {
    let jobs = || status.databases.iter().flat_map(|database| &database.seen.jobs);
    let of = |state: State| -> i64 {
        let name = state.to_string();
        status.databases.iter().filter_map(|database| database.seen.queue.get(&name)).sum()
    };
    let unreachable = status.databases.iter().filter(|database| !database.ready && !status.draining).count();
    let held = jobs().filter(|job| is_held(job)).count();
    let failed = of(State::Failed);
    let mut parts = Vec::new();
    if unreachable > 0 {
        parts.push(if unreachable == 1 { "1 database not ready".to_owned() } else { format!("{unreachable} databases not ready") });
    }
    let at_work = of(State::Running) + of(State::Verifying);
    if at_work > 0 {
        parts.push(format!("{} at work", jobs_of(at_work)));
    }
    if held > 0 {
        parts.push(format!("{held} of them held"));
    }
    for (state, word) in [(State::Paused, "paused"), (State::Queued, "queued")] {
        if of(state) > 0 {
            parts.push(format!("{} {word}", text::count(of(state))));
        }
    }
    if failed > 0 {
        parts.push(format!("{} failed", text::count(failed)));
    }
    if parts.is_empty() { "Nothing to do".to_owned() } else { parts.join(", ") }
}

fn jobs_of(number: i64) -> String {
    if number == 1 { "1 job".to_owned() } else { format!("{} jobs", text::count(number)) }
}

fn has_ended(job: &Job) -> bool {
    State::read(&job.state).is_some_and(State::has_ended)
}

fn is_held(job: &Job) -> bool {
    matches!(job.state.as_str(), "running" | "verifying") && job.waiting_reason.is_some()
}

fn section(at: usize, database: &Database) -> Markup {
    let seen = &database.seen;
    let (ended, live): (Vec<&Job>, Vec<&Job>) = seen.jobs.iter().partition(|job| has_ended(job));
    let total = |ended: bool| -> i64 {
        let counted = seen.queue.iter().filter(|(state, _)| State::read(state).is_some_and(State::has_ended) == ended);
        counted.map(|(_, jobs)| jobs).sum()
    };
    html! {
        section aria-labelledby=(format!("db{at}")) {
            h2 id=(format!("db{at}")) { "Database " (database.name) }
            (trouble(database))
            @if let Some(paused) = &seen.paused_all {
                div.banner.warn {
                    p {
                        strong { "All jobs are paused" }
                        @if let Some(by) = &paused.by { " by " (by) }
                        @if let Some(at) = &paused.at { " at " (time(at)) }
                        @if let Some(reason) = &paused.reason { ": " (reason) }
                    }
                    (offer(&format!("db{at}-resume-all"), "Resume all jobs", sql::RESUME_ALL))
                }
            }
            @if database.age_seconds.is_some() {
                (charts(at, database))
                h3 { "Jobs" }
                @if live.is_empty() { p.quiet { "No job lives." } }
                @for job in &live { (card(at, job)) }
                (more(total(false), live.len(), "live"))
                @if !ended.is_empty() {
                    h3 { "Ended" }
                    @for job in &ended { (card(at, job)) }
                    (more(total(true), ended.len(), "ended"))
                }
                (signals(at, &seen.signals))
                (workers(at, &seen.workers))
                (events(&seen.events))
                @if seen.paused_all.is_none() && !live.is_empty() {
                    h3 { "Emergency stop" }
                    (offer(&format!("db{at}-pause-all"), "Pause all jobs of this database", sql::PAUSE_ALL))
                }
            }
        }
    }
}

fn trouble(database: &Database) -> Markup {
    let since = database.age_seconds.filter(|age| *age >= OLD_SECONDS);
    html! {
        @if !database.ready || database.trouble.is_some() {
            div.banner.bad role="alert" {
                p {
                    strong { @if database.ready { "Not answering" } @else { "Not ready" } }
                    @if let Some(trouble) = &database.trouble { ": " (trouble) }
                }
                @match since {
                    Some(age) => p { "What follows was seen " (text::seconds(age)) " ago." },
                    None if database.age_seconds.is_none() => p { "Nothing was seen of it yet." },
                    None => {}
                }
            }
        } @else if let Some(age) = since {
            p.banner.warn { "What follows was seen " (text::seconds(age)) " ago." }
        } @else if database.age_seconds.is_none() {
            p.banner.warn { "Nothing was seen of it yet: the database has not answered so far." }
        }
    }
}

/// What lives or ended beyond what is shown.
fn more(total: i64, shown: usize, what: &str) -> Markup {
    let rest = total.saturating_sub(i64::try_from(shown).unwrap_or(i64::MAX));
    html! {
        @if rest > 0 { p.quiet { "and " (text::count(rest)) " more that " (if what == "live" { "live" } else { "ended" }) ": " code { "backfilld status --all" } } }
    }
}

/// Points in a whole chart.
const ROOM: usize = 180;

fn charts(at: usize, database: &Database) -> Markup {
    let charts = &database.charts;
    let rates = &charts.rows_per_second;
    let now = rates.iter().rev().find_map(|rate| *rate).unwrap_or(0.0);
    let most = rates.iter().flatten().copied().fold(0.0, f64::max);
    let held = charts.held_by.iter().rev().take(1).find_map(Option::as_deref);
    let minutes = charts.step_seconds * ROOM as u64 / 60;
    let said = format!("Now {} rows a second, at most {} in the last {minutes} minutes", text::rate(now), text::rate(most));
    html! {
        div.charts {
            figure id=(format!("db{at}-rate")) {
                figcaption { "Rows a second, all jobs" }
                p.now { b { (text::rate(now)) } span.quiet { " at most " (text::rate(most)) } @if let Some(reason) = held { " " span.badge.held { "held: " (reason) } } }
                (draw(&Chart { label: &said, values: rates, limit: None, held: &charts.held_by, room: ROOM }))
            }
            @for (n, replica) in charts.replicas.iter().enumerate() {
                @let now = replica.lag_seconds.last().copied().flatten();
                @let shown = now.map_or("not known".to_owned(), lag);
                @let limit = replica.limit_seconds.map_or(String::new(), |limit| format!(" of at most {}", lag(limit)));
                figure id=(format!("db{at}-lag{n}")) {
                    figcaption { "Lag of " (replica.replica) }
                    p.now { b { (shown) } span.quiet { (limit) } }
                    (draw(&Chart { label: &format!("Now {shown}{limit}"), values: &replica.lag_seconds, limit: replica.limit_seconds, held: &charts.held_by, room: ROOM }))
                }
            }
        }
        p.quiet.legend { "The last " (minutes) " minutes. " span.key.held {} " held  " span.key.limit {} " limit" }
    }
}

fn lag(seconds: f64) -> String {
    if seconds < 10.0 { format!("{seconds:.2} s") } else { text::seconds(seconds) }
}

fn card(at: usize, job: &Job) -> Markup {
    let id = format!("db{at}-job{}", job.id);
    html! {
        article.job.(job.state) id=(id) aria-labelledby=(format!("{id}-name")) {
            div.title {
                h4 id=(format!("{id}-name")) { (job.name) }
                (badge(job))
            }
            @if !has_ended(job) || job.state != "succeeded" { (progress(&format!("Progress of {}", job.name), job.percent_done)) }
            p.figures { (figures(job)) }
            (why(job))
            @if job.slices_total > 1 && !job.slices.is_empty() { (slices(&id, job)) }
            details id=(format!("{id}-sql")) {
                summary { @if has_ended(job) { "What to do next" } @else { "Pause, slow down or cancel" } }
                @for (n, Offer { what, sql }) in sql::offers(job).iter().enumerate() { (offer(&format!("{id}-sql{n}"), what, sql)) }
            }
        }
    }
}

fn badge(job: &Job) -> Markup {
    let asked = match job.desired_state.as_str() {
        "paused" if !has_ended(job) && job.state != "paused" => Some("pause asked"),
        "cancelled" if !has_ended(job) => Some("cancel asked"),
        _ => None,
    };
    html! {
        @if is_held(job) { span.badge.held { "held" } " " }
        span.badge.(job.state) { (job.state) }
        @if let Some(asked) = asked { " " span.badge.asked { (asked) } }
    }
}

fn progress(label: &str, percent: f64) -> Markup {
    let percent = percent.clamp(0.0, 100.0);
    // The figure stands beside it.
    html! { progress max="100" value=(format!("{percent:.1}")) aria-label=(label) { (format!("{percent:.1} %")) } }
}

/// How far, how fast, how long still.
fn figures(job: &Job) -> Markup {
    let mut parts = vec![format!("{:.1} %", job.percent_done)];
    match job.rows_estimated {
        Some(estimated) if !has_ended(job) => {
            parts.push(format!("{} of about {} rows passed", text::count(job.rows_scanned), text::count(estimated)));
        }
        _ if job.rows_scanned > 0 => parts.push(format!("{} passed", text::rows(job.rows_scanned))),
        _ => {}
    }
    if job.rows_changed > 0 {
        parts.push(format!("{} {}", text::count(job.rows_changed), if job.kind == "delete" { "deleted" } else { "changed" }));
    }
    if job.rows_quarantined > 0 {
        let by: Vec<String> =
            job.row_errors.iter().map(|errors| format!("{} × SQLSTATE {}", text::count(errors.rows), errors.sqlstate)).collect();
        let by = if by.is_empty() { String::new() } else { format!(" ({})", by.join(", ")) };
        parts.push(format!("{} quarantined{by}", text::rows(job.rows_quarantined)));
    }
    if !has_ended(job) {
        if let Some(rate) = job.rows_per_second {
            let limit = job.max_rows_per_second.map_or(String::new(), |limit| format!(" of at most {}", text::rate(limit)));
            parts.push(format!("{} rows/s{limit}", text::rate(rate)));
        }
        // A job that is held has no pace to reckon with.
        if let (Some(eta), None) = (job.eta_seconds, &job.waiting_reason) {
            parts.push(format!("done in about {}", text::seconds(eta)));
        }
    } else if let Some(took) = job.took_seconds {
        parts.push(format!("took {}", text::seconds(took)));
    }
    html! {
        (parts.join(" · "))
        @if let Some(deadline) = job.deadline.as_ref().filter(|_| !has_ended(job)) { " · deadline " (time(deadline)) }
        @if let Some(finished) = &job.finished_at { " · ended " (time(finished)) }
        @if job.state == "succeeded" { @if job.verified_at.is_some() { " · verified" } @else { " · not verified" } }
        " · on " code { (job.target) }
    }
}

fn why(job: &Job) -> Markup {
    let next = match Next::of(&job.state, job.waiting_reason.as_deref()) {
        Some(Next::StartDaemon) => Some("No daemon is at work on this database: backfilld run."),
        Some(Next::ServeRole) => Some("No daemon runs jobs of its role: backfilld doctor tells what is missing."),
        _ => None,
    };
    html! {
        @if let Some(reason) = &job.waiting_reason {
            p.why {
                strong { "Waits: " (explain(reason)) } " " code { (reason) }
                @if let Some(text) = &job.waiting_text { br; (text) }
                @if let (true, Some(at)) = (reason == "run_at", &job.run_at) { br; "It starts at " (time(at)) "." }
            }
        }
        @if let Some(next) = next { p.why { (next) } }
        @if let (Some(reason), "paused" | "cancelled") = (&job.reason, job.desired_state.as_str()) { p.why { "Reason: " (reason) } }
        @if let Some(error) = &job.error {
            p.error { strong { "Error: " } (error) }
            @if let Some(hint) = &job.hint { p.why { "Hint: " (hint) } }
        }
    }
}

/// A word of `waiting_reason` as a sentence.
fn explain(reason: &str) -> &'static str {
    match reason {
        "approval" => "somebody has to approve it",
        "run_at" => "its time has not come",
        "window" => "its window is closed",
        "paused_all" => "all jobs are paused",
        "executor" => "no daemon runs jobs of its role",
        "replica_lag" => "a replica is behind",
        "slot" => "a replication slot keeps too much WAL",
        "archiver" => "the archiver is behind",
        "lock_waits" => "sessions wait for locks",
        "load" => "the server has other work",
        "signal" => "a signal of your own says so",
        "rate" => "its rate limit",
        "locked_rows" => "the rows that are left are locked by others",
        "vacuum" => "autovacuum is on the table",
        "daemon" => "no daemon is at work",
        _ => "for a reason that this version does not know",
    }
}

fn slices(id: &str, job: &Job) -> Markup {
    let rest = job.slices_total - i64::try_from(job.slices.len()).unwrap_or(0);
    html! {
        details id=(format!("{id}-slices")) {
            summary { (job.slices_total) " slices" }
            ul.slices {
                @for slice in &job.slices {
                    li {
                        span.of { "Slice " (slice.slice) @if slice.relation != job.target { " of " (slice.relation) } ": " (slice.state) @if let Some(host) = &slice.host { " by " (host) } }
                        @if let Some(percent) = slice.percent_done {
                            (progress(&format!("Slice {} of {}", slice.slice, job.name), percent))
                            span.quiet { (format!("{percent:.1} %, ")) (text::rows(slice.rows_scanned)) }
                        } @else {
                            span.quiet { (text::rows(slice.rows_scanned)) }
                        }
                    }
                }
            }
            @if rest > 0 { p.quiet { "and " (text::count(rest)) " more: " code { "select * from backfill.slices" } } }
        }
    }
}

/// A statement to copy.
fn offer(id: &str, what: &str, sql: &str) -> Markup {
    html! {
        div.offer {
            p id=(format!("{id}-what")) { (what) }
            // Reachable by keyboard, for it may be wider than the screen.
            pre id=(id) tabindex="0" role="region" aria-labelledby=(format!("{id}-what")) { code { (sql) } }
        }
    }
}

fn signals(at: usize, signals: &[Signal]) -> Markup {
    html! {
        @if !signals.is_empty() {
            h3 id=(format!("db{at}-signals")) { "Signals" }
            (table(&format!("db{at}-signals"), &["Signal", "Source", "Value", "Limit", "Of it", "Says"], html! {
                @for signal in signals {
                    tr.holding[signal.holding] {
                        th scope="row" { (signal.signal) }
                        td { (signal.source) }
                        td.number { (shown(signal, signal.value).unwrap_or_else(|| "?".to_owned())) }
                        td.number { (shown(signal, signal.limit).unwrap_or_default()) }
                        td.number { @if let Some(utilization) = signal.utilization { (format!("{:.0} %", utilization * 100.0)) } }
                        td {
                            @if signal.holding { strong { "Holds the work. " } }
                            @if let Some(reason) = &signal.reason { (reason) }
                        }
                    }
                }
            }))
        }
    }
}

/// With its unit.
fn shown(signal: &Signal, value: Option<f64>) -> Option<String> {
    let value = value?;
    Some(reading::Signal::read(&signal.signal).map_or_else(|| value.to_string(), |signal| signal.show(value)))
}

fn workers(at: usize, workers: &[Worker]) -> Markup {
    html! {
        h3 id=(format!("db{at}-daemons")) { "Daemons" }
        @if workers.is_empty() { p.quiet { "None is at work on this database." } }
        @else {
            (table(&format!("db{at}-daemons"), &["Host", "Process", "Version", "Slices", "Last heartbeat"], html! {
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

/// Scrolls by itself where it is wider than the screen.
fn table(labelled_by: &str, head: &[&str], rows: Markup) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-labelledby=(labelled_by) {
            table aria-labelledby=(labelled_by) {
                thead { tr { @for name in head { th scope="col" { (name) } } } }
                tbody { (rows) }
            }
        }
    }
}

fn events(events: &[Event]) -> Markup {
    html! {
        @if !events.is_empty() {
            h3 { "Last events" }
            ol.events {
                @for event in events {
                    li {
                        (time(&event.at)) " "
                        @if let Some(name) = &event.name { b { (name) } " " }
                        span.kind { (event.kind) } " " (event.message) " " span.quiet { "(" (event.actor) ")" }
                    }
                }
            }
        }
    }
}

/// `2026-11-27T17:38:51Z` as `17:38:51 UTC` of a day that the reader can hover for.
fn time(at: &str) -> Markup {
    let clock = at.split_once('T').map(|(day, clock)| (day, clock.trim_end_matches('Z')));
    html! {
        @match clock {
            Some((day, clock)) => time datetime=(at) title=(format!("{day} {clock} UTC")) { span.day { (day) " " } (clock) " UTC" },
            None => (at),
        }
    }
}

impl Seen {
    #[cfg(test)]
    pub fn with(jobs: Vec<Job>) -> Self {
        let mut seen = Self { jobs, ..Self::default() };
        for job in &seen.jobs {
            *seen.queue.entry(job.state.clone()).or_default() += 1;
        }
        seen
    }
}
