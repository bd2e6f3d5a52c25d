//! A role that may create schemas or objects prepares schema `backfill` before `migrate`, or adds
//! an object to it later. The role's code must never run with the privileges of the control login.

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::Daemon;

use crate::support::{BACKFILLD, SOON, make_roles, migrate};

/// Functions of `att` that record the roles under which they run, and try to make `att` a
/// superuser.
const TRAP: &str = "
create schema att;
create table att.ran (as_role name);
grant usage on schema att to public;
grant insert on att.ran to public;
create function att.trap() returns int language plpgsql as $$ begin
  insert into att.ran values (current_user), (session_user);
  begin execute 'alter role att superuser'; exception when others then null; end;
  return 16;
end $$;
create function att.trap_row() returns trigger language plpgsql as $$ begin perform att.trap(); return new; end $$;
create function att.trap_of(text) returns text language plpgsql as $$ begin perform att.trap(); return $1; end $$;
";

/// A server with the control login `ctl` and the role `att`. Both may create schemas in `app`.
async fn scene() -> Cluster {
    let cluster = Cluster::start(Options::default()).await;
    make_roles(&cluster).await;
    for role in ["ctl", "att"] {
        cluster.create_role(role, "login").await;
    }
    cluster.create_database("app", "postgres").await;
    cluster.sql("postgres", "app", "grant create on database app to ctl, att; grant pg_read_all_stats to ctl").await;
    cluster.sql("att", "app", TRAP).await;
    cluster
}

/// Runs `migrate`, `run`, `run --no-migrate`, `doctor` and `uninstall` as `login`. Checks that each
/// of them refuses with a message that contains `why`, and that no code of `att` ran as another
/// role.
async fn all_refuse(cluster: &Cluster, login: &str, why: &str) {
    let output = migrate(cluster, login, "app").await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains(why), "{text}");
    assert!(text.contains("hint: ") && text.contains("detail: "), "{text}");
    for flag in [None, Some("--no-migrate")] {
        let mut daemon = Daemon::builder(BACKFILLD, &cluster.url(login, "app"));
        if let Some(flag) = flag {
            daemon = daemon.arg(flag);
        }
        let daemon = daemon.start();
        let status = daemon.wait_exit(SOON).await;
        assert!(!status.success() && daemon.output().contains(why), "{flag:?}: {}", daemon.output());
    }
    for arguments in [&["doctor"][..], &["uninstall", "--yes", "--force"]] {
        let output = tokio::process::Command::new(BACKFILLD)
            .args(arguments)
            .env("BACKFILLD_DATABASE_URL", cluster.url(login, "app"))
            .output()
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(why), "{arguments:?}: {text}");
    }
    let there: bool = cluster.value("postgres", "app", "select to_regnamespace('backfill') is not null").await;
    assert!(there, "the schema was removed");
    let taken = "select (select count(*) from att.ran where as_role <> 'att') + (select count(*) from pg_roles where rolname = 'att' and rolsuper)";
    assert_eq!(cluster.value::<i64>("postgres", "app", taken).await, 0, "the planted code ran: {why}");
}

