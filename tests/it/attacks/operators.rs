//! Another role plants operators, functions and types in a schema that precedes `pg_catalog` in the
//! `search_path` of a job. backfilld cannot prevent names in the user's expressions from resolving
//! to these objects. But no name in backfilld's own SQL may resolve to them. Otherwise the objects
//! would run with the privileges of the job's role.
//!
//! The test reads the catalog. For each operator, function and type of PostgreSQL that plpgsql can
//! imitate, the test plants an object of the same name. Each planted object counts its calls in a
//! sequence, because a sequence does not roll back. The expressions of the jobs contain no
//! operator, function or type name that could resolve to a planted object. The jobs cover the
//! different kinds of the daemon's statements.

use super::Scene;
use crate::support::{SOON, run, until_true, value};

const PLANT: &str = r#"
create schema evil;
create sequence evil.calls;
create function evil.tattle(what text) returns void language plpgsql set search_path = pg_catalog as $$ begin
  raise log 'PLANTED % as %', what, current_user;
  perform nextval('evil.calls');
end $$;
-- Types: a domain with the name of each base type. A cast to the name evaluates the check of the
-- domain, which records the cast.
do $$ declare t record; n int := 0; begin
  for t in select typname, oid from pg_type where typnamespace = 'pg_catalog'::regnamespace and typtype = 'b' and typelem = 0 and typname !~ '^_' order by 1 loop
    begin
      execute format('create function evil.%I(v pg_catalog.%I) returns boolean language plpgsql set search_path = pg_catalog as $f$ begin perform evil.tattle(%L); return true; end $f$', 'check_' || t.typname, t.typname, 'type ' || t.typname);
      execute format('create domain evil.%I as pg_catalog.%I check (evil.%I(value))', t.typname, t.typname, 'check_' || t.typname);
      n := n + 1;
    exception when others then null;
    end;
  end loop;
  raise log 'types %', n;
end $$;
-- Functions: the same name and the same arguments.
do $$ declare f record; n int := 0; begin
  for f in select p.oid, p.proname, pg_get_function_identity_arguments(p.oid) as args, pg_get_function_result(p.oid) as result
             from pg_proc p where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f' and not p.proretset and p.provariadic = 0
              and p.prorettype not in ('internal'::regtype, 'trigger'::regtype, 'event_trigger'::regtype, 'language_handler'::regtype, 'fdw_handler'::regtype, 'index_am_handler'::regtype, 'table_am_handler'::regtype, 'tsm_handler'::regtype, 'cstring'::regtype)
              and not p.proargtypes::oid[] && array['internal', 'cstring']::regtype[]::oid[] loop
    begin
      execute format('create function evil.%I(%s) returns %s language plpgsql as $f$ begin perform evil.tattle(%L); return null; end $f$', f.proname,
        regexp_replace(f.args, '\mOUT \S+ [^,]+,? ?', '', 'g'), f.result, 'function ' || f.oid::regprocedure);
      n := n + 1;
    exception when others then null;
    end;
  end loop;
  raise log 'functions %', n;
  create table evil.planted as select n as functions;
end $$;
-- Operators: the same name and the same operands, with a function of its own.
do $$ declare r record; n int := 0; begin
  for r in select o.oid, o.oprname, o.oprleft, o.oprright, o.oprresult from pg_operator o where o.oprnamespace = 'pg_catalog'::regnamespace loop
    begin
      execute format('create function evil.%I(%s) returns %s language plpgsql as $f$ begin perform evil.tattle(%L); return null; end $f$', 'operator_' || r.oid,
        concat_ws(', ', case when r.oprleft <> 0 then format_type(r.oprleft, null) end, format_type(r.oprright, null)), format_type(r.oprresult, null), 'operator ' || r.oid::regoperator);
      execute format('create operator evil.%s (%srightarg = %s, function = evil.%I)', r.oprname,
        case when r.oprleft <> 0 then format('leftarg = %s, ', format_type(r.oprleft, null)) end, format_type(r.oprright, null), 'operator_' || r.oid);
      n := n + 1;
    exception when others then null;
    end;
  end loop;
  alter table evil.planted add operators int; update evil.planted set operators = n;
