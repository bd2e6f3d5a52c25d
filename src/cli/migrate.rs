//! `backfilld migrate`: installs or upgrades schema backfill, and says what only a DBA can do.

use clap::Args;

use super::{session, show};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::pg::connect::within;
use crate::pg::pools::CONTROL_LIMIT;
use crate::pg::schema::install;
use crate::pg::schema::release::{FIRST_VERSION, Release};
use crate::pg::schema::state::{self, Found};

#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Print the SQL for a DBA who runs it by hand, and change nothing
    #[arg(long)]
    pub(super) print: bool,
    /// Go on although a publication for all tables will publish the schema's tables to its subscribers
    #[arg(long)]
    with_publication: bool,
}

/// Roles of the contract that are missing, or that lack their rights on the schema.
pub(super) const ROLES_WANTING: &str = "
select r from pg_catalog.unnest(array['backfill_reader', 'backfill_submitter', 'backfill_operator']) with ordinality u(r, n)
where not exists (select from pg_catalog.pg_roles p where p.rolname = r and pg_catalog.has_schema_privilege(p.oid, 'backfill', 'usage'))
order by n";
/// Creates what is missing if the login may, and grants.
const GRANT_ALL: &str = "select pg_catalog.unnest(backfill._grant_all())";

pub(super) fn print() -> Result<u8> {
    show::print(&install::print())?;
    Ok(0)
}

pub(super) async fn run(config: &Config, args: MigrateArgs) -> Result<u8> {
    let mut session = session::open(config).await?;
    let applied = install::migrate(&mut session.client, args.with_publication).await.map_err(not_allowed)?;
    show::line(&match applied.as_slice() {
        [] => match state::found(&session.client).await? {
            Found::Version { version, .. } if version > Release::current().version() => {
                format!("schema backfill is at version {version}, which serves this binary: nothing to do")
            }
            _ => format!("schema backfill is up to date: version {}", Release::current().version()),
        },
        [first, ..] if *first == FIRST_VERSION => {
            format!("schema backfill installed: version {}", Release::current().version())
        }
        [.., last] => format!("schema backfill upgraded to version {last}"),
    })?;
    // A later release's schema is left as it is, its grants too.
    if matches!(state::found(&session.client).await?, Found::Version { version, .. } if version > Release::current().version())
    {
        return Ok(0);
    }
    let client = &session.client;
    let mut missing = within(CONTROL_LIMIT, client.query(ROLES_WANTING, &[])).await?;
    if !missing.is_empty() && applied.is_empty() {
        // Somebody may have created the roles since: then the grants are all that is missing.
        missing = within(CONTROL_LIMIT, client.query(GRANT_ALL, &[])).await.map_err(not_allowed)?;
    }
    if !missing.is_empty() {
        let roles = missing.iter().map(|row| row.try_get(0).map_err(Error::from)).collect::<Result<Vec<String>>>()?;
        show::line(&for_a_dba(&roles))?;
    }
    Ok(0)
}

/// The jobs run without them; but nobody other than the schema's owner can enqueue.
fn for_a_dba(roles: &[String]) -> String {
    let mut text =
        "\nThis login may not create roles. Until they exist, only the owner of the schema can enqueue and look.\n\
                    Have a DBA run the following, then run backfilld migrate again for the grants:\n"
            .to_owned();
    for role in roles {
        text.push_str(&format!("\n  create role {role} nologin;"));
    }
    text
}

fn not_allowed(error: Error) -> Error {
    match error.kind {
        Kind::Permission if error.hint.is_none() => {
            let hint = if error.message.contains("for database") {
                "As an administrator: grant create on database ... to the login; or run the output of backfilld migrate --print."
            } else {
                "Migrate with the login that owns schema backfill."
            };
            error.hint(hint)
        }
        _ => session::explain(error),
    }
}
