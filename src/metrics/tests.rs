use std::collections::BTreeMap;

use metrics::with_local_recorder;

use super::gauges::{JobGauges, QueueGauges, ReplicaGauges, RolloutGauges, SignalGauges, ThrottleGauges};
use super::handle::{Handle, JOB_COUNTERS_IDLE};
use super::names::{HELP, HOLD, THROTTLED};
use super::recorder::Split;
use super::*;

fn running(name: &str) -> JobGauges {
    JobGauges { name: name.to_owned(), state: "running".to_owned(), ..JobGauges::default() }
}

/// Emits each metric at least once.
fn everything(handle: &Handle) {
    handle.databases([("main".to_owned(), true)]);
    batch_done("main", "a", Outcome::Committed, 90, 100, Duration::from_millis(12));
    batch_done("main", "a", Outcome::Yielded, 0, 0, Duration::from_millis(50));
    rows_quarantined("main", "a", 2);
    written("main", "a", Written { updated: 10, hot: 5, wal: Some(Wal { bytes: 4096, rows: 8 }) });
    victim_waited("main", Duration::from_millis(30));
    guard_yielded("main");
    lease_taken_over("main");
    write_fenced("main");
    job_finished("main", "succeeded");
    counter!(HOLD, "database" => "main", "reason" => "replica_lag").absolute(1);
    counter!(THROTTLED, "database" => "main", "reason" => "rate").absolute(1);
    handle.jobs(
        "main",
        vec![JobGauges {
            waiting_reason: Some("replica_lag".to_owned()),
            progress_ratio: Some(0.5),
            remaining_rows: Some(10.0),
            last_progress_at: Some(1.0),
            eta: Some(2.0),
            deadline: Some(3.0),
            heap_growth: Some(1.1),
            index_growth: Some(1.2),
            ..running("a")
        }],
    );
    handle.queue("main", QueueGauges { jobs: vec![("queued".to_owned(), 3)], oldest_queued_at: Some(4.0) });
    handle.rollouts(
        "main",
        vec![RolloutGauges {
            name: "cents".to_owned(),
            stage: "expanded".to_owned(),
            state: "running".to_owned(),
            waiting_reason: Some("lock".to_owned()),
            since: 5.0,
            lock_wait: Some(0.1),
            lock_hold: Some(0.001),
        }],
    );
    handle.throttle(
        "main",
        ThrottleGauges {
            rate_limit: Some(1000.0),
            signals: vec![SignalGauges {
                signal: "replica_lag".to_owned(),
                source: "eu-1".to_owned(),
                utilization: Some(0.25),
            }],
            replicas: vec![ReplicaGauges {
                replica: "eu-1".to_owned(),
                up: true,
                lag_seconds: Some(0.25),
                lag_bytes: Some(100.0),
                limit_seconds: Some(1.0),
            }],
        },
    );
}

fn rendered(emit: impl FnOnce(&Handle)) -> String {
    let split = Split::new(JOB_COUNTERS_IDLE);
    let handle = Handle::of(&split);
    with_local_recorder(&split, || emit(&handle));
    handle.render()
}

#[test]
fn every_metric_has_help_and_type_once_and_no_forbidden_label() {
    let text = rendered(everything);
    for (name, _, help) in HELP {
        assert_eq!(text.matches(&format!("# HELP {name} {help}\n")).count(), 1, "{name}\n{text}");
        assert_eq!(text.matches(&format!("# TYPE {name} ")).count(), 1, "{name}");
        let counter = text.contains(&format!("# TYPE {name} counter"));
        assert_eq!(counter, name.ends_with("_total"), "{name}");
    }
    assert!(!text.contains(" summary\n"));
    assert!(!text.contains("{job=") && !text.contains(",job=") && !text.contains("instance="));
    for line in [
        "backfilld_rows_changed_total{database=\"main\",job_name=\"a\"} 90",
        "backfilld_rows_scanned_total{database=\"main\",job_name=\"a\"} 100",
        "backfilld_batches_total{database=\"main\",job_name=\"a\",outcome=\"committed\"} 1",
        "backfilld_batches_total{database=\"main\",job_name=\"a\",outcome=\"yielded\"} 1",
        "backfilld_batch_duration_seconds_bucket{database=\"main\",le=\"0.015\"} 1",
        "backfilld_batch_duration_seconds_count{database=\"main\"} 1",
        "backfilld_hold_seconds_total{database=\"main\",reason=\"replica_lag\"} 1",
        "backfilld_job_info{database=\"main\",job_name=\"a\",state=\"running\",waiting_reason=\"replica_lag\"} 1",
        "backfilld_queue_jobs{database=\"main\",state=\"queued\"} 3",
        "backfilld_signal_utilization_ratio{database=\"main\",signal=\"replica_lag\",source=\"eu-1\"} 0.25",
        "backfilld_replica_up{database=\"main\",replica=\"eu-1\"} 1",
        "backfilld_rollout_info{database=\"main\",rollout=\"cents\",stage=\"expanded\",state=\"running\",waiting_reason=\"lock\"} 1",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line}\n{text}");
    }
    assert!(text.contains("backfilld_build_info{version=\""));
}

