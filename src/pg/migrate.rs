//! Installs and upgrades schema `backfill`. Versions are numbered files; each is applied once, all that are missing
//! in one transaction, under an advisory lock, so that daemons that start together do it once.

use std::fmt::Write as _;
use std::time::Duration;

use tokio_postgres::Client;

use crate::error::{Error, Kind, Result};

/// (version, SQL). Released files never change; later ones come after.
const MIGRATIONS: [(i32, &str); 15] = [
    (1, include_str!("migrations/0001_tables.sql")),
    (2, include_str!("migrations/0002_enqueue.sql")),
    (3, include_str!("migrations/0003_control.sql")),
    (4, include_str!("migrations/0004_worker.sql")),
    (5, include_str!("migrations/0005_views.sql")),
    (6, include_str!("migrations/0006_rights.sql")),
    (7, include_str!("migrations/0007_set_aside.sql")),
    (8, include_str!("migrations/0008_tables.sql")),
    (9, include_str!("migrations/0009_surface.sql")),
    (10, include_str!("migrations/0010_proof.sql")),
    (11, include_str!("migrations/0011_hardening.sql")),
    (12, include_str!("migrations/0012_views.sql")),
    (13, include_str!("migrations/0013_throttle.sql")),
    (14, include_str!("migrations/0014_takeover.sql")),
    (15, include_str!("migrations/0015_budget_duty.sql")),
];

/// What this binary was built for.
pub const VERSION: i32 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// The oldest binary, by its [`VERSION`], that can serve the schema which this binary makes.
const MIN_COMPATIBLE_VERSION: i32 = 6;

const BOOTSTRAP: &str = "create schema if not exists backfill;
create table if not exists backfill.schema_version (
  version                integer     primary key,
  min_compatible_version integer     not null,
  applied_at             timestamptz not null default now()
);
";

/// Two numbers of ours, for nobody else's advisory locks to meet. Anybody could, who means to: so only while there is no
/// table of ours that nobody else can lock.
const LOCK: &str = "select pg_catalog.pg_advisory_xact_lock(1650551145, 1)";
const LOCK_INSTALLED: &str = "lock table backfill.schema_version in exclusive mode";

const FOREIGN: &str = "
select to_regnamespace('backfill') is not null and to_regclass('backfill.schema_version') is null
   and exists (select from pg_catalog.pg_depend d where d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass and d.refobjid = to_regnamespace('backfill'))";

const ALL_TABLES: &str = "
select string_agg(quote_ident(pubname), ', ') from pg_catalog.pg_publication where puballtables";

const STATE: &str = "select max(version), (select min_compatible_version from backfill.schema_version order by version desc limit 1) from backfill.schema_version";

/// What a migration makes is open to everybody until this: 0006 closed what was there then.
const CLOSE: &str = "
revoke all on all tables in schema backfill from public;
revoke all on all routines in schema backfill from public;
do $$ begin perform backfill._grant_all(); end $$;
";

/// An upgrade locks tables that daemons of the last release work with. Whoever comes while it waits for a lock waits
/// behind it, so it waits this long (enough for an autovacuum to give way), lets them through, and tries again.
const LOCK_WAIT: &str = "set local lock_timeout = '2s'";
const PAUSE: Duration = Duration::from_secs(1);
const TRIES: u32 = 20;

const IN_THE_WAY: &str = "
select string_agg(distinct l.pid::text, ', ') from pg_catalog.pg_locks l join pg_catalog.pg_class c on c.oid = l.relation
 where c.relnamespace = to_regnamespace('backfill') and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())
   and l.granted and l.pid <> pg_backend_pid()";

/// Where the database's schema stands.
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
        .get(0);
    if !there {
        return Ok(Found::Absent);
    }
    let row = client.query_one(STATE, &[]).await.map_err(Error::from)?;
    Ok(match (row.get::<_, Option<i32>>(0), row.get::<_, Option<i32>>(1)) {
        (Some(version), Some(min_compatible)) => Found::Version { version, min_compatible },
        _ => Found::Absent,
    })
}

/// Whether this binary can serve the schema that is there.
///
/// # Errors
/// [`Kind::Schema`] if it is absent, older than this binary, or so new that this binary would harm it.
pub async fn check(client: &Client) -> Result<()> {
    match found(client).await? {
        Found::Absent => Err(Error::new(Kind::Schema, "schema backfill is not installed in this database")
            .hint("Run: backfilld migrate")),
        Found::Version { version, .. } if version < VERSION => Err(Error::new(
            Kind::Schema,
            format!("schema backfill is at version {version}, this binary needs {VERSION}"),
        )
        .hint("Run: backfilld migrate")),
        Found::Version { version, min_compatible } if min_compatible > VERSION => Err(Error::new(
            Kind::Schema,
            format!("schema backfill is at version {version} and serves binaries from {min_compatible} on; this one is {VERSION}"),
        )
        .hint("Use a newer backfilld.")),
        Found::Version { .. } => Ok(()),
    }
}

/// The whole SQL, for a DBA who runs it by hand.
pub fn print() -> String {
    through(VERSION)
}

/// The SQL up to `last`: what a release with that [`VERSION`] installed, for the tests of upgrades.
pub fn through(last: i32) -> String {
    let mut sql = format!("begin;\n{LOCK};\n{BOOTSTRAP}");
    for (version, body) in MIGRATIONS.into_iter().filter(|(version, _)| *version <= last) {
        let _ = writeln!(sql, "\n-- version {version}\n{body}\n{}", record(version));
    }
    let _ = writeln!(sql, "{CLOSE}commit;");
    sql
}

