//! Splits the source tree into tokens and checks its structure:
//! - the layers and the import cycles;
//! - the modules that may name a crate or an object of schema `backfill`;
//! - the size of structs.
//!
//! Each rule is a function that takes a source tree as its argument. For each rule, a test shows
//! that the rule fails for a tree that breaks it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod source;
mod sql_objects;

use std::collections::{BTreeMap, BTreeSet};

use source::{Tree, parse, tree, uses};

/// The layers from top to bottom. A module imports only from its own layer and the layers below it.
/// [`STRANGERS`] restricts the imports within a layer.
const LAYERS: [&[&str]; 7] = [
    &["main", "cli"],
    &["daemon"],
    &["worker", "rollout", "http"],
    &["queue", "plan", "walk", "throttle", "execute", "verify"],
    &["pg", "telemetry"],
    &["job"],
    &["config", "key", "error", "metrics", "shutdown", "failpoint", "text", "window", "yaml"],
];

/// Indexes of the layers in which a module must not import another module of the same layer: the
/// layer of `worker`, `rollout` and `http`, and the layer of the stages (`queue` to `verify`). The
/// worker calls the stages, and the stages exchange types of the layers below.
const STRANGERS: [usize; 2] = [2, 3];

/// The rooms (submodules) of the throttle, in the order in which a reading passes through them. A
/// room imports no room that comes after it in this order.
const THROTTLE_ROOMS: [&str; 3] = ["throttle::measure", "throttle::control", "throttle::admit"];

/// Crates that only some modules may name.
const ROOMS: [(&str, &[&str]); 2] = [
    ("metrics", &["metrics"]),
    ("tokio_postgres", &["pg", "queue", "plan", "execute", "throttle::measure", "rollout", "daemon", "cli", "error"]),
];

/// Maximum number of fields of a struct. A struct with more fields probably has several purposes.
/// The modules of `NOUNS` are exempt. They contain values that stages pass to each other, the
/// configuration, and structs with one field for each column of a row or each key of a JSON object.
const MOST_FIELDS: usize = 10;
const NOUNS: [&str; 4] = ["job", "config", "cli::jobs", "http::status::database_state"];

fn top(module: &str) -> &str {
    module.split("::").next().unwrap()
}

fn is_within(module: &str, place: &str) -> bool {
    module == place || module.strip_prefix(place).is_some_and(|rest| rest.starts_with("::"))
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&top(module)))
}

/// Returns the modules without a layer, and the modules of layers that do not exist.
fn unlisted(tree: &Tree) -> Vec<String> {
    let there: BTreeSet<&str> = tree.keys().map(|module| top(module)).filter(|module| *module != "lib").collect();
    let listed: BTreeSet<&str> = LAYERS.concat().into_iter().collect();
    let without = there.difference(&listed).map(|module| format!("{module} has no layer"));
    without.chain(listed.difference(&there).map(|module| format!("{module} does not exist"))).collect()
}

/// Returns the entries of the lists above (except `LAYERS`) that have no effect. Such an entry
/// names a module that does not exist, or a module that may name a crate but does not name it.
fn idle_entries(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for place in THROTTLE_ROOMS.iter().chain(&NOUNS) {
        if !tree.keys().any(|module| is_within(module, place)) {
            wrong.push(format!("{place} does not exist"));
        }
    }
    for (name, rooms) in ROOMS {
        for room in rooms {
            if !tree.iter().any(|(module, file)| is_within(module, room) && names_crate(file, name)) {
                wrong.push(format!("{room} does not name crate {name}"));
            }
        }
    }
    wrong
}

/// Returns whether the file names the external crate `name`. After `use crate::metrics;`, the path
/// `metrics::...` belongs to our own crate, but `::metrics::...` still names the external crate. A
/// path through `deadpool_postgres` counts too, because `deadpool_postgres` reexports
/// `tokio_postgres`.
fn names_crate(file: &source::File, name: &str) -> bool {
    let ways = [format!("::{name}"), format!("::::{name}"), format!("::deadpool_postgres::{name}")];
    file.paths.iter().any(|found| ways.iter().any(|way| is_within(found, way)))
}

fn upward_imports(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for (module, used) in uses(tree) {
        for other in used {
            let (Some(own), Some(its)) = (layer(module), layer(other)) else { continue };
            if its < own || (its == own && STRANGERS.contains(&own) && top(module) != top(other)) {
                wrong.push(format!("{module} imports {other}"));
            }
        }
    }
    wrong
}

fn backward_rooms(tree: &Tree) -> Vec<String> {
    let room = |module: &str| THROTTLE_ROOMS.iter().position(|room| is_within(module, room));
    let mut wrong = Vec::new();
    for (module, used) in uses(tree) {
        for other in used {
            if let (Some(own), Some(its)) = (room(module), room(other))
                && its > own
            {
                wrong.push(format!("{module} imports {other}"));
            }
        }
    }
    wrong
}

