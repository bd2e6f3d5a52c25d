//! For each private object of schema `backfill`, lists the modules that may name it. Private
//! objects are functions whose names begin with an underscore, functions for daemons, and all
//! tables except `quota`. Any module may name the objects that docs/contract.md documents as
//! public.

use std::collections::BTreeSet;

use super::source::{Tree, parse, tree};

/// Pairs of (module, objects). Each pair also applies to the modules below its module.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("cli::doctor::rights", &["_key_of_job", "_unfinished_jobs", "_untrusted_roles"]),
    ("cli::migrate", &["_grant_all"]),
    ("cli::preview", &["_caller_settings", "_preview", "_preview_text"]),
    ("daemon::database", &["_check_options", "_unfinished_jobs", "_untrusted_roles"]),
    ("daemon::gauges", &["_gauges", "_oldest_queued", "_queue"]),
    ("daemon::growth", &["_growth"]),
    (
        "execute",
        &[
            "_written_since",
            "advance",
            "advance_deferring",
            "all_changed",
            "not_rewritten",
            "retry_deferred",
            "same_triggers",
            "suppressible",
            "unchanged",
        ],
    ),
    ("http::status::database_state", &["_status", "_status_jobs"]),
    ("pg::keyset", &["key_text"]),
    ("pg::schema", &["_grant_all", "_state_of", "job", "schema_text", "schema_version"]),
    ("pg::session", &["_server_identity"]),
    ("plan", &["_fingerprint", "_leaf_plans", "_type_name"]),
    (
        "plan::catalog",
        &[
            "_assignments",
            "_check_owners",
            "_check_same_table",
            "_check_statement_triggers",
            "_check_submitter_rights",
            "_check_target",
            "_is_spread",
            "_key_of",
        ],
    ),
    (
        "queue::claim",
        &[
            "_claim",
            "_close_window",
            "_deferred_rows",
            "_end_gone_leaf",
            "_end_session",
            "_fail",
            "_finish",
            "_leaf",
            "_may_split",
            "_checkpoint_ctid",
            "_options",
            "_has_ready",
            "_poll_claim",
            "_proof",
            "_register_backend",
            "_release",
            "_release_for_retry",
            "_save_leaf",
            "_save_plan",
            "_split",
        ],
    ),
    (
        "queue::daemon",
        &[
            "_deregister_worker",
            "_register_worker",
            "_register_executor",
            "_is_registered",
            "_run_housekeeping",
            "_set_worker_window",
        ],
    ),
    ("queue::lease", &["_heartbeat"]),
    ("queue::retention", &["_prune_history"]),
    (
        "rollout::queue",
        &[
            "_blocks_writes",
            "_older_locks",
            "_claim_rollout",
            "_end_rollout_session",
            "_register_rollout_backend",
            "_release_rollout",
            "_renew_rollout",
            "_rollout_statement_failed",
            "_sessions_with_locks",
        ],
    ),
    ("rollout::statement", &["rollout_begun", "rollout_locked", "rollout_recorded", "rollout_unlocking"]),
    ("throttle::publisher", &["_publish_signals", "_share_duty_cycle"]),
];

/// The public objects of docs/contract.md. Any module may name them.
const PUBLIC: [&str; 30] = [
    "approve",
    "assert_complete",
    "cancel",
    "enqueue",
    "enqueue_delete",
    "events",
    "forget",
    "jobs",
    "pause",
    "pause_all",
    "preview",
    "quota",
    "rerun",
    "resume",
    "resume_all",
    "retry",
    "rollout_advance",
    "rollout_pause",
    "rollout_plan",
    "rollout_resume",
    "rollout_rollback",
    "rollout_start",
    "rollout_statements",
    "rollouts",
    "row_errors",
    "signals",
    "slices",
    "tune",
    "wait",
    "workers",
];

/// Returns which of the schema's objects a string names.
fn named(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("backfill.") {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || "_./-@".contains(c)) {
            continue;
        }
        let name: String =
            text[at + "backfill.".len()..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        if !name.is_empty() {
            found.insert(name);
        }
    }
    found
}

fn strayed(tree: &Tree, may_name: &[(&str, &[&str])]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (module, file) in tree {
        for object in file.strings.iter().flat_map(|text| named(text)) {
            let allowed = may_name
                .iter()
                .any(|(place, objects)| super::is_within(module, place) && objects.contains(&object.as_str()));
            if !allowed && !PUBLIC.contains(&object.as_str()) {
                wrong.push(format!("{module} names backfill.{object}"));
            }
        }
    }
    wrong.dedup();
    wrong
}

/// For each entry of the list, returns the objects that the entry's module does not name.
fn idle(tree: &Tree, may_name: &[(&str, &[&str])]) -> Vec<String> {
    let mut idle = Vec::new();
    for (place, objects) in may_name {
        let names: BTreeSet<String> = tree
            .iter()
            .filter(|(module, _)| super::is_within(module, place))
            .flat_map(|(_, file)| file.strings.iter().flat_map(|text| named(text)))
            .collect();
        for object in objects.iter().filter(|object| !names.contains(**object)) {
            idle.push(format!("{place} does not name backfill.{object}"));
        }
    }
    idle
}

#[test]
fn modules_name_only_their_own_objects_of_the_schema() {
    super::none(&strayed(&tree(), MAY_NAME));
}

#[test]
fn the_list_of_names_has_no_idle_entry() {
    super::none(&idle(&tree(), MAY_NAME));
}

#[test]
fn the_rules_can_fail() {
    let tree = parse([
        ("walk/mod.rs", "const A: &str = \"select backfill._claim($1), 'my_backfill.x'\"; // backfill._settle"),
        ("queue/claim.rs", "const A: &str = \"select backfill._claim($1); see backfill.retry\";"),
    ]);
    let list: [(&str, &[&str]); 1] = [("queue", &["_claim", "_finish"])];
    assert_eq!(strayed(&tree, &list), ["walk names backfill._claim"]);
    assert_eq!(idle(&tree, &list), ["queue does not name backfill._finish"]);
}
