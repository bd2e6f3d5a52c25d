//! Tests the texts of refusals and of the daemon's errors, as a user reads them. `messages.txt`
//! contains these texts, and is compared only on PostgreSQL 15 with ICU. After a change to one of
//! these texts, regenerate the file with `BACKFILLD_WRITE_MESSAGES=1` and review it.

use std::fmt::Write as _;
use std::time::Duration;

use backfilld::error::{Error, Kind};
use backfilld::job::batch::{Batch, BatchMode};
use backfilld::job::checkpoint::Checkpoint;
use backfilld::key::Key;
use backfilld::window::Window;
use backfilld::worker::error_policy::{Action, Cause, action, deadly, deadly_to_all};
use backfilld_testbed::cluster::Options;
use tokio_postgres::Client;

use crate::support::{ServerError, installed, refused, run};

const TABLES: &str = r#"
create table t (id bigint primary key, u int, v int not null, w text, total numeric, total_cents bigint,
                g int generated always as (v + 1) stored, i bigint generated always as identity);
create table parted (id int) partition by range (id);
create table parent (id int primary key, c int);
create table child () inherits (parent);
create table split (id int not null, at date not null, c int) partition by range (at);
create table split_all partition of split default;
create table by_at (id int not null, at date not null, c int, g int) partition by range (at);
create table by_at_all partition of by_at (primary key (id)) default;
create table far (id int not null, c int) partition by range (id);
create table policed (id int primary key, c int);
alter table policed enable row level security;
alter table policed force row level security;
create table ruled (id int primary key, c int);
create rule r as on update to ruled do instead nothing;
create view v as select * from t;
create materialized view mv as select 1 as id;
create sequence s;
create temp table gone (id int primary key, c int);
create table whole (id int primary key, c int) partition by range (id);
create table whole_all partition of whole default;
create table keyless (id int, c int);
create table keyed (a int not null, b int not null, n int, e text not null, p int not null, ci text not null, o text not null, x int not null, c int);
create index on keyed (a);
create unique index keyed_nullable on keyed (n);
create unique index keyed_partial on keyed (p) where p > 0;
create unique index keyed_expression on keyed (lower(e));
create unique index keyed_opclass on keyed (o text_pattern_ops);
create table referred (id int primary key);
create table refers (id int primary key, r int references referred);
create table deferred (id int primary key, d int not null constraint deferred_d unique deferrable initially deferred, c int);
"#;

/// A type with ordering operators that have unusual names.
pub const PAIR: &str = "
create type public.pair as (a int);
create function public.pair_cmp(public.pair, public.pair) returns int language sql immutable as 'select btrecordcmp($1, $2)';
create function public.pair_lt(public.pair, public.pair) returns bool language sql immutable as 'select ($1).a < ($2).a';
create function public.pair_le(public.pair, public.pair) returns bool language sql immutable as 'select ($1).a <= ($2).a';
create function public.pair_eq(public.pair, public.pair) returns bool language sql immutable as 'select ($1).a = ($2).a';
create function public.pair_ge(public.pair, public.pair) returns bool language sql immutable as 'select ($1).a >= ($2).a';
create function public.pair_gt(public.pair, public.pair) returns bool language sql immutable as 'select ($1).a > ($2).a';
create operator public.#< (function = public.pair_lt, leftarg = public.pair, rightarg = public.pair);
create operator public.#<= (function = public.pair_le, leftarg = public.pair, rightarg = public.pair);
create operator public.#= (function = public.pair_eq, leftarg = public.pair, rightarg = public.pair);
create operator public.#>= (function = public.pair_ge, leftarg = public.pair, rightarg = public.pair);
create operator public.#> (function = public.pair_gt, leftarg = public.pair, rightarg = public.pair);
create operator class public.pair_ops default for type public.pair using btree as
  operator 1 public.#<, operator 2 public.#<=, operator 3 public.#=, operator 4 public.#>=, operator 5 public.#>,
  function 1 public.pair_cmp(public.pair, public.pair)";

