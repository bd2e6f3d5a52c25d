//! `backfilld doctor`: what is missing, and how to mend it. Each check is a function that adds findings; one that can't
//! be made is a finding itself.

mod replicas;
mod rights;
mod schema;
mod server;
mod signals;

use clap::Args;
use serde::Serialize;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, ToSql};

use super::{session, show};
use crate::config::Config;
use crate::config::database::Database;
use crate::error::{Error, Result};
use crate::pg::connect::{Session, within};
use crate::pg::pools::CONTROL_LIMIT;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// An array of objects: database, check, mark (ok, warn, fail), message, remedy
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Mark {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
struct Finding {
    database: String,
    check: &'static str,
    mark: Mark,
    message: String,
    remedy: Option<String>,
}

/// What was found about one database so far.
struct Findings {
    database: String,
    all: Vec<Finding>,
}

impl Findings {
    fn ok(&mut self, check: &'static str, message: impl Into<String>) {
        self.add(Mark::Ok, check, message.into(), None);
    }

    fn warn(&mut self, check: &'static str, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(Mark::Warn, check, message.into(), Some(remedy.into()));
    }

    fn fail(&mut self, check: &'static str, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(Mark::Fail, check, message.into(), Some(remedy.into()));
    }

    fn add(&mut self, mark: Mark, check: &'static str, message: String, remedy: Option<String>) {
        let remedy = remedy.filter(|remedy| !remedy.is_empty());
        self.all.push(Finding { database: self.database.clone(), check, mark, message, remedy });
    }

    /// A check that could not be made tells nothing good.
    fn unless(&mut self, check: &'static str, made: Result<()>) {
        if let Err(error) = made {
            self.add(Mark::Fail, check, one_line(&error), error.hint);
        }
    }
}

pub(super) async fn run(config: &Config, args: DoctorArgs) -> Result<u8> {
    let mut findings = Vec::new();
    let mut code = 0;
    for database in config.databases_to_run()? {
        let mut found = Findings { database: database.name.clone(), all: Vec::new() };
        if let Err(error) = examine(database, &mut found).await {
            code = code.max(error.exit_code());
            found.add(Mark::Fail, "connection", one_line(&error), error.hint);
        }
        if !args.json {
            let place = database.resolve_url().map_or(String::new(), |url| format!(": {url}"));
            show::line(&format!("database {}{place}", database.name))?;
            show::print(&rendered(&found.all))?;
        }
        findings.extend(found.all);
    }
    let failed = findings.iter().filter(|finding| finding.mark == Mark::Fail).count();
    if args.json {
        show::line(&as_json(&findings)?)?;
    } else {
        let warned = findings.iter().filter(|finding| finding.mark == Mark::Warn).count();
        show::line(&match (failed, warned) {
            (0, 0) => "all is well".to_owned(),
            (0, warned) => format!("nothing in the way; warnings: {warned}"),
            (failed, warned) => format!("in the way: {failed}; warnings: {warned}"),
        })?;
    }
    Ok(if code == 0 { u8::from(failed > 0) } else { code })
}

/// # Errors
/// No connection. All else is a finding.
async fn examine(database: &Database, found: &mut Findings) -> Result<()> {
    let session = session::open_to(database).await?;
    // First, for behind such a pooler nothing else can be asked with any certainty.
    if server::is_pooled(database).await? {
        found.fail(
            "pooler",
            "a pooler in transaction mode stands in between: sessions, LISTEN and prepared statements do not hold",
            "Give the daemon a url that reaches the server itself. Enqueueing through the pooler is fine.",
        );
        return Ok(());
    }
    found.ok("connection", "direct, or through something that keeps sessions");
    let made = server::encryption(&session, "", found).await;
    found.unless("encryption", made);
    let made = server::examine(&session, database, found).await;
    found.unless("server", made);
    let made = replicas::examine(&session, database, found).await;
    found.unless("replicas", made);
    let made = rights::login(&session, database, found).await;
    found.unless("login", made);
    match schema::examine(&session, found).await {
        Ok(true) => {
            let made = rights::roles(&session, found).await;
            found.unless("roles", made);
            rights::executors(database, found).await;
            let made = rights::jobs(&session, database, found).await;
            found.unless("jobs", made);
        }
        Ok(false) => {}
        Err(error) => found.unless("schema", Err(error)),
    }
    // Last, for the user's own queries run in the daemon's settings.
    let made = signals::examine(&session, database, found).await;
    found.unless("signals", made);
    Ok(())
}

async fn one(session: &Session, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row> {
    within(CONTROL_LIMIT, session.client.query_one(sql, parameters)).await
}

async fn all(session: &Session, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
    within(CONTROL_LIMIT, session.client.query(sql, parameters)).await
}

fn cell<'a, T: FromSql<'a>>(row: &'a Row, name: &str) -> Result<T> {
    row.try_get(name).map_err(Error::from)
}

fn one_line(error: &Error) -> String {
    match &error.detail {
        Some(detail) => format!("{} ({})", error.message, detail.trim_end_matches('.')),
        None => error.message.clone(),
    }
}

fn rendered(findings: &[Finding]) -> String {
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

fn as_json(findings: &[Finding]) -> Result<String> {
    serde_json::to_string_pretty(findings)
        .map_err(|error| Error::new(crate::error::Kind::Internal, format!("findings as JSON: {error}")))
}
