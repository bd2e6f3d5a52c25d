//! For each test in the table of kinds in docs/kinds.md, checks that the test exists.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

#[test]
fn every_test_that_the_table_of_kinds_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/kinds.md")).unwrap();
    let named: Vec<(&str, &str)> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|code| code.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c)))
        .filter_map(|code| code.split_once("::"))
        .collect();
    assert!(named.len() > 20, "the page names too few tests: check the search for tests");
    for (module, test) in named {
        let file = root.join(format!("tests/it/{module}.rs"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(text.contains(&format!("async fn {test}(")), "{module}::{test} is in the table but does not exist");
    }
}
