//! Renders the card of one job: its progress, its rate, the reason why it waits or failed, and the
//! statements for the operator.

use maud::{Markup, html};

use super::super::database_state::Job;
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
        "paused" if !has_ended(job) && job.state != "paused" => Some("pause requested"),
        "cancelled" if !has_ended(job) => Some("cancel requested"),
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
    // The text beside the bar contains the percentage too.
    html! { progress max="100" value=(format!("{percent:.1}")) aria-label=(label) { (format!("{} %", text::fixed(percent, 1))) } }
}

/// Lists the progress, the numbers of rows, the rate, the times and the table.
fn figures(job: &Job, today: &str) -> Markup {
    let mut parts = vec![format!("{} %", text::fixed(job.percent_done, 1))];
    match job.rows_estimated {
        Some(estimated) if !has_ended(job) => {
            parts.push(format!("{} of about {} rows processed", text::count(job.rows_scanned), text::count(estimated)));
        }
        _ if job.rows_scanned > 0 => parts.push(format!("{} processed", text::rows(job.rows_scanned))),
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
        // The rate of a held job does not allow an estimate of the remaining time.
        if let (Some(eta), None) = (job.eta_seconds, &job.waiting_reason) {
            parts.push(format!("about {} remaining", text::seconds(eta)));
        }
    } else if let Some(took) = job.took_seconds {
        parts.push(format!("took {}", text::seconds(took)));
    }
    html! {
        (parts.join(" · "))
        @if let Some(deadline) = job.deadline.as_ref().filter(|_| !has_ended(job)) { " · deadline " (time(deadline, today)) }
        @if let Some(finished) = &job.finished_at { " · finished " (time(finished, today)) }
        @if job.state == "succeeded" { @if job.verified_at.is_some() { " · verified" } @else { " · not verified" } }
        " · on " code { (job.target) }
    }
}

fn why(job: &Job, today: &str) -> Markup {
    let next = match Next::of(&job.state, job.waiting_reason.as_deref()) {
        Some(Next::StartDaemon) => Some("No daemon is running on this database. Start a daemon: backfilld run"),
        Some(Next::ServeRole) => Some("No daemon runs jobs of this role. To find the cause: backfilld doctor"),
        _ => None,
    };
    html! {
        @if let Some(reason) = &job.waiting_reason {
            p.why {
                strong { "Waits: " (explain(reason)) } " " code { (reason) }
                @if let Some(text) = &job.waiting_text { br; (text) }
                @if let (true, Some(at)) = (reason == "run_at", &job.run_at) { br; "Starts at " (time(at, today)) "." }
            }
        }
        @if let Some(next) = next { p.why { (next) } }
        @if let (None, Some(text)) = (&job.waiting_reason, &job.throttled_text) { p.why { strong { "Slowed down: " } (text) } }
        @if let (Some(reason), "paused" | "cancelled") = (&job.reason, job.desired_state.as_str()) { p.why { "Reason: " (reason) } }
        @if let Some(error) = &job.error {
            p.error { strong { "Error: " } (error) }
            @if let Some(hint) = &job.hint { p.why { "Hint: " (hint) } }
        }
    }
}

/// Explains a `waiting_reason` in words.
pub(super) fn explain(reason: &str) -> &'static str {
    match reason {
        "approval" => "needs approval by an operator",
        "run_at" => "scheduled for later (run_at)",
        "window" => "outside its window",
        "paused_all" => "all jobs are paused",
        "executor" => "no daemon runs jobs as the role of this job",
        "replica_lag" => "a replica is lagging, or its lag cannot be read",
        "slot" => "a replication slot retains too much WAL, or the slots cannot be read",
        "archiver" => "the archiver is behind, or its state cannot be read",
        "lock_waits" => "other sessions are waiting for locks",
        "load" => "the server is under load, or a retry after a failure is pending",
        "signal" => "a custom signal is at its limit, or cannot be read",
        "rate" => "rate limit of the job",
        "worker" => "no worker is free",
        "connections" => "no connection is free, or the connection goes through a transaction pooler",
        "commit" => "a commit waits for a synchronous standby",
        "locked_rows" => "other sessions have locked or changed rows that the job needs, or have locked the table",
        "vacuum" => "autovacuum or the job's own vacuum is running on the table",
        "daemon" => "no daemon is running",
        _ => "unknown reason",
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
                            span.quiet { (format!("{} %, ", text::fixed(percent, 1))) (text::rows(slice.rows_scanned)) }
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