/// Returns the import cycles: the groups of files in which each file reaches every other file
/// through its imports. Imports between parents and children are included. A declaration like `mod
/// child;` is not an import.
fn circles(tree: &Tree) -> Vec<String> {
    let graph = uses(tree);
    let reach: BTreeMap<&str, BTreeSet<&str>> = graph
        .keys()
        .map(|start| {
            let (mut reached, mut open) = (BTreeSet::new(), vec![*start]);
            while let Some(module) = open.pop() {
                for next in graph.get(module).into_iter().flatten() {
                    if reached.insert(*next) {
                        open.push(next);
                    }
                }
            }
            (*start, reached)
        })
        .collect();
    let mut found = BTreeSet::new();
    for (start, reached) in &reach {
        if reached.contains(start) {
            let circle: BTreeSet<&str> =
                reached.iter().filter(|other| reach[*other].contains(start)).copied().collect();
            found.insert(circle.into_iter().collect::<Vec<_>>().join(", "));
        }
    }
    found.into_iter().collect()
}

fn strayed_crates(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for (module, file) in tree {
        for (name, rooms) in ROOMS {
            if names_crate(file, name) && !rooms.iter().any(|room| is_within(module, room)) {
                wrong.push(format!("{module} names crate {name}"));
            }
        }
    }
    wrong
}

fn large_structs(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for (module, file) in tree.iter().filter(|(module, _)| !NOUNS.iter().any(|place| is_within(module, place))) {
        for (name, fields) in file.structs.iter().filter(|(_, fields)| **fields > MOST_FIELDS) {
            wrong.push(format!("{module}::{name} has {fields} fields"));
        }
    }
    wrong
}

fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_module_has_a_layer_and_every_layer_its_modules() {
    none(&unlisted(&tree()));
}

#[test]
fn nothing_imports_upwards_and_no_stage_imports_another() {
    none(&upward_imports(&tree()));
}

#[test]
fn a_room_of_the_throttle_imports_only_those_before_it() {
    none(&backward_rooms(&tree()));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    none(&circles(&tree()));
}

#[test]
fn crates_are_named_in_their_rooms_only() {
    none(&strayed_crates(&tree()));
}

#[test]
fn no_list_has_an_idle_entry() {
    none(&idle_entries(&tree()));
}

#[test]
fn no_struct_has_too_many_fields() {
    none(&large_structs(&tree()));
}

mod each_rule_can_fail {
    use super::*;

    #[test]
    fn a_module_without_a_layer_and_a_layer_without_its_module_are_found() {
        let found = unlisted(&parse([("main.rs", ""), ("utils.rs", "")]));
        assert!(found.contains(&"utils has no layer".to_owned()), "{found:?}");
        assert!(found.contains(&"queue does not exist".to_owned()), "{found:?}");
        assert!(!found.contains(&"main does not exist".to_owned()), "{found:?}");
    }

