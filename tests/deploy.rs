//! Checks the files under `deploy/`:
//! - The rules, alerts and panels name only metrics that exist.
//! - Each alert has a runbook and tests.
//! - The panels of the dashboard agree with their descriptions and do not overlap.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn alerts() -> String {
    fs::read_to_string(deploy().join("prometheus/alerts.yaml")).unwrap()
}

fn after<'a>(text: &'a str, mark: &str) -> BTreeSet<&'a str> {
    text.lines().filter_map(|line| line.trim_start().strip_prefix(mark)).map(str::trim).collect()
}

#[test]
fn each_alert_has_its_runbook_and_each_runbook_its_alert() {
    let text = alerts();
    let alerts = after(&text, "- alert:");
    assert!(alerts.len() >= 10, "{alerts:?}");
    let files = fs::read_dir(deploy().join("runbooks")).unwrap().map(|entry| entry.unwrap().path());
    let runbooks: Vec<String> = files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(alerts, runbooks.iter().map(String::as_str).collect());
    let linked = after(&text, "runbook_url:");
    let named: BTreeSet<&str> = linked.iter().filter_map(|url| url.rsplit('/').next()?.strip_suffix(".md")).collect();
    assert_eq!(alerts, named, "each alert links to its runbook");
    for runbook in runbooks {
        let text = fs::read_to_string(deploy().join(format!("runbooks/{runbook}.md"))).unwrap();
        for heading in ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation"] {
            assert!(text.contains(heading), "{runbook}: {heading}");
        }
    }
}

#[test]
fn each_alert_is_tested_firing_and_not_firing() {
    let tests = fs::read_to_string(deploy().join("prometheus/tests/alerts.yaml")).unwrap();
    for alert in after(&alerts(), "- alert:") {
        // If the alert fires in a test, the test lists the expected alerts on the lines below
        // `exp_alerts:`.
        assert!(
            tests.contains(&format!("alertname: {alert}\n        exp_alerts:\n")),
            "no test checks that {alert} fires"
        );
        assert!(tests.contains(&format!("alertname: {alert}}}\n")), "no test checks that {alert} does not fire");
    }
}

#[test]
fn each_metric_in_a_query_is_one_that_the_daemon_exports() {
    let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/metrics/names.rs")).unwrap();
    let known: BTreeSet<&str> = source.split('"').filter(|word| word.starts_with("backfilld_")).collect();
    let mut asked = 0;
    for file in [
        "prometheus/rules.yaml",
        "prometheus/alerts.yaml",
        "prometheus/tests/alerts.yaml",
        "grafana/dashboards/backfilld.json",
    ] {
        let text = fs::read_to_string(deploy().join(file)).unwrap();
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
        for word in words.filter(|word| word.starts_with("backfilld_")) {
            let name = word.strip_suffix("_bucket").unwrap_or(word);
            assert!(known.contains(name), "{file}: {word}");
            asked += 1;
        }
    }
    assert!(asked > 50, "{asked}");
}

/// Returns the panels of the dashboard, except the rows that group them. Also returns the number of
/// collapsed rows.
fn panels() -> (Vec<serde_json::Value>, usize) {
    let text = fs::read_to_string(deploy().join("grafana/dashboards/backfilld.json")).unwrap();
    let board: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut panels = Vec::new();
    let mut folded = 0;
    let mut in_row = false;
    for panel in board["panels"].as_array().unwrap() {
        if panel["type"] == "row" {
            let inside = panel["panels"].as_array().unwrap();
            assert_eq!(panel["collapsed"].as_bool(), Some(!inside.is_empty()), "{}", panel["title"]);
            panels.extend(inside.iter().cloned());
            folded += usize::from(!inside.is_empty());
            in_row = true;
        } else {
            assert!(in_row, "{} stands above the first row", panel["title"]);
            panels.push(panel.clone());
        }
    }
    (panels, folded)
}

#[test]
fn the_panels_stand_in_rows_and_do_not_overlap() {
    let (panels, folded) = panels();
    assert!(panels.len() > 20 && folded > 0, "{} panels, {folded} collapsed rows", panels.len());
    let place = |panel: &serde_json::Value, key: &str| panel["gridPos"][key].as_i64().unwrap();
    for (at, one) in panels.iter().enumerate() {
        assert!(place(one, "x") + place(one, "w") <= 24, "{}", one["title"]);
        for other in &panels[at + 1..] {
            let apart = |start: &str, size: &str| {
                place(one, start) + place(one, size) <= place(other, start)
                    || place(other, start) + place(other, size) <= place(one, start)
            };
            assert!(apart("x", "w") || apart("y", "h"), "{} and {}", one["title"], other["title"]);
            assert_ne!(one["id"], other["id"], "{} and {}", one["title"], other["title"]);
        }
    }
}

#[test]
fn each_line_that_a_panel_describes_is_drawn() {
    let mut described = 0;
    for panel in panels().0 {
        let description = panel["description"].as_str().unwrap_or_default();
        for (color, shape) in [("red", "line"), ("yellow", "line"), ("red", "area")] {
            if !description.contains(&format!("{color} {shape})")) {
                continue;
            }
            let defaults = &panel["fieldConfig"]["defaults"];
            let style = &defaults["custom"]["thresholdsStyle"]["mode"];
            let drawn = if shape == "area" { style == "area" } else { style == "dashed" };
            let steps = defaults["thresholds"]["steps"].as_array().unwrap();
            assert!(drawn && steps.iter().any(|step| step["color"] == color), "{}: {color} {shape}", panel["title"]);
            described += 1;
        }
    }
    assert!(described >= 5, "{described} lines are described");
}
