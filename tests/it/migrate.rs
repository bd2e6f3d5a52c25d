//! Tests the installation of schema `backfill`.

use backfilld::pg::schema::install;
use backfilld::pg::schema::release::{PINS, Release, VERSION, VERSIONS};
use backfilld_testbed::binaries::Binaries;
use backfilld_testbed::cluster::{Cluster, Options};

use crate::support::{installed, make_roles, migrate, refused, run, value};

/// A query that describes the objects of the schema, their privileges and the recorded versions.
pub const CATALOG: &str = "
select coalesce(string_agg(line, E'\\n' order by line collate \"C\"), '') from (
  select format('%s %s %s', c.relkind, c.relname, coalesce(c.reloptions::text, '')) as line from pg_class c where c.relnamespace = 'backfill'::regnamespace
  union all select format('%s.%s %s %s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid))
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
   where c.relnamespace = 'backfill'::regnamespace
  union all select format('%s acl %s', c.relname, a) from pg_class c, unnest(c.relacl) a where c.relnamespace = 'backfill'::regnamespace
  union all select pg_get_functiondef(p.oid) || (select coalesce(string_agg(a::text, ' ' order by a::text), '') from unnest(p.proacl) a) from pg_proc p where p.pronamespace = 'backfill'::regnamespace
  union all select pg_get_constraintdef(k.oid) from pg_constraint k where k.connamespace = 'backfill'::regnamespace
  union all select pg_get_triggerdef(t.oid) from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relnamespace = 'backfill'::regnamespace and not t.tgisinternal
  union all select format('%s %s', polname, pg_get_expr(polwithcheck, polrelid)) from pg_policy
  union all select format('text %s %s', name, hash) from backfill.schema_text
  union all select format('version %s from %s', version, min_compatible_version) from backfill.schema_version) x";

#[tokio::test]
async fn installing_twice_changes_nothing_and_the_printed_sql_installs_the_same() {
    let cluster = installed(Options::default()).await;
    let before: String = cluster.value("owner", "app", CATALOG).await;
    assert!(migrate(&cluster, "owner", "app").await.status.success());
    assert_eq!(cluster.value::<String>("owner", "app", CATALOG).await, before);
    cluster.create_database("by_hand", "owner").await;
    cluster.sql("owner", "by_hand", &install::print()).await;
    assert_eq!(cluster.value::<String>("owner", "by_hand", CATALOG).await, before);
}

#[tokio::test]
async fn four_concurrent_installations_install_the_schema_once() {
    let cluster = Cluster::with_owner(Options::default()).await;
    let (a, b, c, d) = tokio::join!(
        migrate(&cluster, "owner", "app"),
        migrate(&cluster, "owner", "app"),
        migrate(&cluster, "owner", "app"),
        migrate(&cluster, "owner", "app")
    );
    for output in [a, b, c, d] {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let owner = cluster.owner().await;
    let versions: i64 = value(&owner, "select count(*) from backfill.schema_version").await;
    assert_eq!(versions, i64::try_from(VERSIONS.len()).unwrap());
    // Before the roles that docs/contract.md names are created, only the owner has privileges.
    // After the roles have been created, the next migration grants them their privileges.
    make_roles(&cluster).await;
    cluster.create_role("late", "login in role backfill_reader").await;
    let late = cluster.client("late", "app").await;
    assert_eq!(refused(&late, "select * from backfill.jobs").await.sqlstate, "42501");
    assert!(migrate(&cluster, "owner", "app").await.status.success());
    run(&late, "select * from backfill.jobs").await;
}

#[tokio::test]
async fn a_foreign_or_too_new_schema_is_refused_with_the_remedy() {
    let cluster = Cluster::with_owner(Options::default()).await;
    let refusal = async |database: &str| {
        let output = migrate(&cluster, "owner", database).await;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "migrated {database}");
        assert!(text.contains("hint: "), "{text}");
        text
    };
    cluster.sql("owner", "app", "create schema backfill; create table backfill.recipes (id int)").await;
    assert!(refusal("app").await.contains("was not created by backfilld"));
    cluster.sql("owner", "app", "drop schema backfill cascade; create schema backfill; create function backfill.f() returns int language sql as 'select 1'").await;
    assert!(refusal("app").await.contains("was not created by backfilld"));
    // An empty schema that a DBA created for backfilld is accepted.
    cluster.sql("owner", "app", "drop schema backfill cascade; create schema backfill").await;
    assert!(migrate(&cluster, "owner", "app").await.status.success());

    cluster.create_database("published", "owner").await;
    cluster.sql("postgres", "published", "create publication everything for all tables").await;
    let text = refusal("published").await;
    assert!(text.contains("publication everything is FOR ALL TABLES"), "{text}");

    // `migrate` accepts a newer schema that still supports this binary, and refuses one that does
    // not.
    let newer = VERSION + 1;
    cluster.sql("owner", "app", &format!("insert into backfill.schema_version values ({newer}, {})", VERSION)).await;
    assert!(migrate(&cluster, "owner", "app").await.status.success());
    cluster
        .sql(
            "owner",
            "app",
            &format!("update backfill.schema_version set min_compatible_version = {newer} where version = {newer}"),
        )
        .await;
    let text = refusal("app").await;
    assert!(text.contains("Upgrade backfilld") && text.contains(&newer.to_string()), "{text}");
    // The schema is too old, and `--no-migrate` forbids the daemon to migrate it. The daemon
    // reports the command to run and exits.
    cluster.sql("owner", "app", &format!("delete from backfill.schema_version where version >= {}", VERSION)).await;
    let daemon = backfilld_testbed::daemon::Daemon::builder(crate::support::BACKFILLD, &cluster.owner_url())
        .arg("--no-migrate")
        .start();
    let status = daemon.wait_exit(crate::support::SOON).await;
    assert!(!status.success());
    assert!(daemon.output().contains("Run: backfilld migrate"), "{}", daemon.output());
}

/// A migration does not check function bodies, because a function may call a function of a later
/// file. In this test all functions exist, so the server can check each body.
#[tokio::test]
async fn every_function_has_a_body_that_the_server_accepts() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "set check_function_bodies = on; set search_path = pg_catalog, pg_temp; set client_min_messages = warning",
    )
    .await;
    for text in Release::this().texts {
        run(&owner, &format!("begin; {}; rollback", text.sql)).await;
    }
}

