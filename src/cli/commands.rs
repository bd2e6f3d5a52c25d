//! Translates hints of the SQL functions into commands. The hints name SQL functions and
//! parameters (`backfill.retry`, `key => array[...]`), but a user of the command line needs the
//! command to type.

use super::show;
use crate::config::Config;
use crate::error::Error;

/// Verbs with the same name as an SQL function, or as the procedure `wait`.
const VERBS: [&str; 11] =
    ["enqueue", "preview", "pause", "resume", "cancel", "approve", "retry", "rerun", "tune", "forget", "wait"];

/// Parameters of the SQL functions, the longest first. In a hint, flags replace these parameters.
const PARAMETERS: [&str; 7] = ["options", "run_as", "run_at", "target", "filter", "key", "set"];

/// Formats the commands for one database, as the user has to type them.
#[derive(Debug, Clone, Default)]
pub(super) struct Commands {
    /// The global flags that the user has given, each preceded by a space. The placeholder `URL`
    /// replaces a URL, because a URL may contain a password.
    flags: String,
    /// The flag that selects the database, preceded by a space. Empty if the configuration has only
    /// one database.
    database: String,
}

impl Commands {
    /// Returns the commands for the selected database.
    pub fn of(config: &Config) -> Self {
        config.database().map_or_else(|_| Self::default(), |selected| Self::of_database(config, &selected.name))
    }

    /// Returns the commands for the database that has this name in the configuration.
    pub fn of_database(config: &Config, name: &str) -> Self {
        let mut flags = String::new();
        if let Some(path) = &config.origin.config {
            flags.push_str(&format!(" --config {}", show::word(&path.to_string_lossy())));
        }
        if config.origin.database_url.is_some() {
            flags.push_str(" --database-url URL");
        }
        let has_several = config.databases.len() > 1;
        let database = if has_several { format!(" --database {}", show::word(name)) } else { String::new() };
        Self { flags, database }
    }

    /// Returns the command: `backfilld resume a`, or, if there are several databases, `backfilld
    /// --database main resume a`. The flags `--config` and `--database-url` are repeated if the
    /// user has given them.
    pub fn of_verb(&self, rest: &str) -> String {
        format!("backfilld{}{} {rest}", self.flags, self.database)
    }

    /// Returns `error` after replacing the SQL functions in its detail and hint with commands. If
    /// there are several databases, each command names its database.
    pub fn explain(&self, mut error: Error) -> Error {
        error.detail = error.detail.map(|detail| self.translate(&detail));
        error.hint = error.hint.map(|hint| self.translate(&hint));
        error
    }

    /// Replaces the SQL functions in a hint, in a detail or in the explanation of a wait with
    /// commands.
    pub fn translate(&self, text: &str) -> String {
        self.with_flags(&of_sql(text))
    }

    fn with_flags(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for verb in VERBS.iter().chain(&["status", "watch", "migrate", "uninstall"]) {
            text = text.replace(&format!("backfilld {verb}"), &self.of_verb(verb));
        }
        // These verbs work on all databases.
        for verb in ["run", "doctor"] {
            text = text.replace(&format!("backfilld {verb}"), &format!("backfilld{} {verb}", self.flags));
        }
        text
    }
}

/// In a hint, replaces SQL functions with commands, and their parameters with flags.
fn of_sql(text: &str) -> String {
    let mut text = text
        .replace("select backfill.resume_all();", "backfilld resume --all")
        .replace("select backfill.resume_all()", "backfilld resume --all")
        .replace("select backfill.pause_all()", "backfilld pause --all")
        .replace("backfill.pause_all", "backfilld pause --all")
        .replace("backfill.resume_all", "backfilld resume --all")
        .replace("array[...]", "COLUMN,COLUMN");
    let tune = |arguments: &str| {
        let (name, options) = arguments.split_once("', '").unwrap_or(("NAME", arguments));
        format!("backfilld tune {} --options '{options}'", show::word(name))
    };
    for statement in ["select ", ""] {
        text = replace_call(&text, &format!("{statement}backfill.tune(name, '"), tune);
        text = replace_call(&text, &format!("{statement}backfill.tune('"), tune);
    }
    for verb in VERBS {
        let call = |name: &str| format!("backfilld {verb} {}", show::word(name));
        for statement in ["select ", "call ", ""] {
            text = replace_call(&text, &format!("{statement}backfill.{verb}('"), call);
        }
        text = text.replace(&format!("backfill.{verb}"), &format!("backfilld {verb}"));
    }
    for parameter in PARAMETERS {
        let flag = format!("--{}", parameter.replace('_', "-"));
        text = text.replace(&format!("{parameter} => "), &format!("{flag} "));
        text = text.replace(&format!("argument \"{parameter}\""), &format!("flag {flag}"));
    }
    text
}