/// The owner of the tables makes these calls, and each call is refused. In `messages.txt`, each
/// call is the heading of its refusal.
const ATTEMPTS: &[&str] = &[
    // The name.
    "backfill.enqueue('', 't', 'u = 1')",
    "backfill.enqueue('two words', 't', 'u = 1')",
    "backfill.enqueue(null, 't', 'u = 1')",
    "backfill.enqueue(repeat('x', 201), 't', 'u = 1')",
    // The target.
    "backfill.enqueue('j', 'nope', 'u = 1')",
    "backfill.enqueue('j', null, 'u = 1')",
    "backfill.enqueue('j', 4294967295::oid::regclass, 'u = 1')",
    "backfill.enqueue('j', 'v', 'u = 1')",
    "backfill.enqueue('j', 'mv', 'u = 1')",
    "backfill.enqueue('j', 'ft', 'u = 1')",
    "backfill.enqueue('j', 's', 'u = 1')",
    "backfill.enqueue('j', 'gone', 'c = 1')",
    "backfill.enqueue('j', 'pg_class', 'relname = 1')",
    "backfill.enqueue('j', 'backfill.job', 'priority = 1')",
    "backfill.enqueue('j', 'parted', 'id = 1')",
    "backfill.enqueue('j', 'parent', 'c = 1')",
    "backfill.enqueue('j', 'split', 'c = 1')",
    "backfill.enqueue('j', 'split', 'c = 1', key => '{id}')",
    "backfill.enqueue('j', 'by_at', 'at = now()')",
    "backfill.enqueue('j', 'by_at', 'id = 1')",
    "backfill.enqueue('j', 'far', 'c = 1')",
    "backfill.enqueue('j', 'policed', 'c = 1')",
    "backfill.enqueue('j', 'ruled', 'c = 1')",
    // The key.
    "backfill.enqueue('j', 'keyless', 'c = 1')",
    "backfill.enqueue('j', 't', 'u = 1', key => array['v']::name[])",
    "backfill.enqueue('j', 't', 'u = 1', key => '{}')",
    "backfill.enqueue('j', 't', 'u = 1', key => array['nope']::name[])",
    "backfill.enqueue('j', 'keyed', 'c = 1', key => array['a']::name[])",
    "backfill.enqueue('j', 'keyed', 'c = 1', key => array['n']::name[])",
    "backfill.enqueue('j', 'keyed', 'c = 1', key => array['p']::name[])",
    "backfill.enqueue('j', 'keyed', 'c = 1', key => array['e']::name[])",
    "backfill.enqueue('j', 'keyed', 'c = 1', key => array['ci']::name[])",
    "backfill.enqueue('j', 'keyed', 'c = 1', key => array['o']::name[])",
    "backfill.enqueue('j', 'keyed', 'c = 1', key => array['x']::name[])",
    "backfill.enqueue('j', 'paired', 'c = 1')",
    "backfill.enqueue('j', 'named', 'c = 1', key => '{ci}')",
    // The assigned columns.
    "backfill.enqueue('j', 't', 'nope = 1')",
    "backfill.enqueue('j', 't', 'id = id + 1')",
    "backfill.enqueue('j', 't', 'u = 1, \"id\" = 2')",
    "backfill.enqueue('j', 't', 'g = 1')",
    "backfill.enqueue('j', 't', 'i = 1')",
    "backfill.enqueue('j', 't', 'u = 1, u = 2')",
    "backfill.enqueue('j', 't', '(u, w) = (select 1, null), U = 2')",
    "backfill.enqueue('j', 't', 'w[1] = 2')",
    "backfill.enqueue('j', 't', 't.u = 2')",
    "backfill.enqueue('j', 't', 'ctid = null')",
    // Fragments that are invalid, fragments that are too long, and a window that is too long.
    "backfill.enqueue('j', 't', null)",
    "backfill.enqueue('j', 't', '')",
    "backfill.enqueue('j', 't', 'u')",
    "backfill.enqueue('j', 't', 'u = ')",
    "backfill.enqueue('j', 't', 'u = 1,')",
    "backfill.enqueue('j', 't', 'set u = 1')",
    "backfill.enqueue('j', 't', 'u = (1')",
    "backfill.enqueue('j', 't', 'u = 1)')",
    "backfill.enqueue('j', 't', 'u = (1]')",
    "backfill.enqueue('j', 't', 'w = ''open')",
    "backfill.enqueue('j', 't', 'w = $x$open')",
    "backfill.enqueue('j', 't', '\"u = 1')",
    "backfill.enqueue('j', 't', 'u = 1 /* open')",
    "backfill.enqueue('j', 't', 'u = 1; drop table t')",
    "backfill.enqueue('j', 't', E'w = e\\'a\\'\\n\\'b\\'')",
    "backfill.enqueue('j', 't', 'u = 1' || repeat(' + 1', 20000))",
    "backfill.enqueue('j', 't', 'u = 1', options => jsonb_build_object('window', jsonb_build_object('open', repeat(' ', 11000) || '0 22 * * *', 'hours', 6)))",
    "backfill.enqueue('j', 't', 'u = $1')",
    "backfill.enqueue('j', 't', 'u = 1 where true')",
    "backfill.enqueue('j', 't', 'u = x.v from t x')",
    "backfill.enqueue('j', 't', 'u = 1) returning (1')",
    "backfill.enqueue('j', 't', 'u = 1 +')",
    "backfill.enqueue('j', 't', 'u = vv + 1')",
    "backfill.enqueue('j', 't', 'u = ''one''')",
    "backfill.enqueue('j', 't', 'u = no_such_function(v)')",
    "backfill.enqueue('j', 't', 'u = sum(v)')",
    "backfill.enqueue('j', 't', 'v = now()')",
    "backfill.enqueue('j', 't', 'u = 1', 'u is null; drop table t')",
    "backfill.enqueue('j', 't', 'u = 1', 'true) or (true')",
    "backfill.enqueue('j', 't', 'u = 1', 'u = ''')",
    "backfill.enqueue('j', 't', 'u = 1', 'u + 1')",
    "backfill.enqueue('j', 't', 'u = 1', ' ')",
    "backfill.enqueue('j', 'whole', 'c = public.whole.id')",
    "backfill.enqueue('j', 't', 'u = 1', 'nope is null')",
    "backfill.enqueue('j', 't', repeat(' ', 65537) || 'u = 1')",
    // Options.
    "backfill.enqueue('j', 't', 'u = 1', options => '{\"slice\": 2}')",
    "backfill.enqueue('j', 't', 'u = 1', options => '[]')",
    "backfill.enqueue('j', 't', 'u = 1', options => null)",
    "backfill.enqueue('j', 't', 'u = 1', options => '{\"slices\": 0}')",
    "backfill.enqueue('j', 't', 'u = 1', options => '{\"slices\": 1.5}')",
    "backfill.enqueue('j', 't', 'u = 1', options => '{\"slices\": \"2\"}')",
    "backfill.enqueue('j', 't', 'u = 1', options => '{\"max_rows_per_second\": -1}')",
    "backfill.enqueue('j', 't', 'u = 1', options => '{\"max_batch_rows\": 1000000}')",
    "backfill.enqueue('j', 't', 'u = 1', options => '{\"target_batch_ms\": 0}')",
    "backfill.enqueue('j', 't', 'u = 1', options => '{\"verify\": \"maybe\"}')",
    "backfill.enqueue('j', 't', 'u = 1', options => '{\"verify\": \"filter\"}')",
    "backfill.enqueue('j', 't', 'u = 1', options => '{\"vacuum\": true}')",
    "backfill.enqueue('j', 't', 'u = 1', options => '{\"walk\": \"backwards\"}')",
    "backfill.enqueue('j', 't', 'u = 1', options => '{\"window\": \"nights\"}')",
    "backfill.enqueue('j', 't', 'u = 1', options => '{\"window\": {\"open\": \"22\", \"hours\": 6}}')",
    "backfill.enqueue('j', 't', 'u = 1', options => '{\"window\": {\"open\": \"0 22 * * *\", \"hours\": 600}}')",
    "backfill.enqueue('j', 't', 'u = 1', options => '{\"window\": {\"open\": \"0 22 * * *\", \"hours\": 6, \"time_zone\": \"Mars\"}}')",
    "backfill.enqueue('j', 't', 'u = 1', options => '{\"deadline\": \"soon\"}')",
    "backfill.enqueue('j', 't', 'u = 1', options => '{\"deadline\": 5}')",
    "backfill.enqueue('j', 't', 'u = 1', priority => null)",
    // Roles.
    "backfill.enqueue('j', 't', 'u = 1', run_as => 'nobody_here')",
    "backfill.enqueue('j', 't', 'u = 1', run_as => 'postgres')",
    // Another spec under the same name. The existing job `taken` has the spec `u = 1` with the
    // filter `u is null`.
    "backfill.enqueue('taken', 't', 'u = 2', 'u is null')",
    "backfill.enqueue('taken', 't', 'u = 1', 'u is not null')",
    "backfill.enqueue('taken', 't', 'u = 1')",
    "backfill.enqueue('taken', 'keyless', 'u = 1', 'u is null')",
    "backfill.enqueue('taken', 't', 'u = 1', 'u is null', key => '{id}')",
    "backfill.enqueue('taken', 't', 'u = 1', 'u is null', run_as => 'owner')",
    // Deletes.
    "backfill.enqueue_delete('j', 't', null)",
    "backfill.enqueue_delete('j', 't', ' ')",
    "backfill.enqueue_delete('j', 't', 'nope = 1')",
    "backfill.enqueue_delete('j', 't', 'u = 1; drop table t')",
    "backfill.enqueue_delete('j', 'v', 'u = 1')",
    "backfill.enqueue_delete('j', 't', 'u = 1', options => '{\"verify\": \"expression\"}')",
    "backfill.enqueue_delete('j', 'keyless', 'c = 1')",
    "backfill.enqueue_delete('j', 'referred', 'id > 1')",
    "backfill.enqueue_delete('taken', 't', 'u is null')",
    // `preview`.
    "backfill.preview('t', 'nope = 1')",
    "backfill.preview('t', null)",
    "backfill.preview('referred', null, 'id > 1')",
    // Control functions, `assert_complete`, and verification by expression.
    "backfill.pause('nope')",
    "backfill.resume('done')",
    "backfill.pause('done')",
    "backfill.cancel('done')",
    "backfill.approve('done')",
    "backfill.approve('taken')",
    "backfill.retry('taken')",
    "backfill.rerun('taken')",
    "backfill.forget('taken')",
    "backfill.retry('good')",
    "backfill.retry('old')",
    "backfill.tune('taken', '{\"slice\": 2}')",
    "backfill.tune('taken', null)",
    "backfill.assert_complete('nope')",
    "backfill.assert_complete('taken')",
    "backfill.assert_complete('done')",
    "backfill.assert_complete('good', whole_table => true)",
    "backfill.enqueue('j', 't', 'u = u + 1', options => '{\"verify\": \"expression\"}')",
    "backfill.enqueue('j', 't', 'u = (select 1)', options => '{\"verify\": \"expression\"}')",
    "backfill.assert_complete('unproven')",
];

