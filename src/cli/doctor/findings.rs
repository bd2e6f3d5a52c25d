//! Collects the findings of the checks. Each finding has a mark, and a problem has a remedy if one
//! is known.

use serde::Serialize;

use crate::error::{Error, Kind, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mark {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
pub(super) struct Finding {
    database: String,
    check: &'static str,
    pub mark: Mark,
    message: String,
    pub remedy: Option<String>,
}

/// The findings about one database.
pub(super) struct Findings {
    database: String,
    pub all: Vec<Finding>,
}

impl Findings {
    pub fn new(database: String) -> Self {
        Self { database, all: Vec::new() }
    }

    pub fn ok(&mut self, check: &'static str, message: impl Into<String>) {
        self.add(Mark::Ok, check, message.into(), None);
    }

    pub fn warn(&mut self, check: &'static str, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(Mark::Warn, check, message.into(), Some(remedy.into()));
    }

    pub fn fail(&mut self, check: &'static str, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(Mark::Fail, check, message.into(), Some(remedy.into()));
    }

    fn add(&mut self, mark: Mark, check: &'static str, message: String, remedy: Option<String>) {
        let remedy = remedy.filter(|remedy| !remedy.is_empty());
        self.all.push(Finding { database: self.database.clone(), check, mark, message, remedy });
    }

    /// Adds a failure if the check could not be completed, because the result of the check is then
    /// unknown.
    pub fn unless(&mut self, check: &'static str, made: Result<()>) {
        if let Err(error) = made {
            self.failed(check, error);
        }
    }

    pub fn failed(&mut self, check: &'static str, error: Error) {
        self.add(Mark::Fail, check, one_line(&error), error.hint);
    }
}

fn one_line(error: &Error) -> String {
    match &error.detail {
        Some(detail) => format!("{} ({})", error.message, detail.trim_end_matches('.')),
        None => error.message.clone(),
    }
}

pub(super) fn rendered(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.mark {
            Mark::Ok => "ok  ",
            Mark::Warn => "warn",
            Mark::Fail => "FAIL",
        };
        text.push_str(&format!("  {mark}  {:<10}  {}\n", finding.check, finding.message));
        for line in finding.remedy.iter().flat_map(|remedy| remedy.lines()) {
            text.push_str(&format!("{:>18}  -> {line}\n", ""));
        }
    }
    text
}

pub(super) fn as_json(findings: &[Finding]) -> Result<String> {
    serde_json::to_string_pretty(findings)
        .map_err(|error| Error::new(Kind::Internal, format!("could not write the findings as JSON: {error}")))
}
