//! One job: how far, how fast, why it waits or failed, and what may be done about it.

use maud::{Markup, html};

use super::super::seen::Job;
use super::super::sql::{self, Offer};
use super::elements::{offer, time};
use crate::job::next::Next;
use crate::job::state::State;
use crate::text;

pub(super) fn has_ended(job: &Job) -> bool {
    State::read(&job.state).is_some_and(State::has_ended)
}

pub(super) fn is_held(job: &Job) -> bool {
    matches!(job.state.as_str(), "running" | "verifying") && job.waiting_reason.is_some()
}

pub(super) fn card(at: usize, job: &Job, today: &str) -> Markup {
    let id = format!("db{at}-job{}", job.id);
    html! {
        article.job.(job.state) id=(id) aria-labelledby=(format!("{id}-name")) {
            div.title {
                h4 id=(format!("{id}-name")) { (job.name) }
                (badge(job))
            }
            @if !has_ended(job) || job.state != "succeeded" { (progress(&format!("Progress of {}", job.name), job.percent_done)) }
            p.figures { (figures(job, today)) }
            (why(job, today))
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
fn figures(job: &Job, today: &str) -> Markup {
    let mut parts = vec![format!("{:.1} %", job.percent_done)];
    match job.rows_estimated {
        Some(estimated) if !has_ended(job) => {
            parts.push(format!("{} of about {} rows passed", text::count(job.rows_scanned), text::count(estimated)));
        }
        _ if job.rows_scanned > 0 => parts.push(format!("{} passed", text::rows(job.rows_scanned))),
        _ => {}
    }
    if job.rows_changed > 0 {
        parts.push(format!(
            "{} {}",
            text::count(job.rows_changed),
            if job.kind == "delete" { "deleted" } else { "changed" }
        ));
    }
    if job.rows_quarantined > 0 {
        let by: Vec<String> = job
            .row_errors
            .iter()
            .map(|errors| format!("{} × SQLSTATE {}", text::count(errors.rows), errors.sqlstate))
            .collect();
        let by = if by.is_empty() { String::new() } else { format!(" ({})", by.join(", ")) };
        parts.push(format!("{} quarantined{by}", text::rows(job.rows_quarantined)));
    }
    if !has_ended(job) {
        if let Some(rate) = job.rows_per_second {
            let limit =
                job.max_rows_per_second.map_or(String::new(), |limit| format!(" of at most {}", text::rate(limit)));
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
        @if let Some(deadline) = job.deadline.as_ref().filter(|_| !has_ended(job)) { " · deadline " (time(deadline, today)) }
        @if let Some(finished) = &job.finished_at { " · ended " (time(finished, today)) }
        @if job.state == "succeeded" { @if job.verified_at.is_some() { " · verified" } @else { " · not verified" } }
        " · on " code { (job.target) }
    }
}

fn why(job: &Job, today: &str) -> Markup {
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
                @if let (true, Some(at)) = (reason == "run_at", &job.run_at) { br; "It starts at " (time(at, today)) "." }
            }
        }
        @if let Some(next) = next { p.why { (next) } }
        @else if job.state == "queued" && job.waiting_reason.is_none() { p.why { strong { "Waits: for a worker that is free" } } }
        @if let (Some(reason), "paused" | "cancelled") = (&job.reason, job.desired_state.as_str()) { p.why { "Reason: " (reason) } }
        @if let Some(error) = &job.error {
            p.error { strong { "Error: " } (error) }
            @if let Some(hint) = &job.hint { p.why { "Hint: " (hint) } }
        }
    }
}

/// A word of `waiting_reason` as a sentence.
pub(super) fn explain(reason: &str) -> &'static str {
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
