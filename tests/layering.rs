//! The layers of the source tree, held by reading its `use crate::` lines. Top to bottom; a module imports from the
//! layers below its own. Stages never import one another: they meet in the worker, and what passes between them is a
//! noun of the lower layers. Within another layer neighbours may be used, but not in a circle.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const LAYERS: [&[&str]; 7] = [
    &["main", "cli"],
    &["daemon"],
    &["worker", "rollout", "http"],
    &["queue", "plan", "walk", "throttle", "execute", "verify"],
    &["pg", "telemetry"],
    &["job"],
    &["config", "key", "error", "metrics", "shutdown", "failpoint", "text", "window", "yaml"],
];
/// Layers whose modules know nothing of their neighbours.
const STRANGERS: [usize; 2] = [2, 3];

fn layer(module: &str) -> usize {
    LAYERS
        .iter()
        .position(|layer| layer.contains(&module))
        .unwrap_or_else(|| panic!("module {module} has no layer: give it one"))
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Which modules each top-level module names, with the file that does.
fn imports() -> BTreeMap<String, BTreeMap<String, PathBuf>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&source, &mut found);
    let mut imports: BTreeMap<String, BTreeMap<String, PathBuf>> = BTreeMap::new();
    for path in found {
        let relative = path.strip_prefix(&source).unwrap();
        let module =
            relative.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if module == "lib" {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code: String =
            text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        // The binary is a crate of its own; in the library its name is only ever text.
        let root = if module == "main" { "backfilld::" } else { "crate::" };
        {
            for (at, _) in code.match_indices(root) {
                let rest = &code[at + root.len()..];
                // `use crate::{plan, verify};` as well as `use crate::plan::...`
                let named = match rest.strip_prefix('{') {
                    Some(list) => list.split('}').next().unwrap().split(',').map(str::trim).collect(),
                    None => vec![rest],
                };
                for name in named {
                    let other: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    if !other.is_empty() && other != module {
                        imports.entry(module.clone()).or_default().insert(other, relative.to_owned());
                    }
                }
            }
        }
    }
    imports
}

#[test]
fn nothing_imports_upwards_and_no_stage_imports_another() {
    let mut wrong = Vec::new();
    for (module, others) in imports() {
        for (other, file) in others {
            let (own, its) = (layer(&module), layer(&other));
            if its < own || (its == own && STRANGERS.contains(&own)) {
                wrong.push(format!("{} imports {other}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "against the layering:\n{}", wrong.join("\n"));
}

#[test]
fn nothing_imports_in_a_circle() {
    let imports = imports();
    for start in imports.keys() {
        let mut reached = BTreeSet::new();
        let mut open: Vec<&String> = imports[start].keys().collect();
        while let Some(module) = open.pop() {
            assert_ne!(module, start, "{start} is imported, by way of others, by what it imports");
            if reached.insert(module) {
                open.extend(imports.get(module).into_iter().flat_map(BTreeMap::keys));
            }
        }
    }
}
