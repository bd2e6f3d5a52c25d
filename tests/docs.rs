//! Checks that the documents agree with the source tree. Each PostgreSQL behavior that a comment
//! cites (P5, for example) must have a section in `docs/postgres.md`. Each test and SQL object that
//! a section names must exist. Each test that ARCHITECTURE, CONTRIBUTING or a page of `docs/adr`
//! names must exist too. Each relative link in these documents must lead to a file.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = "docs/postgres.md";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the files that are below a folder and have one of these `extensions`, in a stable order.
fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(files(&path, extensions));
        } else if path.extension().is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Returns the P-numbers that the comment of a line cites. Code is ignored, because `P0001` is an
/// SQLSTATE.
fn citations(line: &str) -> Vec<u32> {
    let Some(begin) = ["//", "--"].iter().filter_map(|mark| line.find(mark)).min() else { return Vec::new() };
    line[begin..]
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter_map(|word| word.strip_prefix('P'))
        .filter(|digits| digits.len() <= 2 && !digits.starts_with(['0', '+']))
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// Returns the sections of the page by number. A section is the text that follows `## P5. Title`.
fn sections(page: &str) -> BTreeMap<u32, String> {
    let mut sections = BTreeMap::new();
    for section in page.split("\n## ").skip(1) {
        let (title, body) = section.split_once('\n').unwrap_or((section, ""));
        let number = title.strip_prefix('P').and_then(|rest| rest.split_once(". ")).and_then(|(n, _)| n.parse().ok());
        let number = number.unwrap_or_else(|| panic!("\"## {title}\" is not \"## P<number>. <title>\""));
        assert!(sections.insert(number, body.to_owned()).is_none(), "P{number} has two sections");
    }
    sections
}

/// Finds the paragraph that begins with `label` in a section. Returns the paragraph without the
/// label.
fn paragraph<'a>(section: &'a str, label: &str) -> Option<&'a str> {
    section.split("\n\n").find_map(|paragraph| paragraph.trim_start().strip_prefix(label))
}

/// Returns each part of a text that is enclosed in backquotes.
fn code(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Returns the files that may contain the tests of a module. Examples: `attacks::escape` is
/// `tests/it/attacks/escape.rs`, and `pg::ident` is `src/pg/ident.rs` and the files below
/// `src/pg/ident`.
fn files_of(root: &Path, module: &str) -> Vec<PathBuf> {
    let path = module.replace("::", "/");
    let mut found = Vec::new();
    for top in ["tests/it", "src"] {
        let file = root.join(top).join(format!("{path}.rs"));
        found.extend(file.is_file().then_some(file));
        found.extend(files(&root.join(top).join(&path), &["rs"]));
    }
    found
}

/// Returns whether a test of this name exists, for example
/// `attacks::escape::code_that_leaves_its_role_gains_nothing`.
fn exists(root: &Path, test: &str) -> bool {
    test.rsplit_once("::")
        .is_some_and(|(module, name)| files_of(root, module).iter().any(|file| has_test(&read(file), name)))
}

/// Returns whether a piece of code looks like the name of a test: a path whose last segment is a
/// sentence in snake case.
fn is_test(code: &str) -> bool {
    code.rsplit_once("::").is_some_and(|(_, name)| name.matches('_').count() > 2)
        && code.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c))
}