/// Replaces each call that begins with `start`, up to the quote and parenthesis that close it.
fn replace_call(text: &str, start: &str, command: impl Fn(&str) -> String) -> String {
    let mut pieces = text.split(start);
    let mut replaced = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.split_once("')") {
            Some((argument, rest)) => {
                replaced.push_str(&command(argument));
                // A semicolon at the end belongs to the SQL statement and is dropped. Any other
                // semicolon separates parts of the sentence and is kept.
                let is_last = rest.trim() == ";";
                replaced.push_str(if is_last { "" } else { rest });
            }
            None => replaced.push_str(&format!("{start}{piece}")),
        }
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn sql_is_named_as_commands_and_flags() {
        for (sql, command) in [
            ("Fix the cause, then run backfill.retry.", "Fix the cause, then run backfilld retry."),
            ("Set key => array[...].", "Set --key COLUMN,COLUMN."),
            ("Use run_as => 'owner'.", "Use --run-as 'owner'."),
            (
                r#"backfill.tune(name, '{"verify": "auto"}'), then"#,
                r#"backfilld tune NAME --options '{"verify": "auto"}', then"#,
            ),
            (
                r#"Run backfill.tune('a b', '{"verify": "auto"}'), then backfill.rerun('a b')."#,
                r#"Run backfilld tune 'a b' --options '{"verify": "auto"}', then backfilld rerun 'a b'."#,
            ),
            ("Wait until it finishes: call backfill.wait('a')", "Wait until it finishes: backfilld wait a"),
            (
                "Allow more: select backfill.tune('a', '{\"max_row_errors\": 9}'). Then run backfill.retry.",
                "Allow more: backfilld tune a --options '{\"max_row_errors\": 9}'. Then run backfilld retry.",
            ),
            ("The argument \"key\" names it.", "The flag --key names it."),
            ("See backfill.row_errors.", "See backfill.row_errors."),
            (
                "To continue: select backfill.retry('a/b'); to restart: select backfill.rerun('a/b');",
                "To continue: backfilld retry a/b; to restart: backfilld rerun a/b",
            ),
            ("select f(x, '{\"a\": \"b\"}')", "select f(x, '{\"a\": \"b\"}')"),
            ("backfill.resume_all ends it", "backfilld resume --all ends it"),
            ("An operator can run: select backfill.resume_all();", "An operator can run: backfilld resume --all"),
            ("they can run select backfill.resume_all()", "they can run backfilld resume --all"),
        ] {
            assert_eq!(of_sql(sql), command);
        }
    }

    /// Translates each detail and hint in `tests/it/messages.txt`, the snapshot of messages.
    #[test]
    fn no_translated_message_still_speaks_sql() {
        let messages = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/messages.txt"));
        let messages = messages.expect("the snapshot of messages");
        let texts = messages.lines().filter(|line| line.starts_with("  hint: ") || line.starts_with("  detail: "));
        let mut count = 0;
        for text in texts.map(of_sql) {
            count += 1;
            for verb in VERBS {
                for sql in
                    [format!("backfill.{verb}"), format!("select backfilld {verb}"), format!("call backfilld {verb}")]
                {
                    assert!(!text.contains(&sql), "{sql}: {text}");
                }
            }
            for parameter in PARAMETERS {
                assert!(!text.contains(&format!("{parameter} =>")), "{parameter}: {text}");
                assert!(!text.contains(&format!("argument \"{parameter}\"")), "{parameter}: {text}");
            }
        }
        assert!(count > 200, "only {count} texts");
    }

    #[test]
    fn with_several_databases_a_command_names_its_database() {
        let commands = Commands { flags: String::new(), database: " --database eu".to_owned() };
        assert_eq!(commands.of_verb("resume a"), "backfilld --database eu resume a");
        let error = commands.explain(Error::new(Kind::NotComplete, "x").hint("Run backfill.retry."));
        assert_eq!(error.hint.as_deref(), Some("Run backfilld --database eu retry."));
        assert_eq!(Commands::default().of_verb("resume a"), "backfilld resume a");
        let commands = Commands { flags: " --config a.yaml".to_owned(), database: " --database eu".to_owned() };
        let translated = commands.translate("Start backfilld run, then backfill.retry.");
        assert_eq!(
            translated,
            "Start backfilld --config a.yaml run, then backfilld --config a.yaml --database eu retry."
        );
    }
}
