//! Describes the content of one release of backfilld: the versions of its tables, and the current
//! text of all other objects.
//!
//! Each change to a released text requires a new version. The file of that version may be empty. If
//! the signature of a function changes, the new version drops the old signature:
//! - If only the result type or the names of the parameters change, `create or replace` would fail.
//!   So the drop is in `tables`, which runs before the new text.
//! - If the types of the parameters change, both signatures can exist side by side. The drop is in
//!   `retired`, which runs after the new text.
//!
//! No drop uses `cascade`, because a user's view may depend on the function. New columns are added
//! only at the end of a view.

use std::borrow::Cow;

use ring::digest::{SHA256, digest};

/// Name of an environment variable that tests set. If it is set, a debug build, or a build with
/// feature `failpoint`, acts as the next release.
pub const PLAY_NEXT: &str = "BACKFILLD_TEST_NEXT_RELEASE";

/// One version of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    pub number: i32,
    /// SQL for tables, columns, constraints and indexes. It calls no function of schema `backfill`,
    /// because the text of such a function may be older or newer than this version.
    pub tables: &'static str,
    /// Statements `drop function if exists ...` for signatures that no daemon of this release or of
    /// the previous release calls.
    pub retired: &'static str,
}

/// A file of functions, views, triggers or policies. The whole file can be run repeatedly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    pub name: &'static str,
    pub sql: Cow<'static, str>,
}

