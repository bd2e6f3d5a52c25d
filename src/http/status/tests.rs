use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::database_state::{DatabaseState, Event, Job, PausedAll, Rollout, RowErrors, Signal, Slice, Worker};
use super::document::{Database, Status};
use super::handlers::POLICY;
use super::history::{Charts, ReplicaChart};
use super::page;
use crate::job::waiting::WaitingReason;

/// A text that closes an attribute, a comment and several elements, and then opens new elements.
const HOSTILE: &str = "\"'--></textarea></script></style><img src=x onerror=alert(1)><script>alert(2)</script>&amp;";

fn hostile() -> String {
    HOSTILE.to_owned()
}

fn some() -> Option<String> {
    Some(hostile())
}

fn hostile_job(state: &str) -> Job {
    Job {
        id: 1,
        name: hostile(),
        kind: hostile(),
        state: state.to_owned(),
        desired_state: "paused".to_owned(),
        waiting_reason: some(),
        waiting_text: some(),
        target: hostile(),
        run_as: hostile(),
        enqueued_by: hostile(),
        rows_estimated: Some(-1),
        rows_quarantined: 1,
        percent_done: f64::NAN,
        rows_per_second: Some(f64::INFINITY),
        eta: some(),
        eta_seconds: Some(f64::INFINITY),
        deadline: some(),
        error: some(),
        hint: some(),
        reason: some(),
        run_at: some(),
        finished_at: some(),
        took_seconds: Some(-1.0),
        max_rows_per_second: Some(f64::MIN_POSITIVE),
        slices: vec![Slice {
            relation: hostile(),
            state: hostile(),
            host: some(),
            percent_done: Some(1e9),
            ..Slice::default()
        }],
        slices_total: i64::MAX,
        row_errors: vec![RowErrors { sqlstate: hostile(), rows: i64::MAX }],
        ..Job::default()
    }
}

fn status(state: DatabaseState) -> Status {
    let database =
        Database { name: "main".to_owned(), ready: true, age_seconds: Some(0.0), state, ..Database::default() };
    Status { version: "1", at: "2026-11-27T17:38:51Z".to_owned(), draining: false, databases: vec![database] }
}

fn page(state: DatabaseState) -> String {
    page::render(&status(state), true).into_string()
}

fn jobs(jobs: Vec<Job>) -> DatabaseState {
    let mut state = DatabaseState { jobs, ..DatabaseState::default() };
    for job in &state.jobs {
        *state.queue.entry(job.state.clone()).or_default() += 1;
    }
    state
}

#[test]
fn text_of_users_never_becomes_markup() {
    let states = ["queued", "running", "paused", "verifying", "succeeded", "failed", "cancelled", HOSTILE];
    let state = DatabaseState {
        read_at: hostile(),
        paused_all: Some(PausedAll { reason: some(), by: some(), at: some() }),
        signals: vec![Signal {
            signal: hostile(),
            source: hostile(),
            kind: hostile(),
            holding: true,
            reason: some(),
            ..Signal::default()
        }],
        workers: vec![Worker {
            id: hostile(),
            host: hostile(),
            version: hostile(),
            started_at: some(),
            ..Worker::default()
        }],
        events: vec![Event { at: hostile(), name: some(), kind: hostile(), actor: hostile(), message: hostile() }],
        ..jobs(states.map(hostile_job).into())
    };
    let mut status = status(state);
    let replica = ReplicaChart { replica: hostile(), limit_seconds: Some(f64::NAN), lag_seconds: vec![Some(f64::NAN)] };
    let database = &mut status.databases[0];
    database.name = hostile();
    database.failure = some();
    database.charts = Charts {
        step_seconds: 5,
        held_by: vec![some()],
        rows_per_second: vec![Some(f64::NAN)],
        replicas: vec![replica],
    };
    let text = page::render(&status, true).into_string();
    for raw in ["<img", "<script>alert", "</textarea>", "\"'--", "&amp; "] {
        assert!(!text.contains(raw), "{raw} in {text}");
    }
    assert_eq!(text.matches("<script").count(), 1);
    // The hostile text is still shown, escaped and complete.
    assert!(text.matches("&lt;img src=x onerror=alert(1)&gt;").count() > 30, "{text}");
    serde_json::to_vec(&status).unwrap();
}

#[test]
fn every_reason_to_wait_is_explained() {
    let documented = "approval run_at window paused_all executor replica_lag slot archiver lock_waits load signal rate locked_rows vacuum daemon";
    let all = documented.split(' ').chain(WaitingReason::ALL.map(WaitingReason::as_str));
    for reason in all {
        let job = Job {
            state: "running".to_owned(),
            waiting_reason: Some(reason.to_owned()),
            eta_seconds: Some(86_400.0),
            ..Job::default()
        };
        let text = page(jobs(vec![job]));
        assert!(text.contains("Waits: ") && text.contains(&format!("<code>{reason}</code>")), "{text}");
        assert!(!text.contains("unknown reason"), "{reason} is not explained");
        assert!(!text.contains(" remaining"), "the rate of a waiting job gives no remaining time");
        assert!(text.contains("1 job active, 1 of them held"), "{text}");
    }
}

