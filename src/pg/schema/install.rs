//! Installs and upgrades schema `backfill` in one transaction and under a lock. If several daemons
//! start together, only one of them installs the schema.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;
use tokio_postgres::types::Json;
use tokio_postgres::{Client, Transaction};

use super::ownership::{self, FOREIGN, SETTINGS};
use super::release::{FIRST_VERSION, Release, Text, Version};
use super::state::{Found, found, too_new, too_old};
use crate::error::{Error, Kind, Result};
use crate::pg::row::Columns;

const CREATE: &str = "create schema if not exists backfill;";

/// Takes an advisory lock. It is unlikely that another application uses the key of this lock, but
/// any role could take the lock on purpose and block an upgrade. So the lock is used only until
/// table `backfill.schema_version` exists. From then on, a migration locks this table, which roles
/// without privileges on the table cannot lock.
const LOCK: &str = "select pg_catalog.pg_advisory_xact_lock(1650551145, 1)";
const LOCK_INSTALLED: &str = "lock table backfill.schema_version in exclusive mode";

const UNKNOWN: &str = "
select to_regnamespace('backfill') is not null and to_regclass('backfill.schema_version') is null
   and exists (select from pg_catalog.pg_depend d where d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass and d.refobjid = to_regnamespace('backfill'))";

const ALL_TABLES: &str = "
select string_agg(quote_ident(pubname), ', ') from pg_catalog.pg_publication where puballtables";

/// Limits how long an upgrade waits for a lock on a table that daemons of the previous release use.
/// While the upgrade waits, every other session that needs the table waits behind it. After 2 s
/// (enough for autovacuum to yield) the attempt fails, the other sessions proceed, and the upgrade
/// is tried again 1 s later.
const LOCK_WAIT: &str = "set local lock_timeout = '2s'";
const PAUSE: Duration = Duration::from_secs(1);
const TRIES: u32 = 20;

const IN_THE_WAY: &str = "
select string_agg(distinct l.pid::text, ', ') from pg_catalog.pg_locks l join pg_catalog.pg_class c on c.oid = l.relation
 where c.relnamespace = to_regnamespace('backfill') and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())
   and l.granted and l.pid <> pg_backend_pid()";

/// Selects the functions of schema `backfill`, and the roles to which they are granted.
const GRANTS: &str = "
select coalesce(jsonb_agg(jsonb_build_object('oid', p.oid::int8, 'name', p.proname, 'grantee', a.grantee::int8, 'grantable', a.is_grantable)), '[]')
  from pg_catalog.pg_proc p left join lateral (
    select x.grantee, x.is_grantable from pg_catalog.aclexplode(p.proacl) x where x.grantee <> 0 and x.grantee <> p.proowner) a on true
 where p.pronamespace = 'backfill'::pg_catalog.regnamespace";

/// Builds `grant` statements for each function that replaced a dropped function of the same name,
/// because the drop removed the grants of the old function.
const GRANT_AGAIN: &str = "
with old as (select * from pg_catalog.jsonb_to_recordset($1) as x(oid int8, name pg_catalog.name, grantee int8, grantable boolean))
select format('grant execute on routine %s to %I%s', p.oid::pg_catalog.regprocedure, r.rolname, case when o.grantable then ' with grant option' else '' end)
  from old o join pg_catalog.pg_roles r on r.oid::int8 = o.grantee
  join pg_catalog.pg_proc p on p.proname = o.name and p.pronamespace = 'backfill'::pg_catalog.regnamespace
 where not exists (select from pg_catalog.pg_proc q where q.oid::int8 = o.oid) and not exists (select from old b where b.oid = p.oid::int8)
 order by p.oid, r.rolname";

/// Delimiters of the printed statement, and of each text in it. No text contains them.
const OUTER: &str = "$backfilld$";
const INNER: &str = "$text$";

/// Returns the complete SQL of a new installation, for a database administrator who runs it
/// manually.
///
/// The installation is one statement. If a check in this statement fails, nothing of the
/// installation remains, whatever the client does after an error. If the check were a statement of
/// its own, a client that continues after errors (psql with `ON_ERROR_ROLLBACK`) would execute the
/// functions of a planted schema.
pub fn print() -> String {
    let release = Release::current();
    let mut sql = format!(
        "begin;\n\ndo {OUTER}\ndeclare\n  check_owner constant text := {INNER}\n{FOREIGN}{INNER};\n  refusal record;\nbegin\n{SETTINGS}\n"
    );
    let check = "for refusal in execute check_owner loop\n  raise exception using errcode = 'object_not_in_prerequisite_state', message = refusal.message, detail = refusal.detail, hint = refusal.hint;\nend loop;\n";
    let execute = |sql: &mut String, text: &str| {
        let _ = writeln!(sql, "execute {INNER}\n{}\n{INNER};", text.trim_end());
    };
    sql.push_str("-- Stop if the schema, or an object in it, belongs to another role.\n");
    sql.push_str(check);
    let _ = writeln!(sql, "{};\n{CREATE}", LOCK.replacen("select", "perform", 1));
    sql.push_str(check);
    for version in &release.versions {
        let _ = writeln!(sql, "\n-- version {}", version.number);
        execute(&mut sql, version.tables);
    }
    for text in &release.texts {
        let _ = writeln!(sql, "\n-- {}", text.name);
        execute(&mut sql, &text.sql);
    }
    for version in &release.versions {
        let _ = writeln!(sql, "{}", record(version, &release));
    }
    for text in &release.texts {
        let _ = writeln!(sql, "{}", record_text(text));
    }
    sql.push_str("\n-- rights\n");
    execute(&mut sql, release.rights);
    sql.push_str(check);
    let _ = writeln!(sql, "end {OUTER};\n\ncommit;");
    sql
}

