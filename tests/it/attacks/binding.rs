//! A role plants operators, functions and types in schemas on the search path of the role that
//! installs schema `backfill`. No view, constraint, policy, trigger or function of the schema may
//! use them, and no setting of the session may change what is installed.

use backfilld::pg::schema::install;
use backfilld_testbed::binaries::Binaries;
use backfilld_testbed::cluster::{Cluster, Options};

use crate::migrate::CATALOG;
use crate::support::{installed, make_roles, migrate};

/// The roles `ctl` and `att`, and a database with schema `evil`. `att` plants objects in `evil` and
/// `public`.
async fn scene() -> Cluster {
    let cluster = Cluster::start(Options::default()).await;
    make_roles(&cluster).await;
    for role in ["ctl", "att"] {
        cluster.create_role(role, "login").await;
    }
    // The queries of the tests must not use the planted objects.
    cluster.sql("postgres", "postgres", "alter role postgres set search_path = pg_catalog").await;
    cluster
}

/// Creates a database in which `att` has planted functions, types and tables that shadow those of
/// pg_catalog, and operators for pairs of types that the SQL of the schema uses.
async fn planted(cluster: &Cluster, database: &str) {
    cluster.create_database(database, "postgres").await;
    cluster
        .sql(
            "postgres",
            database,
            &format!("grant create on database {database} to ctl, att; grant create on schema public to att"),
        )
        .await;
    cluster.sql("att", database, PLANT).await;
    let count = "select count(*) from pg_operator where oprnamespace = any (array['public', 'evil']::regnamespace[])";
    let operators: i64 = cluster.value("postgres", database, count).await;
    assert!(operators > 2000, "only {operators} operators are planted");
}

const PLANT: &str = r#"
set search_path = pg_catalog;
create schema evil;
grant usage on schema evil to public;
do $do$
declare
  s text; o text; l text; r text;
  -- Types of one group are combined with each other.
  groups constant text[] := array[
    'oid integer smallint bigint numeric float8 float4 text name "char" bool regclass regtype regproc regnamespace',
    'text name varchar bpchar "char" jsonb json uuid bytea regclass oid', 'timestamptz timestamp date interval time',
    'text[] name[] smallint[] int2vector oid[] oidvector integer[] bigint[] "char"', 'xid xid8 tid pg_lsn bigint integer', 'jsonb text text[] integer'];
begin
  foreach s in array array['public', 'evil'] loop
    for l, r in select distinct a, b from unnest(groups) g, string_to_table(g, ' ') a, string_to_table(g, ' ') b loop
      execute format($f$create function %1$s.yes(%2$s, %3$s) returns bool language plpgsql as $$ begin raise exception 'planted'; end $$$f$, s, l, r);
      execute format($f$create function %1$s.left_of(%2$s, %3$s) returns %2$s language plpgsql as $$ begin raise exception 'planted'; end $$$f$, s, l, r);
      foreach o in array string_to_array('= <> < > <= >= ~ !~ ~* ~~ !~~ @> <@ && ?', ' ') loop
        execute format('create operator %s.%s (leftarg = %s, rightarg = %s, function = %1$s.yes)', s, o, l, r);
      end loop;
      foreach o in array string_to_array('+ - * / % & | || -> ->> #>>', ' ') loop
        execute format('create operator %s.%s (leftarg = %s, rightarg = %s, function = %1$s.left_of)', s, o, l, r);
      end loop;
    end loop;
    -- Shadows each built-in function with at most two arguments that are not polymorphic.
    for o in select format('%I(%s) returns %s', p.proname, oidvectortypes(p.proargtypes), case when p.proretset then 'setof ' else '' end || format_type(p.prorettype, null))
               from pg_proc p
              where p.pronamespace = 'pg_catalog'::regnamespace and p.pronargs <= 2 and p.prokind = 'f' and p.prolang <> (select oid from pg_language where lanname = 'c') and p.provariadic = 0 and p.proallargtypes is null
                and not exists (select from unnest(p.proargtypes::oid[] || p.prorettype) a join pg_type t on t.oid = a where t.typtype = 'p') loop
      execute format($f$create or replace function %s.%s language plpgsql as $$ begin raise exception 'planted'; end $$$f$, s, o);
    end loop;
    foreach o in array string_to_array('pg_class pg_proc pg_roles pg_namespace pg_type pg_locks pg_stat_activity', ' ') loop
      execute format('create table %s.%I (oid oid); grant all on %1$s.%2$I to public', s, o);
    end loop;
    foreach o in array string_to_array('jsonb text timestamptz name oid uuid int8 int4 bool numeric float8 interval', ' ') loop
      execute format('create domain %s.%I as pg_catalog.%2$I', s, o);
    end loop;
  end loop;