impl Text {
    /// Returns the SHA-256 hash of the text. `backfill.schema_text` stores this hash once the text
    /// has run.
    pub fn hash(&self) -> String {
        digest(&SHA256, self.sql.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// All SQL that a release installs, in the order in which it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    pub versions: Vec<Version>,
    /// The [`VERSION`] of the oldest binary that can work with this schema.
    pub min_compatible_version: i32,
    /// Functions, then views, triggers and policies.
    pub texts: Vec<Text>,
    /// Grants and revokes. Each migration to a new version runs them last.
    pub rights: &'static str,
}

macro_rules! text {
    ($name:literal) => {
        ($name, include_str!(concat!($name, ".sql")))
    };
}

/// The clause that the SQL texts contain in the head of each function, except in the functions that
/// CONTRIBUTING.md lists. [`Release::this`] replaces it with [`PINS`].
pub const WRITTEN_PIN: &str = "set search_path = pg_catalog, pg_temp";

/// Settings of each function. Each of these settings can change what the SQL of a function means,
/// what a fragment of a job means, or the text to which a value is converted. A caller could
/// otherwise make a check accept a text that the daemon's sessions read differently, or make it
/// refuse a correct text. `TimeZone` is missing on purpose: a time without an offset (`deadline`)
/// is in the time zone of the caller, and all times in messages have an offset.
pub const PINS: [(&str, &str); 12] = [
    ("search_path", "pg_catalog, pg_temp"),
    ("standard_conforming_strings", "on"),
    ("backslash_quote", "safe_encoding"),
    ("transform_null_equals", "off"),
    ("array_nulls", "on"),
    ("xmloption", "content"),
    ("quote_all_identifiers", "off"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("datestyle", "'ISO, MDY'"),
    ("intervalstyle", "'postgres'"),
    ("row_security", "on"),
];

/// The versions of schema `backfill` that this release contains.
pub const VERSIONS: &[Version] =
    &[BASELINE, Version { number: 17, tables: include_str!("versions/0017_rollouts.sql"), retired: "" }];
const BASELINE: Version =
    Version { number: FIRST_VERSION, tables: include_str!("versions/0016_baseline.sql"), retired: "" };

/// The current texts, each as (name, SQL).
const TEXTS: &[(&str, &str)] = &[
    text!("functions/access"),
    text!("functions/sql_text"),
    text!("functions/key"),
    text!("functions/self_reads"),
    text!("functions/preflight"),
    text!("functions/enqueue"),
    text!("functions/preview"),
    text!("functions/events"),
    text!("functions/lifecycle"),
    text!("functions/commands"),
    text!("functions/daemon"),
    text!("functions/claim"),
    text!("functions/plan"),
    text!("functions/batch"),
    text!("functions/quarantine"),
    text!("functions/deferred_rows"),
    text!("functions/proof"),
    text!("functions/signals"),
    text!("functions/retention"),
    text!("functions/monitoring"),
    text!("functions/rollout_spec"),
    text!("functions/rollout_steps"),
    text!("functions/rollout_run"),
    text!("functions/rollout_commands"),
    text!("functions/rights"),
    text!("views"),
    text!("triggers"),
    text!("policies"),
];

/// The oldest version from which a database can be upgraded. Versions 1 to 15 were used only during
/// development, before release 0.3.0.
pub const FIRST_VERSION: i32 = 16;

/// The schema version that this binary was built for.
pub const VERSION: i32 = VERSIONS[VERSIONS.len() - 1].number;

impl Release {
    /// Returns the version that a database has after this release has migrated it.
    pub fn version(&self) -> i32 {
        self.versions.last().map_or(0, |version| version.number)
    }

    /// Returns the release of this binary.
    pub fn this() -> Self {
        let pins = PINS.map(|(name, value)| format!("set {name} = {value}")).join(" ");
        let text = |&(name, sql): &(&'static str, &'static str)| Text {
            name,
            sql: Cow::Owned(sql.replace(WRITTEN_PIN, &pins)),
        };
        Self {
            versions: VERSIONS.to_vec(),
            min_compatible_version: FIRST_VERSION,
            texts: TEXTS.iter().map(text).collect(),
            rights: include_str!("rights.sql"),
        }
    }

    /// Returns the release that this process installs and works with. This is [`Self::this`],
    /// unless a test sets [`PLAY_NEXT`].
    pub fn current() -> Self {
        if cfg!(any(debug_assertions, feature = "failpoint")) && std::env::var_os(PLAY_NEXT).is_some() {
            return Self::next();
        }
        Self::this()
    }

    /// Returns a fictitious release after this one, for the tests of upgrades. It adds a column to
    /// table `job` and to the views of jobs. It changes the body of a function that daemons of this
    /// release call, and adds a parameter to another function.
    pub fn next() -> Self {
        let mut next = Self::this();
        next.versions.push(Version {
            number: VERSION + 1,
            tables: "alter table backfill.job add column note text;",
            retired: "drop function if exists backfill._state_of(text);",
        });
        for text in &mut next.texts {
            let changes: &[(&str, &str)] = match text.name {
                "functions/daemon" => &[("order by x.id limit 1000", "order by x.id limit 999")],
                "functions/commands" => &[(
                    "_state_of(job_name text) returns",
                    "_state_of(job_name text, verbose boolean default false) returns",
                )],
                "views" => &[
                    ("       l.time_share\n", "       l.time_share, j.note\n"),
                    ("j.state_reason, null, null, null\n", "j.state_reason, null, null, null, j.note\n"),
                ],
                _ => &[],
            };
            for (from, to) in changes {
                text.sql = Cow::Owned(text.sql.replace(from, to));
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Returns two values for each `create` in the text. The first value is the kind and name of
    /// the object. The second value is the rest of the line from the name on, which contains the
    /// parameters. It is empty if the object is not a function or procedure.
    fn created(text: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix("create ") else { continue };
            let rest = rest.strip_prefix("or replace ").unwrap_or(rest);
            let (kind, rest) = rest.split_once(' ').expect("create without a name");
            let name: String = rest.chars().take_while(|c| !" (".contains(*c)).collect();
            let parameters = if ["function", "procedure"].contains(&kind) { rest.to_owned() } else { String::new() };
            found.push((format!("{kind} {name}"), parameters));
        }
        found
    }

    #[test]
    fn the_release_that_plays_the_next_one_changes_three_texts() {
        let (this, next) = (Release::this(), Release::next());
        let changed = this.texts.iter().zip(&next.texts).filter(|(old, new)| old.hash() != new.hash());
        let names: Vec<&str> = changed.map(|(old, _)| old.name).collect();
        assert_eq!(names, ["functions/commands", "functions/daemon", "views"]);
    }

    #[test]
    fn versions_are_numbered_without_a_gap() {
        for (index, version) in VERSIONS.iter().enumerate() {
            assert_eq!(version.number, FIRST_VERSION + i32::try_from(index).expect("few"));
        }
    }

    #[test]
    fn each_object_is_defined_once() {
        let mut seen = BTreeSet::new();
        let mut count = 0;
        for text in Release::this().texts {
            for object in created(&text.sql) {
                assert!(seen.insert(object.clone()), "{}: {object:?} is defined twice", text.name);
                count += 1;
            }
        }
        assert!(count > 150, "only {count} objects were found");
    }

    #[test]
    fn a_text_can_be_applied_again() {
        for text in Release::this().texts {
            for line in text.sql.lines().filter(|line| line.starts_with("create ")) {
                let again = line.starts_with("create or replace ") || line.starts_with("create policy ");
                assert!(again, "{}: {line}", text.name);
                if let Some(policy) = line.strip_prefix("create policy ") {
                    let name = policy.split(" for ").next().expect("a name");
                    assert!(text.sql.contains(&format!("drop policy if exists {name};")), "{}: {name}", text.name);
                }
            }
            assert!(!text.sql.contains("create table") && !text.sql.contains("cascade;"), "{}", text.name);
        }
    }

    /// Compares a release with the lines of `released.txt`. Returns a message for each release in
    /// `changelog` (except Unreleased and 0.1.0) that has no line. Also returns a message for each
    /// hash in a line that differs from the hash of `release`. The hash of the texts is compared
    /// only if the line has the schema version of `release`.
    fn frozen(changelog: &str, released: &str, release: &Release) -> Vec<String> {
        let mut wrong = Vec::new();
        let lines: Vec<Vec<&str>> = released
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .map(|line| line.split_whitespace().collect())
            .collect();
        let hash = |sql: &str| Text { name: "", sql: Cow::Owned(sql.to_owned()) }.hash();
        let rights = format!("{} {}", release.rights, release.min_compatible_version);
        let texts = hash(&(release.texts.iter().map(Text::hash).collect::<String>() + &rights));
        // The hash covers all versions up to this number, because one release may contain several
        // versions.
        let tables = |number: i32| {
            let versions = release.versions.iter().take_while(|version| version.number <= number);
            hash(&versions.map(|version| format!("{}{}", version.tables, version.retired)).collect::<String>())
        };
        for heading in changelog.lines().filter_map(|line| line.strip_prefix("## [")) {
            let crate_version = heading.split(']').next().unwrap_or_default();
            let before_the_baseline = ["Unreleased", "0.1.0"].contains(&crate_version);
            if !before_the_baseline && !lines.iter().any(|line| line[0] == crate_version) {
                let last = release.versions.last().expect("a version");
                wrong.push(format!(
                    "released.txt needs the line: {crate_version} {} {} {texts}",
                    last.number,
                    tables(last.number)
                ));
            }
        }
        for line in &lines {
            let number: i32 = line[1].parse().expect("a schema version");
            if tables(number) != line[2] {
                wrong.push(format!("versions up to {number} are released, so change their tables in a new version"));
            }
            if number == release.version() && texts != line[3] {
                wrong.push(format!("the text of version {number} is released, so change the text in a new version"));
            }
        }
        wrong
    }

    #[test]
    fn a_released_version_is_frozen() {
        let wrong = frozen(include_str!("../../../CHANGELOG.md"), include_str!("released.txt"), &Release::this());
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn a_change_of_a_released_version_is_detected() {
        let this = Release::this();
        let changelog = "## [Unreleased]\n## [0.3.0] - 2027-01-01\n## [0.1.0] - 2026-11-22\n";
        let asked = frozen(changelog, "", &this);
        let line = asked[0].strip_prefix("released.txt needs the line: ").expect("the line").to_owned();
        assert_eq!(frozen(changelog, &line, &this), Vec::<String>::new());
        let mut changed = this.clone();
        changed.texts[0].sql.to_mut().push_str("-- another");
        assert_eq!(frozen(changelog, &line, &changed).len(), 1);
        let mut changed = this.clone();
        changed.versions[0].tables = "create table backfill.other ();";
        assert_eq!(frozen(changelog, &line, &changed).len(), 1);
        // In a release with a new schema version, the texts may be different.
        assert_eq!(frozen(changelog, &line, &Release::next()), Vec::<String>::new());
    }

    /// Checks that no current text defines a function that a version retires. The drop statements
    /// in `retired` run after the current texts, so they would drop the current function.
    #[test]
    fn nothing_current_is_retired() {
        for release in [Release::this(), Release::next()] {
            for version in &release.versions {
                for line in version.retired.lines().filter(|line| !line.trim().is_empty()) {
                    let signature = line
                        .strip_prefix("drop function if exists ")
                        .and_then(|rest| rest.strip_suffix(';'))
                        .expect("drop function if exists ...;");
                    let (name, types) = signature.trim_end_matches(')').split_once('(').expect("a signature");
                    let count = types.split(',').filter(|word| !word.trim().is_empty()).count();
                    let current = |text: &Text| {
                        created(&text.sql).iter().any(|(object, parameters)| {
                            let list =
                                parameters.split_once('(').map_or("", |(_, rest)| rest.split(')').next().unwrap_or(""));
                            let own = list.split(',').filter(|word| !word.trim().is_empty()).count();
                            *object == format!("function {name}") && own == count
                        })
                    };
                    assert!(!release.texts.iter().any(current), "{signature} is retired and current");
                }
            }
        }
    }

    #[test]
    fn version_files_hold_tables_only() {
        for version in VERSIONS {
            for word in ["create function", "create or replace", "create view", "create trigger", "create policy"] {
                assert!(!version.tables.contains(word), "{}: {word}", version.number);
            }
            // `backfill.name` directly before a parenthesis is a call to one of our own functions.
            // In `create table backfill.name (` and similar statements, a blank precedes the
            // parenthesis.
            for (at, _) in version.tables.match_indices("backfill.") {
                let rest = &version.tables[at + "backfill.".len()..];
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let is_call = rest[name.len()..].starts_with('(');
                assert!(!is_call && !name.starts_with('_'), "{} calls {name}", version.number);
            }
        }
    }

    /// The functions and procedures that have no settings of their own (pins). There are three
    /// reasons: a function with pins could not read the caller's settings, a procedure with pins
    /// could not commit, and a function that consists of one call would add a line of context to
    /// each error.
    const UNPINNED: [&str; 18] = [
        "_caller_settings",
        "approve",
        "cancel",
        "enqueue",
        "enqueue_delete",
        "pause",
        "preview",
        "rerun",
        "resume",
        "retry",
        "rollout_advance",
        "rollout_pause",
        "rollout_plan",
        "rollout_resume",
        "rollout_rollback",
        "rollout_start",
        "tune",
        "wait",
    ];

    #[test]
    fn every_function_pins_its_settings_or_is_listed() {
        let mut unpinned = BTreeSet::new();
        let mut pinned = 0;
        for (name, sql) in TEXTS {
            for function in sql.split("\ncreate or replace ").skip(1) {
                let Some(function) =
                    function.strip_prefix("function backfill.").or(function.strip_prefix("procedure backfill."))
                else {
                    continue;
                };
                let function_name = function.split('(').next().expect("a name");
                let head = function.split("as $$").next().expect("a head");
                if head.contains(WRITTEN_PIN) {
                    pinned += 1;
                } else {
                    assert!(UNPINNED.contains(&function_name), "{name}: {function_name}");
                    unpinned.insert(function_name);
                }
            }
        }
        assert_eq!(unpinned.into_iter().collect::<Vec<_>>(), UNPINNED);
        assert!(pinned > 130, "only {pinned} functions were found");
    }

    /// The functions without pins run with the caller's settings. So the text of each function must
    /// mean the same with any settings: it contains no backslash, and each function that it calls
    /// is qualified with its schema.
    #[test]
    fn the_functions_without_pins_depend_on_no_setting() {
        for (name, sql) in TEXTS {
            for function in sql.split("\ncreate or replace ").skip(1) {
                let Some((head, rest)) = function.split_once("as $$") else { continue };
                let Some(own) = UNPINNED.iter().find(|own| head.contains(&format!("backfill.{own}("))) else {
                    continue;
                };
                let body = rest.split("$$;").next().expect("a body");
                assert!(!body.contains('\\'), "{name}: {own}");
                let code: String =
                    body.lines().map(|line| line.split("--").next().unwrap_or("")).collect::<Vec<_>>().join(" ");
                for (at, _) in code.match_indices('(') {
                    let word: String =
                        code[..at].chars().rev().take_while(|c| c.is_alphanumeric() || "_.".contains(*c)).collect();
                    let word: String = word.chars().rev().collect();
                    let keyword = ["", "in", "as", "u", "t", "exists", "coalesce", "operator"].contains(&word.as_str());
                    let qualified = word.starts_with("backfill.") || word.starts_with("pg_catalog.");
                    assert!(keyword || qualified, "{name}: {own} calls {word}");
                }
            }
        }
    }
}