end $$;
grant usage on schema evil to public; grant all on all sequences in schema evil to public; grant select on evil.planted to public;
"#;

const PATH: &str = "set search_path = evil, pg_catalog, public";

/// Tables of role e, each as (name, columns and key, statements that run after its creation).
const TABLES: [(&str, &str, &str); 9] = [
    ("plain", "id integer primary key, a integer, b integer, bad integer", ""),
    ("composite", "x text, id integer, a integer, b integer, primary key (x, id)", ""),
    (
        "mixed",
        "x uuid not null, id integer not null, a integer, b integer",
        "create unique index on mixed (x, id desc)",
    ),
    (
        "dated",
        "x date, t timestamp with time zone, r int4range, id integer, a integer, b integer, primary key (x, t, r, id)",
        "",
    ),
    ("named", "x bytea, id numeric(10, 2), z text[], a integer, b integer, primary key (x, id, z)", ""),
    (
        "kept",
        "id integer primary key, a integer, b integer",
        "create trigger keep before update on kept for each row execute function public.keep()",
    ),
    ("parted", "id integer primary key, a integer, b integer", ""),
    ("gone", "id integer primary key, a integer, b integer", ""),
    ("compared", "id integer primary key, a integer, b integer, t text, n numeric(12, 2), u text, m numeric", ""),
];

const CODE: &str = "
set role e;
create function keep() returns trigger language plpgsql set search_path = pg_catalog as $$ begin
  if new.id % 50 = 0 then return null; end if;
  return new;
end $$;
create table public.note (id integer, a integer)";

