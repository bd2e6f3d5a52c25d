//! Parses the arguments into a command, or into a text to print: help, the version, or a usage
//! error.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use super::{Alone, Cli, Command, OnDatabase};
use crate::config::secret::SecretUrl;

/// The text to print if the arguments contain no command to run.
#[derive(Debug)]
pub struct Answer {
    text: String,
    is_error: bool,
}

impl Cli {
    /// Parses the arguments. The first argument is the name of the program.
    ///
    /// # Errors
    /// The text to print, if the arguments contain no command to run.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, Answer> {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        match Self::try_parse_from(&arguments) {
            Ok(Self { connection, command: Command::OnDatabase(OnDatabase::Migrate(args)) }) if args.print => {
                Ok(Self { connection, command: Command::Alone(Alone::PrintMigrations) })
            }
            Ok(cli) => Ok(cli),
            Err(error) => Err(Answer {
                text: without_secrets(error.render().to_string(), &arguments),
                is_error: error.use_stderr(),
            }),
        }
    }
}

impl Answer {
    /// Prints the text and returns the exit code, which is 2 for invalid arguments.
    pub fn give(self) -> ExitCode {
        if self.is_error {
            eprint!("{}", self.text);
            return ExitCode::from(2);
        }
        match super::show::print(&self.text) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => ExitCode::from(error.exit_code()),
        }
    }
}

/// Removes passwords from a message of the parser. The parser quotes an unexpected argument. If
/// this argument is a URL in the wrong place, the message would show its password.
fn without_secrets(mut text: String, arguments: &[OsString]) -> String {
    for argument in arguments.iter().map(|argument| argument.to_string_lossy()) {
        // In `--flag=value` only the value can contain a URL.
        let value =
            if argument.starts_with('-') { argument.split_once('=').map_or("", |(_, value)| value) } else { &argument };
        if value.contains("://") || value.contains("password") {
            text = text.replace(value, &SecretUrl::new(value).to_string());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn read(words: &[&str]) -> Result<Cli, Answer> {
        Cli::read(std::iter::once("backfilld").chain(words.iter().copied()).map(OsString::from))
    }

    #[test]
    fn the_arguments_are_declared_without_contradiction() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_url_in_the_wrong_place_is_reported_without_its_password() {
        for words in [
            ["postgres://o:hunter2@db/app", "status"],
            ["status", "--url=postgres://o:hunter2@db/app"],
            ["enqueue", "host=db password=hunter2"],
            ["--databse-url", "postgres://o:hunter2@db/app"],
        ] {
            let answer = read(&words).unwrap_err();
            assert!(answer.is_error && !answer.text.contains("hunter2"), "{}", answer.text);
        }
    }

    #[test]
    fn debug_output_has_no_password() {
        let cli = read(&["status", "--database-url", "postgres://o:hunter2@db/app"]).unwrap();
        assert!(!format!("{cli:?}").contains("hunter2"), "{cli:?}");
    }

    #[test]
    fn connection_flags_are_taken_before_and_after_the_verb() {
        for words in [["--database", "a", "status"], ["status", "--database", "a"]] {
            assert_eq!(read(&words).unwrap().connection.database.as_deref(), Some("a"));
        }
    }

    #[test]
    fn pause_and_resume_take_a_name_or_all_and_not_both() {
        for verb in ["pause", "resume"] {
            assert!(read(&[verb, "a"]).is_ok() && read(&[verb, "--all"]).is_ok());
            assert!(read(&[verb]).is_err() && read(&[verb, "a", "--all"]).is_err());
        }
    }

    #[test]
    fn a_job_assigns_or_deletes_and_never_both() {
        for verb in [&["enqueue", "j"][..], &["preview"]] {
            let with = |more: &[&str]| read(&[verb, &["--target", "t"], more].concat());
            assert!(with(&["--set", "a = 1"]).is_ok() && with(&["--delete", "--filter", "a = 1"]).is_ok());
            assert!(with(&[]).is_err() && with(&["--delete"]).is_err());
            assert!(with(&["--set", "a = 1", "--delete", "--filter", "a = 1"]).is_err());
        }
    }

    #[test]
    fn completions_and_the_manual_know_every_verb() {
        let folder = std::env::temp_dir().join(format!("backfilld-man-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        clap_mangen::generate_to(Cli::command(), &folder).unwrap();
        let mut script = Vec::new();
        clap_complete::generate(clap_complete::Shell::Bash, &mut Cli::command(), "backfilld", &mut script);
        let script = String::from_utf8(script).unwrap();
        for verb in "run migrate uninstall enqueue preview status watch wait pause resume cancel approve retry rerun tune forget doctor probe completions".split(' ') {
            assert!(script.contains(&format!("backfilld,{verb})")), "completions lack {verb}");
            let page = std::fs::read_to_string(folder.join(format!("backfilld-{verb}.1"))).unwrap();
            assert!(page.contains(".SH SYNOPSIS"), "{verb}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn printing_the_migrations_needs_no_database() {
        let command = read(&["migrate", "--print"]).unwrap().command;
        assert!(matches!(command, Command::Alone(Alone::PrintMigrations)));
        assert!(matches!(read(&["migrate"]).unwrap().command, Command::OnDatabase(_)));
    }
}