/// Rollout specs, each of which is refused.
const ROLLOUTS: &[&str] = &[
    r#"{}"#,
    r#"{"rollout": "r"}"#,
    r#"{"rollout": "two words", "table": "t", "add_column": {"name": "x", "type": "int"}}"#,
    r#"{"rollout": "r", "table": "nope", "add_column": {"name": "x", "type": "int"}}"#,
    r#"{"rollout": "r", "table": "t", "colour": "red", "add_column": {"name": "x", "type": "int"}}"#,
    r#"{"rollout": "r", "table": "t", "add_column": {"name": "x"}}"#,
    r#"{"rollout": "r", "table": "t", "add_column": {"name": "u", "type": "int"}}"#,
    r#"{"rollout": "r", "table": "t", "add_column": {"name": "x", "type": "nope"}}"#,
    r#"{"rollout": "r", "table": "t", "add_column": {"name": "x", "type": "serial"}}"#,
    r#"{"rollout": "r", "table": "t", "add_column": {"name": "x", "type": "int", "not_null": true}}"#,
    r#"{"rollout": "r", "table": "t", "add_column": {"name": "x", "type": "int", "using": "u", "default": "1"}}"#,
    r#"{"rollout": "r", "table": "t", "add_column": {"name": "x", "type": "int", "using": "g"}}"#,
    r#"{"rollout": "r", "table": "t", "add_column": {"name": "x", "type": "int", "using": "(select 1)"}}"#,
    r#"{"rollout": "r", "table": "t", "add_column": {"name": "x", "type": "float8", "using": "random()"}}"#,
    r#"{"rollout": "r", "table": "t", "add_column": {"name": "x", "type": "date", "using": "date 'today'"}}"#,
    r#"{"rollout": "r", "table": "t", "add_column": {"name": "x", "type": "int", "using": "nope + 1"}}"#,
    r#"{"rollout": "r", "table": "t", "add_column": {"name": "x", "type": "int", "check": "x >"}}"#,
    r#"{"rollout": "r", "table": "t", "add_column": {"name": "x", "type": "int", "references": "nope (id)"}}"#,
    r#"{"rollout": "r", "table": "t", "add_column": {"name": "x", "type": "int", "references": "t (u)"}}"#,
    r#"{"rollout": "r", "table": "t", "add_column": {"name": "x", "type": "int", "index": {"method": "nope"}}}"#,
    r#"{"rollout": "r", "table": "split", "add_column": {"name": "x", "type": "int", "unique": true}}"#,
    r#"{"rollout": "r", "table": "split_all", "add_column": {"name": "x", "type": "int"}}"#,
    r#"{"rollout": "r", "table": "parent", "add_column": {"name": "x", "type": "int"}}"#,
    r#"{"rollout": "r", "table": "keyless", "add_column": {"name": "x", "type": "int", "using": "c"}}"#,
    r#"{"rollout": "r", "table": "t", "sync": "by hand", "add_column": {"name": "x", "type": "int"}}"#,
    r#"{"rollout": "r", "table": "t", "until": "done", "add_column": {"name": "x", "type": "int"}}"#,
    r#"{"rollout": "r", "table": "t", "backfill": {"slice": 2}, "add_column": {"name": "x", "type": "int", "using": "u"}}"#,
    r#"{"rollout": "taken", "table": "t", "add_column": {"name": "y", "type": "text"}}"#,
    r#"{"rollout": "r", "table": "t", "add_column": {"name": "y", "type": "int"}}"#,
];