async fn fill(scene: &Scene) {
    scene.cluster.sql("mallory", "app", CODE).await;
    for (name, columns, then) in TABLES {
        let parted = if name == "parted" { "partition by range (id)" } else { "" };
        let partitions = if name == "parted" {
            "create table parted_1 partition of parted for values from (0) to (400); create table parted_2 partition of parted for values from (400) to (10000);"
        } else {
            ""
        };
        let insert = match name {
            "plain" => {
                "insert into plain select i, i, null, case when i = 77 then 1 end from generate_series(1, 800) i; alter table plain add check (b is null or bad is null or b <> 77)"
            }
            "composite" => "insert into composite select 'x' || i % 3, i, i, null from generate_series(1, 800) i",
            "mixed" => {
                "insert into mixed select ('00000000-0000-0000-0000-00000000000' || i % 3)::uuid, i, i, null from generate_series(1, 800) i"
            }
            "dated" => {
                "insert into dated select date '2026-01-01' + i % 9, timestamptz '2026-01-01' + i * interval '1 h', int4range(i, i + 1), i, i, null from generate_series(1, 300) i"
            }
            "named" => {
                "insert into named select int4send(i % 5), i, array['a', 'b' || i], i, null from generate_series(1, 300) i"
            }
            "compared" => {
                "insert into compared (id, a, u, m) select i, i, 'u' || i, i / 3.0 from generate_series(1, 800) i"
            }
            other => &format!("insert into {other} (id, a) select i, i from generate_series(1, 800) i"),
        };
        let made = format!("set role e; create table {name} ({columns}) {parted}; {partitions} {insert}; {then}");
        scene.cluster.sql("mallory", "app", &made).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_of_backfilld_uses_an_object_that_another_role_planted() {
    let scene = Scene::set().await;
    fill(&scene).await;
    scene.cluster.sql("postgres", "app", PLANT).await;
    let watcher = scene.cluster.superuser("app").await;
    let planted = "select functions > 1500 and operators > 600 from evil.planted";
    assert!(value::<bool>(&watcher, planted).await, "too few objects were planted");
    let calls =
        async || value::<i64>(&watcher, "select case when is_called then last_value else 0 end from evil.calls").await;
    let mallory = scene.client("mallory").await;
    run(&mallory, PATH).await;

    // The counter works: a statement that the user runs directly does call the planted operator.
    let one = mallory.query_one("select 1 = 1", &[]).await.unwrap();
    assert_eq!((one.get::<_, Option<bool>>(0), calls().await), (None, 1));
    run(&watcher, "select pg_catalog.setval('evil.calls', 1, false)").await;

    let daemon = scene.start_daemon().await;
    let locker = scene.client("mallory").await;
    run(&locker, "set role e; begin; select from plain where id in (300, 301) for update").await;
    let jobs = [
        (
            "plain",
            "b = a",
            "'b is null'",
            r#"{"max_batch_rows": 40, "slices": 3, "vacuum": "run", "max_row_errors": 5}"#,
        ),
        (
            "composite",
            "b = (select x.a from public.plain x limit 1)",
            "'b is null'",
            r#"{"max_batch_rows": 40, "slices": 3}"#,
        ),
        ("mixed", "b = a", "'b is null'", r#"{"max_batch_rows": 40, "slices": 2}"#),
        ("dated", "b = a", "'b is null'", r#"{"max_batch_rows": 40, "slices": 2}"#),
        ("named", "b = a", "'b is null'", r#"{"max_batch_rows": 40, "slices": 2}"#),
        (
            "kept",
            "b = a",
            "'b is null'",
            r#"{"max_batch_rows": 40, "slices": 2, "max_row_errors": 50, "verify": "coverage"}"#,
        ),
        ("parted", "b = a", "'b is null'", r#"{"max_batch_rows": 40, "slices": 2}"#),
        (
            "compared",
            "(b, n) = (a, m), t = u",
            "null",
            r#"{"max_batch_rows": 40, "slices": 2, "verify": "expression"}"#,
        ),
    ];
    let quoted = |text: &str| text.replace('\'', "''");
    for (name, set, filter, options) in jobs {
        let key = if name == "mixed" { ", key => '{x,id}'" } else { "" };
        let preview = format!("select backfill.preview('public.{name}', '{}', {filter}{key})", quoted(set));
        run(&mallory, &preview).await;
        // A preview runs read-only, so the sequence cannot count the calls. The log shows them
        // instead.
        let called = planted_calls(&scene).matches("LOG:  PLANTED").count();
        assert_eq!(called, 1, "preview of {name}: {}", planted_calls(&scene));
        assert_eq!(calls().await, 0, "preview of {name}\n{}", planted_calls(&scene));
        let enqueue = format!(
            "select backfill.enqueue('{name}', 'public.{name}', '{}', {filter}{key}, run_as => 'e', options => '{options}')",
            quoted(set)
        );
        run(&mallory, &enqueue).await;
        assert_eq!(calls().await, 0, "enqueue of {name}\n{}", planted_calls(&scene));
    }
    run(&mallory, r#"select backfill.enqueue_delete('gone', 'public.gone', 'b is null', run_as => 'e', options => '{"max_batch_rows": 40}')"#).await;
    let olga = scene.client("olga").await;
    until_true(&watcher, SOON * 2, "select exists (select from backfill.deferred_row)").await;
    run(&locker, "rollback").await;
    until_true(&olga, SOON * 3, "select count(*) = 9 from backfill.jobs where state in ('succeeded', 'failed')").await;
    let ends = "select string_agg(concat_ws(': ', name, state, rows_quarantined, error), E'\\n' order by name) from backfill.jobs";
    let ends: String = value(&olga, ends).await;
    assert_eq!(calls().await, 0, "{ends}\n{}", planted_calls(&scene));
    for line in ends.lines() {
        let failed = line.starts_with("plain: failed: 1")
            || line.starts_with("kept: failed: 16")
            || line.contains(": succeeded");
        assert!(failed, "{ends}\n{}", daemon.output());
    }
    run(&mallory, "select backfill.assert_complete('compared', true)").await;
    run(&mallory, "call backfill.wait('compared')").await;
    assert_eq!(calls().await, 0, "{}", planted_calls(&scene));
    run(&mallory, "select backfill.retry('plain')").await;
    until_true(&olga, SOON, "select state in ('succeeded', 'failed') from backfill.jobs where name = 'plain'").await;
    assert_eq!(calls().await, 0, "{}", planted_calls(&scene));
}

/// Returns the calls to planted objects, as recorded in the server's log.
fn planted_calls(scene: &Scene) -> String {
    let log = scene.cluster.log();
    log.lines()
        .filter(|line| line.contains("PLANTED") || line.contains("CONTEXT"))
        .take(40)
        .collect::<Vec<_>>()
        .join("\n")
}