#[test]
fn a_job_that_left_the_snapshot_has_no_gauges() {
    let text = rendered(|handle| {
        handle.jobs("main", vec![running("a"), running("b")]);
        handle.jobs("main", vec![JobGauges { state: "paused".to_owned(), ..running("b") }]);
    });
    assert!(!text.contains("backfilld_job_info{database=\"main\",job_name=\"a\""), "{text}");
    assert_eq!(
        text.matches("backfilld_job_info{").count(),
        1,
        "the series of the earlier state is still there\n{text}"
    );
}

#[test]
fn an_active_job_has_its_counters_from_the_start() {
    let text = rendered(|handle| handle.jobs("main", vec![running("a")]));
    assert!(text.contains("backfilld_rows_changed_total{database=\"main\",job_name=\"a\"} 0\n"), "{text}");
}

#[test]
fn rare_events_are_counted_from_zero_so_that_the_first_one_is_seen() {
    let text = rendered(|handle| handle.queue("main", QueueGauges { jobs: vec![], oldest_queued_at: None }));
    for series in
        ["lease_takeovers_total{database=\"main\"}", "jobs_finished_total{database=\"main\",state=\"failed\"}"]
    {
        assert!(text.contains(&format!("backfilld_{series} 0\n")), "{series}\n{text}");
    }
}

#[test]
fn counters_of_ended_jobs_are_dropped_and_those_of_paused_ones_kept() {
    // The exporter has its own clock, which tokio cannot pause, so this test takes real time.
    let split = Split::new(Duration::from_millis(50));
    let handle = Handle::of(&split);
    with_local_recorder(&split, || {
        batch_done("main", "ended", Outcome::Committed, 1, 1, Duration::ZERO);
        batch_done("main", "paused", Outcome::Committed, 7, 7, Duration::ZERO);
        lease_taken_over("main");
        let picture = || {
            let ended = JobGauges { state: "succeeded".to_owned(), ..running("ended") };
            handle.jobs("main", vec![JobGauges { state: "paused".to_owned(), ..running("paused") }, ended]);
        };
        picture();
        assert!(handle.render().contains("rows_changed_total{database=\"main\",job_name=\"ended\"} 1"));
        #[allow(clippy::disallowed_methods)]
        std::thread::sleep(Duration::from_millis(80));
        picture();
        let text = handle.render();
        assert!(!text.contains("rows_changed_total{database=\"main\",job_name=\"ended\"}"), "{text}");
        assert!(text.contains("rows_changed_total{database=\"main\",job_name=\"paused\"} 7"), "{text}");
        assert!(
            text.contains("lease_takeovers_total{database=\"main\"} 1"),
            "a counter without a job is dropped\n{text}"
        );
    });
}

#[tokio::test(start_paused = true)]
async fn a_stale_snapshot_is_not_shown() {
    let handle = Handle::detached();
    let queue = QueueGauges { jobs: vec![("queued".to_owned(), 1)], oldest_queued_at: None };
    handle.queue("main", queue);
    assert!(handle.render().contains("backfilld_queue_jobs"));
    assert!(
        !handle.render().contains("backfilld_oldest_queued_timestamp_seconds"),
        "the series exists although no job waits"
    );
    tokio::time::advance(Duration::from_secs(61)).await;
    assert!(!handle.render().contains("backfilld_queue_jobs"));
}

#[test]
fn a_huge_queue_does_not_become_a_huge_page() {
    let text = rendered(|handle| {
        handle.jobs("main", (0..5000).map(|n| running(&format!("job-{n}"))).collect());
    });
    assert_eq!(text.matches("backfilld_job_info{").count(), JobGauges::MOST);
}

#[test]
fn many_short_jobs_do_not_become_a_huge_page_either() {
    let text = rendered(|_| {
        (0..JobGauges::MOST + 50).for_each(|n| rows_quarantined("main", &format!("job-{n}"), 1));
    });
    assert_eq!(text.matches("backfilld_rows_quarantined_total{").count(), JobGauges::MOST + 1);
    assert!(text.contains("backfilld_rows_quarantined_total{database=\"main\",job_name=\"(others)\"} 50\n"), "{text}");
}

/// Names and labels of metrics are a public interface, because users' dashboards depend on them.
#[test]
fn the_contract_has_every_metric_with_its_labels_and_no_other() {
    let contract = include_str!("../../docs/contract.md");
    let section = contract.split_once("\n## Metrics\n").expect("a section of metrics").1;
    let told: BTreeMap<&str, &str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.strip_suffix('|')?.split_once("` |"))
        .map(|(name, rest)| (name, rest.split('|').next().unwrap_or_default().trim()))
        .collect();
    let text = rendered(everything);
    for (name, ..) in HELP {
        let short = name.strip_prefix("backfilld_").expect("the prefix");
        let labels = told.get(short).unwrap_or_else(|| panic!("{short} is not in docs/contract.md"));
        let series = text.lines().find(|line| {
            let rest = line.strip_prefix(name).map(|rest| rest.trim_start_matches("_sum"));
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        let series = series.unwrap_or_else(|| panic!("{name} is not emitted:\n{text}"));
        let shown =
            series.split_once('{').map_or("", |(_, rest)| rest.split_once('}').map_or("", |(labels, _)| labels));
        let shown: Vec<String> =
            shown.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| format!("`{name}`")).collect();
        assert_eq!(*labels, shown.join(" "), "{short}");
    }
    assert_eq!(told.len(), HELP.len(), "{:?}", told.keys());
}