/// Rollout commands, each of which is refused.
const ROLLOUT_COMMANDS: &[&str] = &[
    "backfill.rollout_pause('nope')",
    "backfill.rollout_advance('taken')",
    "backfill.rollout_advance('paused')",
    "backfill.rollout_advance('failed')",
    "backfill.rollout_advance('leaving')",
    "backfill.rollout_resume('left')",
    "backfill.rollout_rollback('finished')",
    "backfill.rollout_advance('finished')",
    "backfill.rollout_rollback('contracting')",
];

/// `clerk`, a submitter that owns only table `mine`, makes these calls, and each call is refused.
const SUBMITTERS: &[&str] = &[
    "backfill.rollout_start('{\"rollout\": \"r\", \"table\": \"t\", \"add_column\": {\"name\": \"z\", \"type\": \"int\"}}')",
    "backfill.rollout_start('{\"rollout\": \"taken\", \"table\": \"mine\", \"add_column\": {\"name\": \"z\", \"type\": \"int\"}}')",
    "backfill.rollout_pause('taken')",
    "backfill.enqueue('j', 't', 'u = 1')",
    "backfill.enqueue_delete('j', 't', 'u = 1')",
    "backfill.preview('t', 'u = 1')",
    "backfill.enqueue('j', 't', 'u = 1', options => '{\"throttle\": \"off\"}')",
    "backfill.enqueue('j', 'by_at', 'c = 1')",
    "backfill.enqueue('j', 't', 'u = 1', run_as => 'owner')",
    "backfill.enqueue('taken', 't', 'u = 2')",
    "backfill.enqueue('j', 'mine', 'c = 1', priority => -101)",
    "backfill.pause('taken')",
    "backfill.approve('mine')",
    "backfill.tune('mine', '{\"throttle\": \"off\"}')",
    "backfill.pause_all()",
    "backfill.resume_all()",
];