    #[test]
    fn an_upward_import_is_found_in_any_form() {
        let files = [("queue/claim.rs", ""), ("plan/mod.rs", ""), ("worker/mod.rs", ""), ("pg/connect.rs", "")];
        for text in [
            "use crate::worker::Worker;",
            "use crate::{pg::connect, worker};",
            "use crate::{pg::{connect, self}, worker::{a::{b, c}, d}};",
            "use super::super::worker;",
            "use crate as c; fn f() { crate::worker::run(); }",
            "use crate::pg; use crate::worker as w; fn f() { w::run(); }",
            "fn f() { crate::worker::run(); }",
            "fn f() -> crate::worker::Worker { todo!() }",
            "fn f() { tracing::info!(x = crate::worker::count(), \"x\"); }",
            "mod inner { use super::super::super::worker; }",
            "use crate::plan;",
        ] {
            let tree =
                parse(files.into_iter().map(|(path, own)| (path, if path == "queue/claim.rs" { text } else { own })));
            let found = upward_imports(&tree);
            let other = if text.contains("worker") { "worker" } else { "plan" };
            assert_eq!(found, [format!("queue::claim imports {other}")], "{text}");
        }
        for text in [
            "use crate::pg::connect;",
            "#[cfg(test)] mod tests { use crate::worker; }",
            "#[cfg(test)] use crate::worker;",
            "// use crate::worker;",
            "const A: &str = \"crate::worker\";",
            "use super::lease;",
        ] {
            let tree =
                parse(files.into_iter().map(|(path, own)| (path, if path == "queue/claim.rs" { text } else { own })));
            assert_eq!(upward_imports(&tree), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn the_worker_and_http_import_each_other() {
        for (path, text) in [("worker/mod.rs", "use crate::http::pages;"), ("http/mod.rs", "use crate::worker::run;")] {
            let tree = parse([("worker/mod.rs", ""), ("http/mod.rs", ""), (path, text)]);
            assert_eq!(upward_imports(&tree).len(), 1, "{path}");
        }
    }

    #[test]
    fn an_entry_of_a_list_that_is_idle() {
        let found = idle_entries(&parse([
            ("job/plan.rs", ""),
            ("queue/claim.rs", ""),
            ("metrics.rs", "use ::metrics::gauge;"),
        ]));
        assert!(found.contains(&"throttle::measure does not exist".to_owned()), "{found:?}");
        assert!(found.contains(&"queue does not name crate tokio_postgres".to_owned()), "{found:?}");
        assert!(!found.contains(&"job does not exist".to_owned()), "{found:?}");
        assert!(!found.contains(&"metrics does not name crate metrics".to_owned()), "{found:?}");
    }

    #[test]
    fn a_circle_between_files_is_found() {
        let siblings =
            parse([("pg/a.rs", "use super::b::B;"), ("pg/b.rs", "use crate::pg::c::C;"), ("pg/c.rs", "use super::a;")]);
        assert_eq!(circles(&siblings), ["pg::a, pg::b, pg::c"]);
        let family =
            parse([("pg/a/mod.rs", "mod b; use b::B; use self::b::C; struct A;"), ("pg/a/b.rs", "use super::A;")]);
        assert_eq!(circles(&family), ["pg::a, pg::a::b"]);
        let through = parse([("pg/a.rs", "use crate::pg; fn f() { pg::b::g(); }"), ("pg/b.rs", "use super::a;")]);
        assert_eq!(circles(&through), ["pg::a, pg::b"]);
        let by_name = parse([("pg/a/mod.rs", "mod b; fn f() { b::g(); } struct A;"), ("pg/a/b.rs", "use super::A;")]);
        assert_eq!(circles(&by_name), ["pg::a, pg::a::b"]);
        let declared = parse([("pg/a/mod.rs", "pub mod b; struct A;"), ("pg/a/b.rs", "use super::A;")]);
        assert_eq!(circles(&declared), Vec::<String>::new());
    }

    #[test]
    fn a_room_that_imports_a_later_one_is_found() {
        let found = backward_rooms(&parse([
            ("throttle/measure/a.rs", "use crate::throttle::control::b;"),
            ("throttle/control/b.rs", "use crate::throttle::measure::a; use crate::throttle::admit::c;"),
            ("throttle/admit/c.rs", "use crate::throttle::{measure::a, control::b};"),
        ]));
        assert_eq!(
            found,
            ["throttle::control::b imports throttle::admit::c", "throttle::measure::a imports throttle::control::b",]
        );
    }

    #[test]
    fn a_crate_outside_of_its_rooms_is_found() {
        let found = strayed_crates(&parse([
            ("walk/mod.rs", "use tokio_postgres::Row;"),
            ("throttle/admit/gate.rs", "fn f() { metrics::counter!(\"a\"); }"),
            ("throttle/measure/poller.rs", "use tokio_postgres::Row; use crate::metrics; fn f() { metrics::held(); }"),
            ("throttle/admit/pacer.rs", "use crate::metrics; fn f() { ::metrics::counter!(\"a\"); }"),
            ("queue/claim.rs", "fn f(row: ::tokio_postgres::Row) { ::metrics::counter!(\"a\"); }"),
            ("metrics.rs", "fn f() { metrics::counter!(\"a\"); }"),
            ("worker/mod.rs", "use deadpool_postgres::tokio_postgres::Row;"),
        ]));
        let expected = [
            "queue::claim names crate metrics",
            "throttle::admit::gate names crate metrics",
            "throttle::admit::pacer names crate metrics",
            "walk names crate tokio_postgres",
            "worker names crate tokio_postgres",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_struct_of_many_fields_is_found() {
        let many: String = (0..11).map(|n| format!("pub f{n}: BTreeMap<a::B, fn(u8) -> u8>, ")).collect();
        let few: String = (0..10).map(|n| format!("f{n}: a::B,")).collect();
        let text = format!("struct Many<T: Debug> {{ {many} }} struct Few {{ {few} }} struct Pair(u8, u8);");
        assert_eq!(large_structs(&parse([("walk/mod.rs", &*text)])), ["walk::Many has 11 fields"]);
        assert_eq!(large_structs(&parse([("job/plan.rs", &*text)])), Vec::<String>::new());
    }
}

/// Clippy's lint `disallowed_methods` forbids these methods in the daemon. The tests and benches
/// turn the lint off, because it would also forbid `Row::get`. In a test, `Row::get` is allowed to
/// panic.
const FORBIDDEN_IN_TESTS: [&str; 3] = ["std::thread::sleep", "std::time::Instant", "std::process::exit"];

fn forbidden(text: &str) -> Option<&'static str> {
    let text = text.replace("std::time::{Duration, Instant}", "std::time::Instant");
    FORBIDDEN_IN_TESTS.into_iter().find(|method| text.contains(method))
}

#[test]
fn tests_and_benches_follow_paused_time() {
    fn files(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => files(&path, found),
                false if path.extension().is_some_and(|end| end == "rs") => found.push(path),
                false => {}
            }
        }
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["tests/it", "tests/testbed", "benches"] {
        files(&root.join(folder), &mut found);
    }
    assert!(found.len() > 50, "found only {} files", found.len());
    for path in found {
        let method = forbidden(&std::fs::read_to_string(&path).unwrap());
        assert_eq!(method, None, "{}", path.display());
    }
    assert_eq!(forbidden("use std::time::{Duration, Instant};"), Some("std::time::Instant"));
}
