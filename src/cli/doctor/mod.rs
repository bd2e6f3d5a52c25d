//! `backfilld doctor`: checks the setup and prints how to fix each problem. Each check is a
//! function that adds findings. If a check cannot be completed, its error becomes a finding.

mod findings;
mod query;
mod replicas;
mod rights;
mod schema;
mod server;
mod signals;

use clap::Args;

use self::findings::{Findings, Mark, as_json, rendered};
use super::commands::Commands;
use super::{session, show};
use crate::config::Config;
use crate::config::database::Database;
use crate::error::Result;
use crate::pg::pooler;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print a JSON array of objects that have the fields database, check, mark (ok, warn, fail),
    /// message and remedy
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: DoctorArgs) -> Result<u8> {
    let mut findings = Vec::new();
    let mut code = 0;
    for database in config.databases_to_run()? {
        let mut found = Findings::new(database.name.clone());
        if let Err(error) = examine(config, database, &mut found).await {
            code = code.max(error.exit_code());
            found.failed("connection", error);
        }
        let commands = Commands::of_database(config, &database.name);
        for finding in &mut found.all {
            finding.remedy = finding.remedy.take().map(|hint| commands.translate(&hint));
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
            (0, 0) => "all checks passed".to_owned(),
            (0, warned) => format!("all checks passed, {}", counted(warned, "warning")),
            (failed, warned) => format!("{} failed, {}", counted(failed, "check"), counted(warned, "warning")),
        })?;
    }
    Ok(if code == 0 { u8::from(failed > 0) } else { code })
}

/// Returns the number and the noun, for example `1 warning` or `2 warnings`.
fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// # Errors
/// The connection or the check for a pooler failed. Every other error becomes a finding.
async fn examine(config: &Config, database: &Database, found: &mut Findings) -> Result<()> {
    // This check comes first, because no other check is reliable behind a pooler in transaction
    // mode.
    let session = match session::open_direct(config, database).await {
        Err(error) if error.message == pooler::MESSAGE => {
            found.fail("pooler", error.message, pooler::REMEDY);
            return Ok(());
        }
        session => session?,
    };
    found.ok("connection", "direct connection (no transaction pooler detected)");
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
        Err(error) => found.failed("schema", error),
    }
    // This check comes last, because it changes the session's settings to the ones that the daemon
    // uses for the user's own queries.
    let made = signals::examine(&session, database, found).await;
    found.unless("signals", made);
    Ok(())
}