end $do$;
"#;

/// Everything outside of pg_catalog, information_schema and backfill on which an object of the
/// schema depends, or on which a rule, trigger, policy or default of such an object depends.
const STRANGERS: &str = "
with part(classid, objid) as (
  select 'pg_class'::regclass, oid from pg_class where relnamespace = 'backfill'::regnamespace
  union all select 'pg_proc'::regclass, oid from pg_proc where pronamespace = 'backfill'::regnamespace
  union all select 'pg_type'::regclass, oid from pg_type where typnamespace = 'backfill'::regnamespace
  union all select 'pg_constraint'::regclass, oid from pg_constraint where connamespace = 'backfill'::regnamespace
  union all select 'pg_rewrite'::regclass, w.oid from pg_rewrite w join pg_class c on c.oid = w.ev_class where c.relnamespace = 'backfill'::regnamespace
  union all select 'pg_trigger'::regclass, t.oid from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relnamespace = 'backfill'::regnamespace
  union all select 'pg_policy'::regclass, t.oid from pg_policy t join pg_class c on c.oid = t.polrelid where c.relnamespace = 'backfill'::regnamespace
  union all select 'pg_attrdef'::regclass, t.oid from pg_attrdef t join pg_class c on c.oid = t.adrelid where c.relnamespace = 'backfill'::regnamespace)
select coalesce(string_agg(distinct pg_describe_object(p.classid, p.objid, 0) || ' uses ' || x.type || ' ' || x.identity, E'\\n'), '')
  from part p join pg_depend d on d.classid = p.classid and d.objid = p.objid, lateral pg_identify_object(d.refclassid, d.refobjid, 0) x
 where d.refclassid in ('pg_operator'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass, 'pg_class'::regclass, 'pg_collation'::regclass, 'pg_opclass'::regclass)
   and coalesce(x.schema, '') not in ('backfill', 'pg_catalog', 'information_schema', 'pg_toast')";

/// Runs `settings` and then the printed SQL as `ctl`, in psql with the variables `psql_settings`.
/// If the package of the server has no psql, sends the SQL as one message.
async fn run_printed(cluster: &Cluster, database: &str, settings: &str, psql_settings: &[&str]) -> (bool, String) {
    let script = install::print();
    let binaries = Binaries::find().unwrap();
    if !binaries.has("psql") {
        let client = cluster.client("ctl", database).await;
        client.batch_execute(settings).await.unwrap();
        return match client.batch_execute(&script).await {
            Ok(()) => (true, String::new()),
            Err(error) => (false, format!("{error:?}")),
        };
    }
    let file = cluster.dir().join("printed.sql");
    std::fs::write(&file, format!("{settings};\n{script}")).unwrap();
    let mut command = tokio::process::Command::from(binaries.command("psql"));
    command.args(["--no-psqlrc", "--quiet", "--dbname", &cluster.url("ctl", database), "--file"]).arg(&file);
    for setting in psql_settings {
        command.args(["--set", setting]);
    }
    let output = command.output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success() && !text.contains("ERROR"), text)
}

#[tokio::test]
async fn planted_operators_and_functions_are_not_used_by_any_object_of_the_schema() {
    let expected: String = installed(Options::default()).await.value("owner", "app", CATALOG).await;
    let expected = expected.replace("owner", "ctl");
    let cluster = scene().await;
    planted(&cluster, "planted").await;
    for (n, path) in ["public, evil", "evil, pg_catalog", "evil, public, pg_catalog", "pg_catalog, evil, public"]
        .into_iter()
        .enumerate()
    {
        for printed in [true, false] {
            let database = format!("d{n}_{printed}");
            cluster.create_database(&database, "postgres template planted").await;
            let set = format!(
                "alter role ctl in database {database} set search_path = {path}; grant create on database {database} to ctl"
            );
            cluster.sql("postgres", &database, &set).await;
            if printed {
                let (ok, text) = run_printed(&cluster, &database, "select 1", &[]).await;
                assert!(ok, "{path}: {text}");
            } else {
                let output = migrate(&cluster, "ctl", &database).await;
                assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
            }
            assert_eq!(
                cluster.value::<String>("postgres", &database, STRANGERS).await,
                "",
                "{path}, printed: {printed}"
            );
            assert_eq!(
                cluster.value::<String>("postgres", &database, CATALOG).await.replace("owner", "ctl"),
                expected,
                "{path}, printed: {printed}"
            );
        }
    }
}

