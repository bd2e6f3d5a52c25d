//! Checks two rules for prose: the width of lines, and the absence of banned words.

use std::fs;
use std::path::{Path, PathBuf};

/// Maximum number of columns of a line of prose.
const WIDTH: usize = 100;

/// Banned words, each with its replacement.
const BANNED: [(&str, &str); 6] = [
    ("mend", "fix"),
    ("mends", "fixes"),
    ("mended", "fixed"),
    ("mending", "fixing"),
    ("somebody", "another session, a role, an operator"),
    ("in company", "while other sessions are active"),
];

const FOLDERS: [&str; 9] = ["src", "tests", "benches", "docs", "deploy", "scripts", "config", "examples", "."];

fn files() -> Vec<PathBuf> {
    fn collect(folder: &Path, deep: bool, found: &mut Vec<PathBuf>) {
        let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for path in entries.map(|entry| entry.expect("an entry").path()) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() {
                if deep && !["target", "node_modules"].contains(&name) {
                    collect(&path, deep, found);
                }
            } else if ["rs", "sql", "md", "sh", "yaml", "toml"].iter().any(|end| name.ends_with(&format!(".{end}"))) {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in FOLDERS {
        collect(&root.join(folder), folder != ".", &mut found);
    }
    // Two files are skipped: this file, because it contains the banned words, and the dump of the
    // schema, because it is generated.
    found.retain(|path| !path.ends_with("tests/prose.rs") && !path.ends_with("schema/schema.sql"));
    found
}

/// Returns the lines of prose that are too wide. Prose is comments in Rust and SQL, and paragraphs
/// of Markdown. Tables and code cannot be wrapped, and neither can lines in which at most one word
/// has more than three letters.
fn wide(name: &str, text: &str) -> Vec<usize> {
    let is_markdown = name.ends_with(".md");
    let mut in_code = false;
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        if trimmed.trim_start_matches(['/', '!', ' ']).starts_with("```") {
            in_code = !in_code;
        }
        let prose = !in_code
            && if is_markdown {
                !trimmed.starts_with('|') && !line.starts_with("    ")
            } else {
                (name.ends_with(".rs") && trimmed.starts_with("//"))
                    || (name.ends_with(".sql") && trimmed.starts_with("--"))
            };
        let table = trimmed.trim_start_matches(['/', '!', ' ']).starts_with('|');
        let words = trimmed.split_whitespace().filter(|word| word.len() > 3).count();
        if prose && !table && words > 1 && line.chars().count() > WIDTH {
            found.push(at + 1);
        }
    }
    found
}

/// Returns the banned words of a text with their lines and replacements.
fn banned(text: &str) -> Vec<(usize, &'static str, &'static str)> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let words: Vec<String> = line
            .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
            .filter(|word| !word.is_empty())
            .map(str::to_lowercase)
            .collect();
        let padded = format!(" {} ", words.join(" "));
        for (word, instead) in BANNED {
            if padded.contains(&format!(" {word} ")) {
                found.push((at + 1, word, instead));
            }
        }
    }
    found
}

#[test]
fn prose_wraps_at_100_columns() {
    let mut wrong = Vec::new();
    for path in files() {
        let name = path.to_string_lossy().into_owned();
        for line in wide(&name, &fs::read_to_string(&path).expect("a text")) {
            wrong.push(format!("{name}:{line}"));
        }
    }
    assert!(wrong.is_empty(), "wider than {WIDTH} columns:\n{}", wrong.join("\n"));
}

#[test]
fn banned_words_do_not_occur() {
    let mut wrong = Vec::new();
    for path in files() {
        for (line, word, instead) in banned(&fs::read_to_string(&path).expect("a text")) {
            wrong.push(format!("{}:{line}: \"{word}\"; write {instead}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_rules_can_fail() {
    let long = "word ".repeat(30);
    assert_eq!(wide("a.rs", &format!("// {long}\nlet a = \"{long}\";\n")), [1]);
    assert_eq!(wide("a.md", &format!("{long}\n\n```\n{long}\n```\n| {long} |\n")), [1]);
    assert_eq!(wide("a.sql", &format!("  -- {long}\nselect '{long}'")), [1]);
    assert_eq!(
        banned("Mend it.\nSomebody, in  company").iter().map(|found| found.1).collect::<Vec<_>>(),
        ["mend", "somebody", "in company"]
    );
    assert_eq!(banned("amend recommend mend_it"), []);
    assert!(files().len() > 300, "{} files", files().len());
}
