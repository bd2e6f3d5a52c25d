//! Renders the status page. One request returns the whole page, including style and script, so that
//! a bad connection cannot deliver the page without them. The template escapes every text.

mod card;
mod charts;
mod elements;
mod tables;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use self::card::{card, explain, has_ended, is_held};
use self::charts::charts;
use self::elements::{offer, time};
use self::tables::{events, rollouts, signals, workers};
use super::database_state::Job;
use super::document::{Database, Status};
use super::sql;
use crate::job::state::State;
use crate::text;

pub(super) const STYLE: &str = include_str!("page/page.css");
pub(super) const SCRIPT: &str = include_str!("page/page.js");
/// Time in seconds between two refreshes, in a browser that does not run the script.
const REFRESH_SECONDS: u32 = 5;
/// Maximum number of queued jobs that are shown as cards, in the same way as running jobs.
const QUEUED_CARDS: usize = 5;
/// Minimum age of a snapshot, in seconds, at which the page shows the age.
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
                        "As of " (time(&status.at, &status.at)) ". "
                        span #refresh {
                            noscript {
                                @if refreshes {
                                    "Refreshes every " (REFRESH_SECONDS) " s. " a href="?refresh=off" { "Stop" }
                                } @else {
                                    "Automatic refresh is off. " a href="./" { "Refresh" }
                                }
                            }
                        }
                    }
                }
                main #page {
                    p.headline role="status" #headline { (headline) }
                    @if status.draining {
                        p.banner.warn { "This daemon is draining: it finishes the batches in flight, releases its slices and stops. Other daemons can then claim these slices." }
                    }
                    div #jobs tabindex="-1" {
                        @for (at, database) in status.databases.iter().enumerate() { (section(at, database, &status.at)) }
                    }
                }
                footer {
                    p { "Read-only. To change jobs, use SQL or the command line, with the privileges of your database role." }
                    nav aria-label="Other pages" {
                        a href="status.json" { "status.json" } " " a href="metrics" { "metrics" } " "
                        a href="livez" { "livez" } " " a href="readyz" { "readyz" }
                    }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

/// Summarizes all databases in one line.
fn headline(status: &Status) -> String {
    let jobs = || status.databases.iter().flat_map(|database| &database.state.jobs);
    let of = |state: State| -> i64 {
        let name = state.to_string();
        status.databases.iter().filter_map(|database| database.state.queue.get(&name)).sum()
    };
    let unreachable = status.databases.iter().filter(|database| !database.ready && !status.draining).count();
    let held = jobs().filter(|job| is_held(job)).count();
    let failed = of(State::Failed);
    let mut parts = Vec::new();
    if unreachable > 0 {
        parts.push(if unreachable == 1 {
            "1 database not ready".to_owned()
        } else {
            format!("{unreachable} databases not ready")
        });
    }
    let at_work = of(State::Running) + of(State::Verifying);
    if at_work > 0 {
        parts.push(format!("{} active", jobs_of(at_work)));
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

fn section(at: usize, database: &Database, today: &str) -> Markup {
    let state = &database.state;
    let (ended, live): (Vec<&Job>, Vec<&Job>) = state.jobs.iter().partition(|job| has_ended(job));
    let (failed, ended): (Vec<&Job>, Vec<&Job>) = ended.into_iter().partition(|job| job.state == "failed");
    // The cards of a long queue would move all other elements off the screen.
    let in_queue = live.iter().filter(|job| job.state == "queued").count();
    let (shown, waiting) = live.split_at(live.len() - in_queue.saturating_sub(QUEUED_CARDS));
    let total = |ended: bool| -> i64 {
        let counted = state.queue.iter().filter(|(state, _)| State::read(state).is_some_and(State::has_ended) == ended);
        counted.map(|(_, jobs)| jobs).sum()
    };
    html! {
        section aria-labelledby=(format!("db{at}")) {
            h2 id=(format!("db{at}")) { "Database " (database.name) }
            (failure(database))
            @if let Some(paused) = &state.paused_all {
                div.banner.warn {
                    p {
                        strong { "All jobs are paused" }
                        @if let Some(by) = &paused.by { " by " (by) }
                        @if let Some(at) = &paused.at { " at " (time(at, today)) }
                        @if let Some(reason) = &paused.reason { ": " (reason) }
                    }
                    (offer(&format!("db{at}-resume-all"), "Resume all jobs", sql::RESUME_ALL))
                }
            }
            @if database.age_seconds.is_some() {
                (charts(at, database))
                @if !failed.is_empty() {
                    h3 { "Failed" }
                    @for job in &failed { (card(at, job, today)) }
                }
                h3 { "Active and waiting" }
                @if live.is_empty() { p.quiet { "No job." } }
                @for job in shown { (card(at, job, today)) }
                (queued(at, waiting))
                (more(total(false), live.len(), "unfinished jobs"))
                @if !ended.is_empty() {
                    h3 { "Ended" }
                    @for job in &ended { (card(at, job, today)) }
                }
                (more(total(true), failed.len() + ended.len(), "finished jobs"))
                (rollouts(at, &state.rollouts, today))
                (signals(at, &state.signals))
                (workers(at, &state.workers))
                (events(&state.events, today))
                @if state.paused_all.is_none() && !live.is_empty() {
                    h3 { "Emergency stop" }
                    (offer(&format!("db{at}-pause-all"), "Pause all jobs of this database", sql::PAUSE_ALL))
                }
            }
        }
    }
}

/// Lists the queued jobs that have no card, one line each.
fn queued(at: usize, jobs: &[&Job]) -> Markup {
    html! {
        @if !jobs.is_empty() {
            details id=(format!("db{at}-queue")) {
                summary { (jobs.len()) " more queued" }
                ul.queue {
                    @for job in jobs {
                        li { b { (job.name) } " on " code { (job.target) } @if let Some(reason) = &job.waiting_reason { ", waits: " (explain(reason)) } }
                    }
                }
            }
        }
    }
}

fn failure(database: &Database) -> Markup {
    let since = database.age_seconds.filter(|age| *age >= OLD_SECONDS);
    html! {
        @if !database.ready || database.failure.is_some() {
            div.banner.bad role="alert" {
                p {
                    strong { @if database.ready { "Not responding" } @else { "Not ready" } }
                    @if let Some(failure) = &database.failure { ": " (failure) }
                }
                @match since {
                    Some(age) => p { "Last data received " (text::seconds(age)) " ago." },
                    None if database.age_seconds.is_none() => p { "No data received yet." },
                    None => {}
                }
            }
        } @else if let Some(age) = since {
            p.banner.warn { "Last data received " (text::seconds(age)) " ago." }
        } @else if database.age_seconds.is_none() {
            p.banner.warn { "No data yet: the database has not responded since the daemon started." }
        }
    }
}

/// Shows the number of jobs that the page leaves out.
fn more(total: i64, shown: usize, what: &str) -> Markup {
    let rest = total.saturating_sub(i64::try_from(shown).unwrap_or(i64::MAX));
    html! {
        @if rest > 0 { p.quiet { "and " (text::count(rest)) " more " (what) ": " code { "backfilld status --all" } } }
    }
}