/// The dump contains the whole schema in one file, as the server prints it, so that readers can
/// search the schema.
#[tokio::test]
async fn the_dump_of_the_schema_is_current() {
    /// The major version of pg_dump that the comparison needs. Other versions format some objects
    /// differently.
    const MAJOR: u32 = 15;
    let binaries = Binaries::find().unwrap();
    if binaries.major() != MAJOR || !binaries.has("pg_dump") {
        eprintln!("skipped: the comparison of the dump needs pg_dump {MAJOR}");
        return;
    }
    let cluster = installed(Options::default()).await;
    let mut command = tokio::process::Command::from(binaries.command("pg_dump"));
    command.args(["--schema-only", "--no-owner", "--schema=backfill", "--dbname", &cluster.owner_url()]);
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let dump = String::from_utf8(output.stdout).unwrap();
    // pg_dump prints these settings for each function, one per line. The dump in the repository
    // omits them.
    let pins: Vec<String> = PINS[1..].iter().map(|(name, _)| format!("    SET {name} TO '")).collect();
    let noise = |line: &&str| {
        pins.iter().any(|pin| line.to_lowercase().replace('"', "").starts_with(&pin.to_lowercase()))
            || line.starts_with("SET ")
            || line.starts_with("SELECT pg_catalog.set_config")
            || line.starts_with('\\')
    };
    // In the output of pg_dump, each section begins with a comment of three lines. The dump in the
    // repository has only the middle line, which names the object.
    let mut page = "-- The whole of schema backfill, written by pg_dump: for reading and searching, not for editing.\n-- BACKFILLD_WRITE_SCHEMA=1 cargo test --test it the_dump_of_the_schema_is_current writes it anew.\n-- Of the settings of each function (PINS in release.rs), only search_path is shown.\n".to_owned();
    let mut blank = true;
    for line in dump.lines().filter(|line| {
        !noise(line)
            && *line != "--"
            && !line.starts_with("-- Dumped")
            && !line.starts_with("-- PostgreSQL database dump")
    }) {
        let line = line.split("; Schema: backfill; Owner: -").next().unwrap();
        if !(line.is_empty() && blank) {
            page.push_str(line);
            page.push('\n');
        }
        blank = line.is_empty();
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/pg/schema/schema.sql");
    if std::env::var_os("BACKFILLD_WRITE_SCHEMA").is_some() {
        std::fs::write(file, &page).unwrap();
    }
    let kept = std::fs::read_to_string(file).unwrap_or_default();
    for (line, (is, was)) in page.lines().zip(kept.lines()).enumerate() {
        assert_eq!(is, was, "schema.sql, line {}; BACKFILLD_WRITE_SCHEMA=1 regenerates it", line + 1);
    }
    assert_eq!(page.lines().count(), kept.lines().count(), "schema.sql; BACKFILLD_WRITE_SCHEMA=1 regenerates it");
}