/// Returns whether a text contains a test function of this name.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let function = format!("fn {name}(");
    lines.iter().enumerate().filter(|(_, line)| line.contains(&function)).any(|(at, _)| {
        let mut attributes =
            lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        attributes.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}

/// Returns the targets of a document's links to files. Code blocks are skipped.
fn links(text: &str) -> Vec<String> {
    let blocks = text.split("\n```").step_by(2);
    let targets = blocks.flat_map(|block| block.split("](").skip(1).filter_map(|rest| rest.split(')').next()));
    targets
        .filter(|target| !target.contains("://") && !target.starts_with(['#', '<']) && !target.starts_with("mailto:"))
        .map(|target| target.split('#').next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn each_behavior_that_a_comment_cites_has_a_section() {
    let sections = sections(&read(&root().join(PAGE)));
    let mut cited = BTreeSet::new();
    let mut wrong = Vec::new();
    for path in [files(&root().join("src"), &["rs", "sql"]), files(&root().join("tests"), &["rs"])].concat() {
        for (at, line) in read(&path).lines().enumerate() {
            for number in citations(line) {
                cited.insert(number);
                if !sections.contains_key(&number) {
                    let place = path.strip_prefix(root()).unwrap_or(&path).display();
                    wrong.push(format!("{place}:{}: P{number} has no section in {PAGE}", at + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(cited.len() > 5, "only {cited:?} were found in the sources: check the search for citations");
}

#[test]
fn each_test_that_a_section_names_exists() {
    let mut wrong = Vec::new();
    let mut named = 0;
    for (number, section) in sections(&read(&root().join(PAGE))) {
        let Some(test) = paragraph(&section, "Test:") else {
            wrong.push(format!("P{number} has no line \"Test:\""));
            continue;
        };
        let tests = code(test);
        if tests.is_empty() {
            wrong.push(format!("P{number} names no test"));
        }
        for test in tests {
            named += 1;
            if !exists(root(), test) {
                wrong.push(format!("P{number}: there is no test {test}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(named > 20, "only {named} tests were found in the page: check the search for tests");
}

#[test]
fn each_sql_object_that_a_section_names_exists() {
    let sql: String = files(&root().join("src"), &["sql"]).iter().map(|path| read(path)).collect();
    // A longer name must not count as a match: `backfill.advance_deferring` does not contain the
    // object `backfill.advance`.
    let is_there = |name: &str| {
        sql.match_indices(name)
            .any(|(at, _)| !sql[at + name.len()..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
    };
    let mut wrong = Vec::new();
    for (number, section) in sections(&read(&root().join(PAGE))) {
        for name in code(paragraph(&section, "Code:").unwrap_or_default()) {
            if name.starts_with("backfill.") && !is_there(name) {
                wrong.push(format!("P{number}: no SQL file contains {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Returns the pages for developers and their texts.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths: Vec<PathBuf> =
        [PAGE, "ARCHITECTURE.md", "CONTRIBUTING.md"].iter().map(|path| root().join(path)).collect();
    paths.extend(files(&root().join("docs/adr"), &["md"]));
    paths.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

#[test]
fn each_test_that_a_page_for_developers_names_exists() {
    let mut wrong = Vec::new();
    for (document, text) in documents() {
        for test in code(&text).into_iter().filter(|code| is_test(code) && !exists(root(), code)) {
            wrong.push(format!("{}: there is no test {test}", document.strip_prefix(root()).unwrap().display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn each_relative_link_leads_to_a_file() {
    let mut wrong = Vec::new();
    let mut followed = 0;
    for (document, text) in documents() {
        for link in links(&text) {
            followed += 1;
            if !document.parent().unwrap().join(&link).exists() {
                wrong.push(format!("{}: {link} does not exist", document.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(followed > 30, "only {followed} links were found: check the search for links");
}

#[test]
fn citations_are_found_in_comments_only() {
    assert_eq!(citations("// So it is (P5), and P16 as well."), [5, 16]);
    assert_eq!(citations("-- P1: during a failover"), [1]);
    assert_eq!(citations(r#"raise("P5"); // SQLSTATE P0001, period P1D, cPU5"#), []);
}

#[test]
fn tests_are_functions_with_an_attribute() {
    let text = "#[tokio::test]\n#[ignore]\nasync fn real() {}\n\nfn helper() {}\n";
    assert!(is_test("attacks::escape::nothing_is_gained_by_it") && !is_test("backfill::_claim"));
    assert!(has_test(text, "real") && !has_test(text, "helper") && !has_test(text, "rea"));
}

#[test]
fn links_to_files_are_found_outside_of_code_blocks() {
    let text = "[a](x.md#part) [b](https://e.org) [c](#here)\n```sql\n[d](y.md)\n```\n[e](../z.md)";
    assert_eq!(links(text), ["x.md", "../z.md"]);
}
