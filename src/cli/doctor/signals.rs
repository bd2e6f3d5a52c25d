//! Checks the signals other than replica lag: the privileges to read each signal, and the current
//! reading of each of the user's own signals.

use super::findings::Findings;
use super::query::{cell, one};
use crate::cli::session::grant;
use crate::config::database::Database;
use crate::config::signal::SignalRule;
use crate::error::Result;
use crate::pg::connect::{Session, within};
use crate::pg::pools::{CONTROL_LIMIT, CONTROL_RECIPE};
use crate::throttle::measure::registry;

const RIGHTS: &str = "
select current_user::text as login, quote_ident(current_user) as quoted, current_setting('archive_mode') as archive_mode,
       has_function_privilege('pg_ls_archive_statusdir()', 'execute') as lists_archive,
       (select pg_has_role(oid, 'USAGE') from pg_roles where rolname = 'pg_read_all_stats') as reads_all,
       exists (select from pg_extension where extname = 'pg_stat_statements') as has_statements,
       -- Null without the privileges of pg_read_all_settings.
       (select setting like '%pg_stat_statements%' from pg_settings where name = 'shared_preload_libraries') as loads_statements";

pub(super) async fn examine(session: &Session, database: &Database, found: &mut Findings) -> Result<()> {
    let row = one(session, RIGHTS, &[]).await?;
    let (login, reads_all): (String, bool) = (cell(&row, "login")?, cell(&row, "reads_all")?);
    match (cell(&row, "has_statements")?, cell::<Option<bool>>(&row, "loads_statements")?) {
        (true, Some(false)) => found.warn(
            "signals",
            "pg_stat_statements is installed but not loaded: the application's statement times cannot be read",
            "Add pg_stat_statements to shared_preload_libraries and restart the server.",
        ),
        (true, _) if reads_all => {
            found.ok("signals", "pg_stat_statements: the application's statement times are monitored")
        }
        // The warning below names the missing privilege.
        (true, _) => {}
        (false, _) => found.ok("signals", "pg_stat_statements is not installed: signal statement_time is disabled"),
    }
    if !reads_all {
        found.warn(
            "signals",
            format!("role \"{login}\" cannot read other sessions' activity: signals oldest_xmin and statement_time are disabled"),
            format!("As an administrator, run: {}", grant("pg_read_all_stats", &login)),
        );
    }
    if database.signals.iter().any(|rule| rule.name == "archiver") {
        if cell::<String>(&row, "archive_mode")? == "off" {
            found.warn(
                "signals",
                "signal archiver has a limit, but archive_mode is off, so its value is always 0",
                "Remove the entry archiver from signals. To monitor a pg_receivewal process, use the signal named slot.",
            );
        } else if !cell::<bool>(&row, "lists_archive")? {
            found.fail(
                "signals",
                "archiver: this role cannot list the WAL files to be archived, so all jobs except those with throttle off are held",
                format!(
                    "As an administrator, run: grant execute on function pg_catalog.pg_ls_archive_statusdir() to {};",
                    cell::<String>(&row, "quoted")?
                ),
            );
        }
    }
    let own: Vec<&SignalRule> = database.signals.iter().filter(|rule| !rule.is_built_in()).collect();
    if !own.is_empty() {
        // The daemon runs the user's queries with these session settings.
        within(CONTROL_LIMIT, session.client.batch_execute(CONTROL_RECIPE)).await?;
    }
    for rule in own {
        let name = &rule.name;
        match registry::try_once(rule, &session.client).await {
            None => {}
            Some(Ok(said)) => found.ok("signals", format!("{name}: {said}")),
            Some(Err(error)) => found.fail(
                "signals",
                format!(
                    "{name}: could not be read, so all jobs except those with throttle off are held: {}",
                    error.message
                ),
                error.hint.unwrap_or_else(|| {
                    "Correct the signal in the configuration, or remove it from the signals list.".to_owned()
                }),
            ),
        }
    }
    Ok(())
}