fn record(version: i32) -> String {
    format!(
        "insert into backfill.schema_version (version, min_compatible_version) values ({version}, {MIN_COMPATIBLE_VERSION});"
    )
}

/// Installs what is missing; returns the versions applied. A newer compatible schema is left as it is.
///
/// # Errors
/// [`Kind::Schema`] if the name is taken by somebody else's schema, if a publication for all tables would carry ours to
/// its subscribers (unless `with_publication`), or if the schema is too new. [`Kind::LockTimeout`] if for a minute
/// somebody else kept a lock on a table of the schema.
pub async fn migrate(client: &mut Client, with_publication: bool) -> Result<Vec<i32>> {
    let mut tries = 1;
    loop {
        match install(client, with_publication).await {
            Err(error) if !matches!(error.kind, Kind::LockTimeout | Kind::Deadlock) => return Err(error),
            Err(error) if tries == TRIES => {
                let who: Option<String> = client.query_one(IN_THE_WAY, &[]).await.map_err(Error::from)?.get(0);
                return Err(error
                    .detail(format!("Processes with locks on its tables now: {}.", who.as_deref().unwrap_or("none")))
                    .hint("A transaction that enqueued a job and did not end holds such a lock: find it in pg_stat_activity, end it, and migrate again."));
            }
            Err(_) => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Ok(applied) => return Ok(applied),
        }
    }
}

async fn install(client: &mut Client, with_publication: bool) -> Result<Vec<i32>> {
    let transaction = client.transaction().await.map_err(Error::from)?;
    // Creating functions takes longer than the control recipe allows on a slow machine.
    transaction
        .batch_execute("set local statement_timeout = '60s'; set local lock_timeout = '30s'; set local search_path = pg_catalog, pg_temp")
        .await
        .map_err(Error::from)?;
    // Two that install at once wait for one another; what the first made, the second finds.
    if found(transaction.client()).await? == Found::Absent {
        transaction.query(LOCK, &[]).await.map_err(Error::from)?;
    }
    if found(transaction.client()).await? != Found::Absent {
        transaction.batch_execute(LOCK_INSTALLED).await.map_err(Error::from)?;
    }
    if transaction.query_one(FOREIGN, &[]).await.map_err(Error::from)?.get(0) {
        return Err(Error::new(Kind::Schema, "schema backfill exists and is not backfilld's")
            .detail("Things are in it, and no table backfill.schema_version.")
            .hint("Rename it: alter schema backfill rename to ...;"));
    }
    let state = found(transaction.client()).await?;
    let have = match state {
        Found::Absent => 0,
        Found::Version { version, min_compatible } if min_compatible > VERSION => {
            return Err(Error::new(
                Kind::Schema,
                format!("schema backfill is at version {version} and serves binaries from {min_compatible} on; this one is {VERSION}"),
            )
            .hint("Use a newer backfilld."));
        }
        Found::Version { version, .. } => version,
    };
    if have >= VERSION {
        if have == VERSION {
            // The roles may have been made since, by somebody who may.
            transaction.query("select backfill._grant_all()", &[]).await.map_err(Error::from)?;
            transaction.commit().await.map_err(Error::from)?;
        }
        return Ok(Vec::new());
    }
    if let Some(publications) =
        transaction.query_one(ALL_TABLES, &[]).await.map_err(Error::from)?.get::<_, Option<String>>(0)
        && !with_publication
    {
        return Err(Error::new(Kind::Schema, format!("publication {publications} is for all tables and would publish schema backfill"))
            .detail("Its subscribers stop at the first row of a table that they don't have.")
            .hint("Create the schema on the subscribers first (backfilld migrate --print), then run: backfilld migrate --with-publication"));
    }
    transaction.batch_execute(LOCK_WAIT).await.map_err(Error::from)?;
    transaction.batch_execute(BOOTSTRAP).await.map_err(Error::from)?;
    let mut applied = Vec::new();
    for (version, body) in MIGRATIONS.into_iter().filter(|(version, _)| *version > have) {
        transaction
            .batch_execute(body)
            .await
            .map_err(|error| Error::from(error).context(format!("migration {version}")))?;
        transaction.batch_execute(&record(version)).await.map_err(Error::from)?;
        applied.push(version);
    }
    transaction.batch_execute(CLOSE).await.map_err(Error::from)?;
    transaction.commit().await.map_err(Error::from)?;
    Ok(applied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbered_without_a_gap() {
        for (index, (version, _)) in MIGRATIONS.iter().enumerate() {
            assert_eq!(usize::try_from(*version).unwrap(), index + 1);
        }
    }

    #[test]
    fn every_function_pins_its_search_path_or_says_why_not() {
        for (version, body) in MIGRATIONS {
            for function in body.split("\ncreate function ").skip(1) {
                let name = function.split('(').next().unwrap();
                let head = function.split("as $$").next().unwrap();
                let exempt =
                    ["backfill._caller_settings", "backfill.enqueue", "backfill.enqueue_delete", "backfill.preview"];
                assert!(
                    head.contains("set search_path = pg_catalog, pg_temp") || exempt.contains(&name),
                    "{version}: {name}"
                );
            }
        }
    }
}
