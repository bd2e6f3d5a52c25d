//! `backfilld migrate`: installs or upgrades schema backfill. If the login cannot create the roles
//! of the public contract, prints the statements that create them.

use clap::Args;
use tokio_postgres::Client;

use super::commands::Commands;
use super::{session, show};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::pg::connect::within;
use crate::pg::pools::CONTROL_LIMIT;
use crate::pg::row::Columns;
use crate::pg::schema::install;
use crate::pg::schema::release::{FIRST_VERSION, Release};
use crate::pg::schema::state::{self, Found};

#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Print the SQL for a DBA to run by hand, and change nothing
    #[arg(long)]
    pub(super) print: bool,
    /// Install even if a publication FOR ALL TABLES publishes the tables of the schema to its
    /// subscribers
    #[arg(long)]
    with_publication: bool,
}

/// Lists the roles of the public contract that do not exist or have no privileges on the schema.
pub(super) const ROLES_WANTING: &str = "
select r from pg_catalog.unnest(array['backfill_reader', 'backfill_submitter', 'backfill_operator']) with ordinality u(r, n)
where not exists (select from pg_catalog.pg_roles p where p.rolname = r and pg_catalog.has_schema_privilege(p.oid, 'backfill', 'usage'))
order by n";
/// Creates the missing roles if the login may create roles, and grants the privileges of each role.
/// Returns the roles that are still missing.
const GRANT_ALL: &str = "select pg_catalog.unnest(backfill._grant_all())";

pub(super) fn print() -> Result<u8> {
    show::print(&install::print())?;
    Ok(0)
}

pub(super) async fn run(config: &Config, args: MigrateArgs) -> Result<u8> {
    let mut session = session::open_direct(config, config.database()?).await?;
    let applied = match install::migrate(&mut session.client, args.with_publication).await {
        Ok(applied) => applied,
        Err(error) => return Err(not_allowed(&session.client, error).await),
    };
    show::line(&match applied.as_slice() {
        [] => match state::found(&session.client).await? {
            Found::Version { version, .. } if version > Release::current().version() => {
                format!(
                    "schema backfill is at version {version}, which is newer than this binary but compatible with it: nothing to do"
                )
            }
            _ => format!("schema backfill is up to date: version {}", Release::current().version()),
        },
        [first, ..] if *first == FIRST_VERSION => {
            format!("schema backfill installed: version {}", Release::current().version())
        }
        [.., last] => format!("schema backfill upgraded to version {last}"),
    })?;
    // If the schema is of a later release, the command changes neither the schema nor its grants.
    if matches!(state::found(&session.client).await?, Found::Version { version, .. } if version > Release::current().version())
    {
        return Ok(0);
    }
    let client = &session.client;
    let mut missing = within(CONTROL_LIMIT, client.query(ROLES_WANTING, &[])).await?;
    if !missing.is_empty() && applied.is_empty() {
        // If a DBA has created the roles since the last migration, only the grants are missing.
        missing = match within(CONTROL_LIMIT, client.query(GRANT_ALL, &[])).await {
            Ok(missing) => missing,
            Err(error) => return Err(not_allowed(client, error).await),
        };
    }
    if !missing.is_empty() {
        let roles = missing.iter().map(|row| row.read(0)).collect::<Result<Vec<String>>>()?;
        show::line(&for_a_dba(&roles, &Commands::of(config)))?;
    }
    Ok(0)
}

/// Returns the statements that a DBA must run to create `roles`. Jobs also run without these roles,
/// but then only the owner of the schema can enqueue or view jobs.
fn for_a_dba(roles: &[String], commands: &Commands) -> String {
    let mut text = format!(
        "\nThis login cannot create roles. Until the roles exist, only the owner of the schema can enqueue or view jobs.\n\
         Have a DBA run the following, then run {} again to grant the privileges:\n",
        commands.of_verb("migrate")
    );
    for role in roles {
        text.push_str(&format!("\n  create role {role} nologin;"));
    }
    text
}

/// If a privilege is missing, adds a hint that says who can grant the privilege or run the
/// migration.
async fn not_allowed(client: &Client, error: Error) -> Error {
    if error.kind != Kind::Permission || error.hint.is_some() {
        return session::explain(error);
    }
    let hint = match state::missing_create(client).await {
        Ok(Some(grant)) => {
            format!("As an administrator, run: {grant}\nOr have a DBA run the output of: backfilld migrate --print")
        }
        _ => "Run migrate as the owner of schema backfill.".to_owned(),
    };
    error.hint(hint)
}