#[tokio::test]
async fn a_schema_that_another_role_prepared_is_refused_before_its_code_runs() {
    const VERSION_TABLE: &str = "create table backfill.schema_version (version int primary key, min_compatible_version int not null, applied_at timestamptz not null default now());";
    let own_version = "insert into backfill.schema_version values (16, 16);";
    let planted_rights = "create function backfill._grant_all() returns text[] language plpgsql as $$ begin perform att.trap(); return '{}'; end $$;";
    let planted_trigger =
        "create trigger t before insert on backfill.schema_version for each row execute function att.trap_row();";
    for (form, planted) in [
        ("an empty schema", String::new()),
        ("a table", VERSION_TABLE.to_owned()),
        ("a function", format!("{VERSION_TABLE}{own_version}{planted_rights}")),
        ("a trigger", format!("{VERSION_TABLE}{planted_trigger}")),
        (
            "a view",
            "create view backfill.schema_version as select att.trap() as version, att.trap() as min_compatible_version;"
                .to_owned(),
        ),
    ] {
        for login in ["ctl", "postgres"] {
            let cluster = scene().await;
            let rights = "grant all on schema backfill to public; grant all on all tables in schema backfill to public;";
            cluster.sql("att", "app", &format!("create schema backfill; {planted}{rights}")).await;
            all_refuse(&cluster, login, &format!("role \"{login}\" does not own everything in schema backfill")).await;
            let output = migrate(&cluster, login, "app").await;
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(text.contains("schema backfill (owner att)"), "{form}: {text}");
            assert!(form != "a function" || text.contains("function backfill._grant_all() (owner att)"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_schema_of_a_role_of_which_the_login_is_a_member_is_refused() {
    let cluster = scene().await;
    let made = "create role team; grant team to ctl, att; create schema backfill authorization team";
    cluster.sql("postgres", "app", made).await;
    all_refuse(&cluster, "ctl", "schema backfill (owner team)").await;
    // If the login has the setting `role`, its sessions start in the role that the setting names.
    // The functions of that role could then switch back to the login.
    cluster.sql("postgres", "app", "alter role ctl set role = team").await;
    all_refuse(&cluster, "ctl", "the session runs as role \"team\" instead of its login \"ctl\"").await;
}

#[tokio::test]
async fn an_installed_schema_of_another_login_is_refused_even_for_a_superuser() {
    let cluster = scene().await;
    assert!(migrate(&cluster, "ctl", "app").await.status.success());
    let output = migrate(&cluster, "postgres", "app").await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && text.contains("(owner ctl)") && text.contains("connect as that role"),
        "{text}"
    );
    // Only five of the many objects are listed.
    assert!(text.contains(" more. Code of another role"), "{text}");
    assert!(migrate(&cluster, "ctl", "app").await.status.success());
}

#[tokio::test]
async fn one_foreign_object_among_the_objects_of_the_login_is_refused() {
    const OWNED: &str = "grant usage on schema backfill to att; alter table backfill.event owner to att";
    const RETURNED: &str = "alter table backfill.event owner to ctl";
    // For each attack: statements of a superuser, statements of `att`, again statements of a
    // superuser, and a part of the expected error.
    let attacks = [
        (
            "grant create, usage on schema backfill to att",
            "create function backfill._grant_all(int default 1) returns text[] language plpgsql as $$ begin perform att.trap(); return '{}'; end $$",
            "revoke all on schema backfill from att",
            "function backfill._grant_all(integer) (owner att)",
        ),
        (
            "grant create, usage on schema backfill to att",
            "create function backfill.same(int, text) returns bool language sql as 'select true'; create operator backfill.= (leftarg = int, rightarg = text, function = backfill.same)",
            "revoke all on schema backfill from att",
            "operator backfill.=(integer,text) (owner att)",
        ),
        (
            "grant create, usage on schema backfill to att",
            "create type backfill.kind as enum ('a')",
            "revoke all on schema backfill from att",
            "type backfill.kind (owner att)",
        ),
        (
            "grant create on schema backfill to att",
            "select 1",
            "",
            "the privilege CREATE on schema backfill (held by att)",
        ),
        (
            "grant create on schema backfill to public",
            "select 1",
            "",
            "the privilege CREATE on schema backfill (held by public)",
        ),
        (
            "grant usage on schema backfill to att; grant trigger on backfill.worker to att",
            "create trigger mine before insert or update on backfill.worker for each row execute function att.trap_row()",
            "revoke all on backfill.worker from att",
            "trigger mine on table backfill.worker, which uses function att.trap_row() (owner att)",
        ),
        (
            "grant usage on schema backfill to att; grant references on backfill.job to att",
            "create table att.refers (id bigint references backfill.job (id) on delete cascade)",
            "revoke all on backfill.job from att",
            "constraint refers_id_fkey on table att.refers, which refers to backfill.job (owner att)",
        ),
        (
            OWNED,
            "alter table backfill.event alter column message set default att.trap_of('x')",
            RETURNED,
            "default value for column message of table backfill.event, which uses function att.trap_of(text) (owner att)",
        ),
        (
            OWNED,
            "alter table backfill.event add constraint mine check (att.trap_of(message) <> '') not valid",
            RETURNED,
            "constraint mine on table backfill.event, which uses function att.trap_of(text) (owner att)",
        ),
        (
            OWNED,
            "create rule mine as on insert to backfill.event do also select att.trap()",
            RETURNED,
            "rule mine on table backfill.event, which uses function att.trap() (owner att)",
        ),
        (
            OWNED,
            "create policy mine on backfill.event using (att.trap() > 0)",
            RETURNED,
            "policy mine on table backfill.event, which uses function att.trap() (owner att)",
        ),
        (
            OWNED,
            "create table att.child () inherits (backfill.event)",
            RETURNED,
            "table att.child, which inherits from backfill.event (owner att)",
        ),
        (
            "grant create, usage on schema backfill to att",
            "alter default privileges in schema backfill grant all on tables to public",
            "revoke all on schema backfill from att",
            "default privileges on new relations belonging to role att in schema backfill",
        ),
    ];
    let cluster = scene().await;
    for (n, (before, attack, after, why)) in attacks.iter().enumerate() {
        let database = format!("d{n}");
        cluster.create_database(&database, "postgres").await;
        cluster.sql("postgres", &database, &format!("grant create on database {database} to ctl, att")).await;
        cluster.sql("att", &database, TRAP).await;
        assert!(migrate(&cluster, "ctl", &database).await.status.success());
        cluster.sql("postgres", &database, before).await;
        cluster.sql("att", &database, attack).await;
        cluster.sql("postgres", &database, after).await;
        let output = migrate(&cluster, "ctl", &database).await;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(why), "{attack}: {text}");
        let daemon = Daemon::builder(BACKFILLD, &cluster.url("ctl", &database)).arg("--no-migrate").start();
        assert!(!daemon.wait_exit(SOON).await.success());
        assert!(daemon.output().contains(why), "{attack}: {}", daemon.output());
        let ran: i64 =
            cluster.value("postgres", &database, "select count(*) from att.ran where as_role <> 'att'").await;
        assert_eq!(ran, 0, "{attack}");
    }
}

#[tokio::test]
async fn default_privileges_of_the_login_let_no_role_add_code_to_the_schema() {
    let cluster = scene().await;
    cluster.sql("ctl", "app", "alter default privileges grant all on tables to att, public").await;
    assert!(migrate(&cluster, "ctl", "app").await.status.success());
    let count = "select count(*) from pg_class c where c.relnamespace = 'backfill'::regnamespace and c.relkind in ('r', 'v') and has_table_privilege('att', c.oid, 'trigger, references')";
    assert_eq!(cluster.value::<i64>("postgres", "app", count).await, 0);
}

#[tokio::test]
async fn the_check_covers_each_catalog_whose_objects_are_in_a_schema() {
    let cluster = Cluster::start(Options::default()).await;
    let query = include_str!("../../../src/pg/schema/ownership.sql");
    let columns: Vec<String> = cluster
        .value(
            "postgres",
            "postgres",
            "select array_agg(format('join %s x on x.%s = p.oid', c.relname, a.attname)) from pg_class c join pg_attribute a on a.attrelid = c.oid
              where c.relnamespace = 'pg_catalog'::regnamespace and c.relkind = 'r' and a.attname like '%namespace' and a.atttypid = 'oid'::regtype",
        )
        .await;
    assert!(columns.len() > 15, "{columns:?}");
    for column in columns {
        assert!(query.contains(&column), "{column}");
    }
    // The other catalogs that have an owner column. The objects in these catalogs do not belong to
    // a schema.
    let owners: Vec<String> = cluster
        .value(
            "postgres",
            "postgres",
            "select array_agg(c.relname::text order by c.relname) from pg_class c join pg_attribute a on a.attrelid = c.oid
              where c.relnamespace = 'pg_catalog'::regnamespace and c.relkind = 'r' and a.attname ~ 'owner$' and a.atttypid = 'oid'::regtype
                and not exists (select from pg_attribute n where n.attrelid = c.oid and n.attname like '%namespace')",
        )
        .await;
    let known = [
        "pg_event_trigger",
        "pg_foreign_data_wrapper",
        "pg_foreign_server",
        "pg_language",
        "pg_largeobject_metadata",
        "pg_namespace",
        "pg_publication",
        "pg_subscription",
        "pg_tablespace",
    ];
    assert_eq!(owners, known);
}