#[tokio::test]
async fn every_refusal_names_the_thing_the_reason_and_the_remedy() {
    let cluster = installed(Options::default()).await;
    let icu = cluster
        .superuser("app")
        .await
        .batch_execute("create collation public.caseless (provider = icu, locale = 'und', deterministic = false)")
        .await
        .is_ok();
    cluster.sql("postgres", "app", "create extension if not exists file_fdw; create server files foreign data wrapper file_fdw;
        create foreign table ft (id int, u int) server files options (filename '/dev/null'); alter foreign table ft owner to owner").await;
    let owner = cluster.owner().await;
    run(&owner, TABLES).await;
    if icu {
        run(&owner, "create unique index keyed_caseless on keyed (ci collate public.caseless);
            create type named_key as (n int, name text collate public.caseless); create table named (ci named_key primary key, c int)").await;
    }
    cluster.sql("postgres", "app", PAIR).await;
    run(&owner, "create table paired (k pair primary key, c int)").await;
    run(&owner, "grant select, update on by_at to backfill_submitter").await;
    cluster
        .sql(
            "postgres",
            "app",
            "create foreign table far_ft partition of far default server files options (filename '/dev/null')",
        )
        .await;
    run(&owner, "create unique index keyed_invalid on keyed (x)").await;
    cluster.sql("postgres", "app", "update pg_index set indisvalid = false where indexrelid = 'keyed_invalid'::regclass;
        create role clerk login in role backfill_submitter; create table mine (id int primary key, c int); alter table mine owner to clerk").await;
    run(&owner, "select backfill.enqueue('taken', 't', 'u = 1', 'u is null'); select backfill.enqueue('done', 't', 'u = 1');
        select backfill.enqueue('good', 't', 'u = 1'); select backfill.enqueue('unproven', 't', 'u = 1', options => '{\"verify\": \"none\"}');
        select backfill.cancel('done'); select backfill.enqueue('old', 't', 'u = 1');
        update backfill.job set state = 'failed', plan = '{}', finished_at = '2026-01-31', pruned_at = '2026-05-01' where name = 'old';
        update backfill.job set state = 'succeeded', finished_at = now(), verified_at = now() where name = 'good';
        update backfill.job set state = 'succeeded', finished_at = now() where name = 'unproven'").await;
    let clerk = cluster.client("clerk", "app").await;
    run(&clerk, "select backfill.enqueue('mine', 'mine', 'c = 1', needs_approval => true)").await;

    for (name, change) in [
        ("taken", "name = name"),
        ("paused", "desired_state = 'paused'"),
        ("failed", "state = 'failed'"),
        ("leaving", "state = 'rolling_back', backwards = true"),
        ("left", "state = 'rolled_back', finished_at = now()"),
        ("finished", "state = 'done', stage = 'contracted', finished_at = now()"),
        ("contracting", "stage = 'contracted'"),
    ] {
        let column = if name == "taken" { "y".to_owned() } else { format!("y_{name}") };
        run(&owner, &format!(r#"select backfill.rollout_start('{{"rollout": "{name}", "table": "t", "add_column": {{"name": "{column}", "type": "int"}}}}'); update backfill.rollout set {change} where name = '{name}'"#)).await;
    }

    let mut page = String::new();
    collect(&mut page, &owner, ATTEMPTS, icu).await;
    let _ = writeln!(page, "# Rollouts\n");
    for spec in ROLLOUTS {
        let attempt = format!("backfill.rollout_start('{}')", spec.replace('\'', "''"));
        let sql = format!("select backfill.rollout_start($spec${spec}$spec$)");
        write(&mut page, &attempt, &refused(&owner, &sql).await);
    }
    collect(&mut page, &owner, ROLLOUT_COMMANDS, icu).await;
    let _ = writeln!(page, "# As a submitter\n");
    collect(&mut page, &clerk, SUBMITTERS, icu).await;
    let _ = writeln!(page, "# Waiting\n");
    for (attempt, sql) in [
        ("call backfill.wait('nope')", "call backfill.wait('nope')"),
        ("call backfill.wait('done')", "call backfill.wait('done')"),
        ("call backfill.wait('taken', '0 s')", "call backfill.wait('taken', '0 s')"),
    ] {
        write(&mut page, attempt, &refused(&owner, sql).await);
    }
    run(&owner, "begin").await;
    write(&mut page, "begin; call backfill.wait('taken')", &refused(&owner, "call backfill.wait('taken')").await);

    let _ = writeln!(page, "\n# The daemon: errors of a batch, and the response to each\n");
    for kind in Kind::ALL {
        let (what, sentence) = action(kind);
        if what == Action::Fail && kind != Kind::Refused {
            continue;
        }
        let _ = writeln!(page, "{kind:?}\n  {what:?}: {sentence}\n");
    }
    let _ = writeln!(page, "# The daemon: errors of failed jobs and of quarantined rows\n");
    let cause = || Error::new(Kind::Statement, "what the server said");
    let checkpoint = Checkpoint { position: Some(Key(vec!["41".into()])), done: false, ctid: String::new() };
    let batch = Batch { checkpoint, upper: Key(vec!["99".into()]), rows: 1, mode: BatchMode::Fast };
    let two_seconds = Duration::from_secs(2);
    for error in [
        Cause::RowTooSlow.tell(&batch, cause(), two_seconds),
        Cause::RowCancelled.tell(&batch, cause(), two_seconds),
        Cause::Statement.tell(&batch, cause(), two_seconds),
        Cause::NoRow.tell(&batch, cause(), two_seconds),
        Cause::Row.tell(&batch, cause(), two_seconds),
        deadly("what the server said", None),
        deadly("what the server said", Some("57P01")),
        deadly_to_all("what the server said"),
        Window::read(&serde_json::json!({"open": "61 * * * *", "hours": 1})).unwrap_err(),
        Window::read(&serde_json::json!({"open": "0 0 30 2 *", "hours": 1})).unwrap_err(),
        Window::read(&serde_json::json!({"open": "0 0 * * *", "hours": 1, "time_zone": "Mars"})).unwrap_err(),
    ] {
        let _ = writeln!(page, "{error}\n");
    }

    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/messages.txt");
    if std::env::var_os("BACKFILLD_WRITE_MESSAGES").is_some() {
        std::fs::write(file, &page).unwrap();
    }
    let kept = std::fs::read_to_string(file).unwrap_or_default();
    if !icu || cluster.major() != 15 {
        return; // The texts and collations of the server differ from version to version.
    }
    for (line, (is, was)) in page.lines().zip(kept.lines()).enumerate() {
        assert_eq!(is, was, "messages.txt, line {}; BACKFILLD_WRITE_MESSAGES=1 regenerates it", line + 1);
    }
    assert_eq!(page.lines().count(), kept.lines().count(), "messages.txt; BACKFILLD_WRITE_MESSAGES=1 regenerates it");
}

async fn collect(page: &mut String, client: &Client, attempts: &[&str], icu: bool) {
    for attempt in attempts {
        if !icu && attempt.contains("'ci'") {
            continue;
        }
        let refusal = refused(client, &format!("select {attempt}")).await;
        // The server itself refuses a table name that it cannot convert to regclass. The server's
        // message is clear enough, so backfilld has no message of its own for this error.
        let ours =
            refusal.sqlstate.starts_with("BF00") || refusal.sqlstate == "42501" || attempt.contains("'nope', 'u = 1'");
        assert!(ours, "{attempt}: {refusal:?}");
        if refusal.sqlstate.starts_with("BF00") {
            let said = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
            assert!(said(&refusal.detail) && said(&refusal.hint), "{attempt}: {refusal:?}");
        }
        write(page, attempt, &refusal);
    }
}

fn write(page: &mut String, attempt: &str, refusal: &ServerError) {
    let ServerError { sqlstate, message, detail, hint } = refusal;
    let short = |text: &str| text.replace(&"x".repeat(201), "xxx...").replace('\n', "\\n");
    let _ = writeln!(page, "{attempt}\n  {sqlstate}: {}", short(message));
    for (what, text) in [("detail", detail), ("hint", hint)] {
        if let Some(text) = text {
            let _ = writeln!(page, "  {what}: {}", short(text));
        }
    }
    page.push('\n');
}