fn record(version: &Version, release: &Release) -> String {
    format!(
        "insert into backfill.schema_version (version, min_compatible_version) values ({}, {});",
        version.number, release.min_compatible_version
    )
}

fn record_text(text: &Text) -> String {
    format!(
        "insert into backfill.schema_text (name, hash) values ('{}', '{}') on conflict (name) do update set hash = excluded.hash;",
        text.name,
        text.hash()
    )
}

/// Installs the missing versions and returns their numbers. If the schema already has the version
/// of this release, the function only grants privileges again. Leaves a newer compatible schema
/// unchanged.
///
/// # Errors
/// [`Kind::Schema`] if one of these conditions holds:
/// - A schema `backfill` exists that backfilld did not create.
/// - The login does not own the schema and everything in it.
/// - The schema is too old or too new.
/// - A publication for all tables would publish the tables of the schema, and `with_publication` is
///   not set.
///
/// [`Kind::LockTimeout`] or [`Kind::Deadlock`] if each of 20 tries failed because another session
/// held a lock on a table of the schema. The 20 tries usually take about a minute or longer.
pub async fn migrate(client: &mut Client, with_publication: bool) -> Result<Vec<i32>> {
    migrate_to(&Release::current(), client, with_publication).await
}

/// Migrates like [`migrate`], but to a given release.
pub async fn migrate_to(release: &Release, client: &mut Client, with_publication: bool) -> Result<Vec<i32>> {
    let mut tries = 1;
    loop {
        match install(release, client, with_publication).await {
            Err(error) if !matches!(error.kind, Kind::LockTimeout | Kind::Deadlock) => return Err(error),
            Err(error) if tries == TRIES => {
                let who: Option<String> = client.query_one(IN_THE_WAY, &[]).await.map_err(Error::from)?.read(0)?;
                return Err(error
                    .detail(format!("Process IDs of the sessions that hold locks on tables of schema backfill: {}.", who.as_deref().unwrap_or("none")))
                    .hint("An open transaction that has enqueued a job holds such a lock. Find the sessions in pg_stat_activity, end their transactions, and run backfilld migrate again."));
            }
            Err(_) => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Ok(applied) => return Ok(applied),
        }
    }
}

async fn install(release: &Release, client: &mut Client, with_publication: bool) -> Result<Vec<i32>> {
    let transaction = client.transaction().await.map_err(Error::from)?;
    // On a slow machine, creating the functions can take longer than the 10 s that the settings of
    // a control session allow.
    transaction
        .batch_execute(&format!("{SETTINGS}set local statement_timeout = '60s'; set local lock_timeout = '30s'"))
        .await
        .map_err(Error::from)?;
    let have = lock(&transaction).await?;
    let own = release.version();
    if let Some((version, min_compatible)) = have {
        if version < FIRST_VERSION {
            return Err(too_old(version));
        }
        if min_compatible > own {
            return Err(too_new(version, min_compatible, own));
        }
        if version > own {
            return Ok(Vec::new());
        }
        if version == own {
            // The roles that get these grants may have been created since the installation.
            transaction.query("select backfill._grant_all()", &[]).await.map_err(Error::from)?;
            transaction.commit().await.map_err(Error::from)?;
            return Ok(Vec::new());
        }
    }
    if !with_publication {
        refuse_publication(&transaction).await?;
    }
    transaction.batch_execute(LOCK_WAIT).await.map_err(Error::from)?;
    let have = have.map_or(0, |(version, _)| version);
    let applied = apply(release, &transaction, have).await?;
    ownership::check_in_transaction(transaction.client()).await?;
    transaction.commit().await.map_err(Error::from)?;
    Ok(applied)
}