#[test]
fn jobs_that_need_an_operator_come_first_and_omitted_jobs_are_counted() {
    let job = |name: &str, state: &str| Job { name: name.to_owned(), state: state.to_owned(), ..Job::default() };
    let mut state = jobs(vec![job("runs", "running"), job("broke", "failed"), job("done", "succeeded")]);
    state.queue.insert("queued".to_owned(), 9950);
    let text = page(state);
    let place = |what: &str| text.find(&format!(">{what}</h4>")).unwrap_or_else(|| panic!("{what}: {text}"));
    assert!(place("broke") < place("runs") && place("runs") < place("done"));
    assert!(text.contains("and 9,950 more unfinished jobs"), "{text}");
    assert!(text.contains("1 job active, 9,950 queued, 1 failed"), "{text}");
}

#[test]
fn a_long_queue_does_not_push_the_rest_off_the_screen() {
    let job = |n: i64, state: &str| Job { id: n, name: format!("j{n}"), state: state.to_owned(), ..Job::default() };
    let all = std::iter::once(job(0, "paused")).chain((1..=45).map(|n| job(n, "queued"))).collect();
    let text = page(jobs(all));
    assert_eq!(text.matches("<article").count(), 6, "{text}");
    assert!(text.contains("40 more queued") && text.contains("<li><b>j45</b>"), "{text}");
}

#[test]
fn a_database_that_does_not_answer_is_shown_with_its_age() {
    let mut status = status(jobs(vec![Job { name: "j".to_owned(), state: "running".to_owned(), ..Job::default() }]));
    status.databases[0] = Database {
        ready: false,
        failure: Some("connection refused".to_owned()),
        age_seconds: Some(95.0),
        ..status.databases[0].clone()
    };
    let text = page::render(&status, true).into_string();
    for said in ["1 database not ready", "connection refused", "Last data received 1m 35s ago", ">j</h4>"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    status.databases[0].age_seconds = None;
    let text = page::render(&status, true).into_string();
    assert!(text.contains("No data received yet") && !text.contains(">j</h4>"), "{text}");
}

#[test]
fn a_browser_runs_only_what_was_compiled_in() {
    let text = page(DatabaseState::default());
    for (element, directive) in [("style", "style-src"), ("script", "script-src")] {
        let inline =
            text.split(&format!("<{element}>")).nth(1).unwrap().split(&format!("</{element}>")).next().unwrap();
        let hash = BASE64.encode(ring::digest::digest(&ring::digest::SHA256, inline.as_bytes()));
        assert!(POLICY.contains(&format!("{directive} 'sha256-{hash}'")), "{}", *POLICY);
    }
    for elsewhere in ["http://", "https://", "//cdn", "@import", "url("] {
        let shown = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!shown.contains(elsewhere), "{elsewhere}");
    }
    for inline in [" style=", " onclick=", " onload=", "javascript:"] {
        assert!(!text.contains(inline), "{inline} is not allowed by the policy");
    }
}

#[test]
fn the_page_reloads_without_its_script_unless_reloading_is_off() {
    let refreshed = page(DatabaseState::default());
    assert!(refreshed.contains("<noscript><meta http-equiv=\"refresh\""), "{refreshed}");
    let still = page::render(&status(DatabaseState::default()), false).into_string();
    assert!(!still.contains("http-equiv=\"refresh\"") && still.contains("Automatic refresh is off"), "{still}");
}

#[test]
fn the_largest_page_has_less_than_600_kb() {
    let slices = || {
        (0..16).map(|slice| Slice {
            slice,
            relation: "public.orders".to_owned(),
            state: "ready".to_owned(),
            percent_done: Some(50.0),
            ..Slice::default()
        })
    };
    let job = |id| Job {
        id,
        name: "n".repeat(200),
        state: "running".to_owned(),
        slices: slices().collect(),
        slices_total: 100,
        ..Job::default()
    };
    let text = page(jobs((0..70).map(job).collect()));
    assert!(text.len() < 600_000, "{} bytes", text.len());
}

/// Collects the names of all fields, including those of nested objects. The fields of `queue` are
/// left out, because their names are states.
fn names(value: &serde_json::Value, found: &mut std::collections::BTreeSet<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                found.insert(name.clone());
                if name != "queue" {
                    names(field, found);
                }
            }
        }
        serde_json::Value::Array(list) => list.iter().for_each(|each| names(each, found)),
        _ => {}
    }
}

#[test]
fn each_field_of_the_json_is_in_the_contract() {
    let state = DatabaseState {
        paused_all: Some(PausedAll::default()),
        rollouts: vec![Rollout::default()],
        signals: vec![Signal::default()],
        workers: vec![Worker::default()],
        events: vec![Event::default()],
        ..jobs(vec![hostile_job("running")])
    };
    let mut status = status(state);
    status.databases[0].charts.replicas.push(ReplicaChart::default());
    let mut told = std::collections::BTreeSet::new();
    names(&serde_json::to_value(&status).unwrap(), &mut told);
    let contract = include_str!("../../../docs/contract.md").split_once("## HTTP").unwrap().1;
    let missing: Vec<&String> = told.iter().filter(|name| !contract.contains(&format!("`{name}`"))).collect();
    assert!(told.len() > 60 && missing.is_empty(), "{missing:?} of {}", told.len());
}
