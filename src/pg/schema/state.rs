//! Reads the version of schema `backfill` in a database and checks whether this binary can work
//! with the schema.

use tokio_postgres::Client;

use super::ownership;
use super::release::{FIRST_VERSION, Release};
use crate::error::{Error, Kind, Result};
use crate::pg::row::Columns;

const STATE: &str = "select max(version), (select min_compatible_version from backfill.schema_version order by version desc limit 1) from backfill.schema_version";

/// The version of the schema in a database, if it is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Absent,
    Version { version: i32, min_compatible: i32 },
}

pub async fn found(client: &Client) -> Result<Found> {
    let there: bool = client
        .query_one("select to_regclass('backfill.schema_version') is not null", &[])
        .await
        .map_err(Error::from)?
        .read(0)?;
    if !there {
        return Ok(Found::Absent);
    }
    let row = client.query_one(STATE, &[]).await.map_err(Error::from)?;
    Ok(match (row.read::<Option<i32>>(0)?, row.read::<Option<i32>>(1)?) {
        (Some(version), Some(min_compatible)) => Found::Version { version, min_compatible },
        _ => Found::Absent,
    })
}

/// Checks that the schema belongs to the login, and that this binary can work with it. The client
/// must not be in a transaction.
///
/// # Errors
/// [`Kind::Schema`] if the login does not own everything in the schema, or if the schema is absent,
/// older than this binary, or so new that it requires a newer binary.
pub async fn check(client: &Client) -> Result<()> {
    ownership::check(client).await?;
    let own = Release::current().version();
    match found(client).await? {
        Found::Absent => Err(Error::new(Kind::Schema, "schema backfill is not installed in this database")
            .hint("Run: backfilld migrate")),
        Found::Version { version, .. } if version < FIRST_VERSION => Err(too_old(version)),
        Found::Version { version, .. } if version < own => Err(Error::new(
            Kind::Schema,
            format!("schema backfill is at version {version}; this binary needs version {own}"),
        )
        .hint("Run: backfilld migrate")),
        Found::Version { version, min_compatible } if min_compatible > own => {
            Err(too_new(version, min_compatible, own))
        }
        Found::Version { .. } => Ok(()),
    }
}

const MISSING_CREATE: &str = "
select format('grant create on database %I to %I;', current_database(), current_user)
where not has_database_privilege(current_user, current_database(), 'create')";

/// Returns the `grant` that an administrator must run before this login can install the schema, or
/// `None` if the login already has the privilege.
pub async fn missing_create(client: &Client) -> Result<Option<String>> {
    let row = client.query_opt(MISSING_CREATE, &[]).await.map_err(Error::from)?;
    row.map_or(Ok(None), |row| row.read(0))
}

pub(super) fn too_old(version: i32) -> Error {
    let what = format!("schema backfill is at version {version}, which cannot be upgraded");
    Error::new(Kind::Schema, what)
        .detail(format!("Versions before {FIRST_VERSION} were used only during development, before release 0.3.0."))
        .hint("Finish the jobs and run `backfilld uninstall` with the binary that installed the schema. This deletes all jobs and their history. Then run `backfilld migrate` with this binary.")
}

pub(super) fn too_new(version: i32, min_compatible: i32, own: i32) -> Error {
    Error::new(
        Kind::Schema,
        format!(
            "schema backfill is at version {version}, which needs a binary for version {min_compatible} or later; this binary is for version {own}"
        ),
    )
    .hint("Upgrade backfilld.")
}