/// Shows that the query of the test above finds a planted operator.
#[tokio::test]
async fn a_view_that_uses_a_planted_operator_is_found() {
    let cluster = scene().await;
    planted(&cluster, "planted").await;
    assert!(migrate(&cluster, "ctl", "planted").await.status.success());
    cluster
        .sql("ctl", "planted", "set search_path = public, pg_catalog; create view backfill.one as select c.oid = 'pg_catalog.pg_class'::regclass as same from pg_catalog.pg_class c")
        .await;
    let found: String = cluster.value("postgres", "planted", STRANGERS).await;
    assert_eq!(found, "rule _RETURN on view backfill.one uses operator public.=(pg_catalog.oid,pg_catalog.regclass)");
}

/// Settings that change what SQL text means, each with a value that differs from the default.
const ODD: &str = "set standard_conforming_strings = off; set escape_string_warning = off; set transform_null_equals = on; set array_nulls = off; set backslash_quote = off;
set quote_all_identifiers = on; set datestyle = 'SQL, DMY'; set intervalstyle = sql_standard; set timezone = 'Pacific/Apia'; set extra_float_digits = -15; set bytea_output = escape;
set xmloption = document; set row_security = off; set check_function_bodies = on; set search_path = ''; set client_encoding = 'SQL_ASCII'; set default_transaction_isolation = 'serializable'";

#[tokio::test]
async fn no_setting_of_the_session_changes_what_the_printed_sql_installs() {
    let expected: String = installed(Options::default()).await.value("owner", "app", CATALOG).await;
    let cluster = scene().await;
    cluster.create_database("app", "postgres").await;
    cluster.sql("postgres", "app", "grant create on database app to ctl").await;
    let (ok, text) = run_printed(&cluster, "app", ODD, &[]).await;
    assert!(ok, "{text}");
    let found: String = cluster.value("postgres", "app", CATALOG).await;
    assert_eq!(found.replace("ctl", "owner"), expected.replace("ctl", "owner"));
    // The daemon accepts the schema.
    assert!(migrate(&cluster, "ctl", "app").await.status.success());
}

#[tokio::test]
async fn the_printed_sql_leaves_a_prepared_schema_alone_in_each_mode_of_psql() {
    let cluster = scene().await;
    for (n, psql) in [
        &[][..],
        &["ON_ERROR_STOP=on"],
        &["ON_ERROR_ROLLBACK=on"],
        &["AUTOCOMMIT=off"],
        &["SINGLELINE=off", "ON_ERROR_ROLLBACK=interactive"],
    ]
    .into_iter()
    .enumerate()
    {
        let database = format!("d{n}");
        cluster.create_database(&database, "postgres").await;
        cluster.sql("postgres", &database, &format!("grant create on database {database} to ctl, att")).await;
        cluster
            .sql(
                "att",
                &database,
                "create schema backfill; grant all on schema backfill to public; create table backfill.ran (by name); grant insert on backfill.ran to public;
                 create function backfill._grant_all() returns text[] language plpgsql as $$ begin insert into backfill.ran values (current_user); return '{}'; end $$",
            )
            .await;
        let (ok, text) = run_printed(&cluster, &database, "select 1", psql).await;
        assert!(!ok && text.contains("does not own everything in schema backfill"), "{psql:?}: {text}");
        let objects = "select (select count(*) from pg_class where relnamespace = 'backfill'::regnamespace) + (select count(*) from pg_proc where pronamespace = 'backfill'::regnamespace) + (select count(*) from backfill.ran)";
        assert_eq!(cluster.value::<i64>("att", &database, objects).await, 2, "{psql:?}");
    }
}
