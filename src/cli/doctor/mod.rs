//! `backfilld doctor`: checks the setup and prints how to fix what is missing. Each check is a
//! function that adds findings; one that can't be made is a finding itself.

mod findings;
mod query;
mod replicas;
mod rights;
mod schema;
mod server;
mod signals;

use clap::Args;

use self::findings::{Findings, Mark, as_json, rendered};
use super::{session, show};
use crate::config::Config;
use crate::config::database::Database;
use crate::error::Result;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// An array of objects: database, check, mark (ok, warn, fail), message, remedy
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: DoctorArgs) -> Result<u8> {
    let mut findings = Vec::new();
    let mut code = 0;
    for database in config.databases_to_run()? {
        let mut found = Findings::new(database.name.clone());
        if let Err(error) = examine(database, &mut found).await {
            code = code.max(error.exit_code());
            found.failed("connection", error);
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
        Err(error) => found.failed("schema", error),
    }
    // Last, for the user's own queries run in the daemon's settings.
    let made = signals::examine(&session, database, found).await;
    found.unless("signals", made);
    Ok(())
}