/// Takes the lock. If two processes install at the same time, the second one waits here and then
/// finds the schema that the first one installed. Returns the installed version, and the version of
/// the oldest binary that can work with it.
async fn lock(transaction: &Transaction<'_>) -> Result<Option<(i32, i32)>> {
    // An attacker could have planted, in place of the table `schema_version`, a view that executes
    // functions.
    ownership::check_in_transaction(transaction.client()).await?;
    if found(transaction.client()).await? == Found::Absent {
        transaction.query(LOCK, &[]).await.map_err(Error::from)?;
        // Another role may have created the schema during the wait for the lock.
        ownership::check_in_transaction(transaction.client()).await?;
    }
    if found(transaction.client()).await? != Found::Absent {
        transaction.batch_execute(LOCK_INSTALLED).await.map_err(Error::from)?;
    }
    if transaction.query_one(UNKNOWN, &[]).await.map_err(Error::from)?.read(0)? {
        return Err(Error::new(Kind::Schema, "the existing schema backfill was not created by backfilld")
            .detail("It contains objects but no table backfill.schema_version.")
            .hint("Rename it, for example: alter schema backfill rename to backfill_old;"));
    }
    Ok(match found(transaction.client()).await? {
        Found::Absent => None,
        Found::Version { version, min_compatible } => Some((version, min_compatible)),
    })
}

async fn refuse_publication(transaction: &Transaction<'_>) -> Result<()> {
    let publications: Option<String> = transaction.query_one(ALL_TABLES, &[]).await.map_err(Error::from)?.read(0)?;
    match publications {
        None => Ok(()),
        Some(names) => Err(Error::new(Kind::Schema, format!("publication {names} is FOR ALL TABLES and would publish the tables of schema backfill"))
            .detail("Replication to a subscriber that lacks these tables would stop at the first row that backfilld writes to them.")
            .hint("On each subscriber, run the SQL that backfilld migrate --print prints. Then run on this database: backfilld migrate --with-publication")),
    }
}

/// Runs the table changes of each missing version. Then runs each file (functions, views, triggers,
/// policies) whose text has changed. If a table changed, runs the file of views in any case.
/// Finally drops retired functions, and runs the grants and revokes.
async fn apply(release: &Release, transaction: &Transaction<'_>, have: i32) -> Result<Vec<i32>> {
    transaction.batch_execute(CREATE).await.map_err(Error::from)?;
    // Another role may have created the schema since the last check. Then CREATE did nothing.
    ownership::check_in_transaction(transaction.client()).await?;
    let grants: Json<Value> = transaction.query_one(GRANTS, &[]).await.map_err(Error::from)?.read(0)?;
    let missing = || release.versions.iter().filter(|version| version.number > have);
    for version in missing() {
        run(transaction, version.tables, &format!("version {}", version.number)).await?;
    }
    let rows = transaction.query("select name, hash from backfill.schema_text", &[]).await.map_err(Error::from)?;
    let stored: BTreeMap<String, String> =
        rows.iter().map(|row| Ok((row.read(0)?, row.read(1)?))).collect::<Result<_>>()?;
    let tables_changed = missing().any(|version| !version.tables.trim().is_empty());
    let changed = |text: &&Text| {
        // A view with `select *` has only the columns that its table had when the view was created.
        // So the file of views runs again after a change to the tables.
        stored.get(text.name) != Some(&text.hash()) || (text.name == "views" && tables_changed)
    };
    for text in release.texts.iter().filter(changed) {
        run(transaction, &text.sql, text.name).await?;
        run(transaction, &record_text(text), text.name).await?;
    }
    for version in missing() {
        retire(transaction, version).await?;
        run(transaction, &record(version, release), &format!("version {}", version.number)).await?;
    }
    for row in transaction.query(GRANT_AGAIN, &[&grants]).await.map_err(Error::from)? {
        run(transaction, row.read(0)?, "grants").await?;
    }
    run(transaction, release.rights, "rights").await?;
    Ok(missing().map(|version| version.number).collect())
}

/// Drops, without `cascade`, the functions that a version retires. The server's hint suggests
/// `cascade`, but `cascade` would also drop the user's views that depend on such a function.
async fn retire(transaction: &Transaction<'_>, version: &Version) -> Result<()> {
    let retired = run(transaction, version.retired, &format!("version {}", version.number)).await;
    retired.map_err(|error| match error.sqlstate.as_deref() {
        Some("2BP01") => {
            error.hint("Drop the dependent object, or change it so that it does not use the function. Then run backfilld migrate again. Nothing was changed.")
        }
        _ => error,
    })
}

async fn run(transaction: &Transaction<'_>, sql: &str, what: &str) -> Result<()> {
    transaction.batch_execute(sql).await.map_err(|error| Error::from(error).context(format!("migration, {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If a text contained the delimiter, the quoted text would end early. If it contained
    /// non-ASCII characters, its meaning would depend on the encoding of the client.
    #[test]
    fn the_printed_sql_is_one_statement_of_ascii_characters() {
        let sql = print();
        assert!(sql.is_ascii());
        assert_eq!(sql.matches(OUTER).count(), 2);
        let release = Release::current();
        let texts = release.texts.iter().map(|text| text.sql.as_ref());
        for text in texts.chain(release.versions.iter().map(|version| version.tables)).chain([release.rights, FOREIGN])
        {
            assert!(!text.contains(INNER));
        }
        let outside = sql.split(OUTER).step_by(2).collect::<String>();
        assert_eq!(outside.split_whitespace().collect::<Vec<_>>(), ["begin;", "do", ";", "commit;"]);
    }
}
