//! The code of a job runs in the executor's session and can leave the role that the daemon has set.
//! These tests show that the code gains no privileges when it leaves this role. They also show that
//! doctor reports an executor if its session would give additional privileges to the code.
//!
//! Function `steal` is an example of such a job's code. It tries many ways to leave its role. Each
//! time, it then tries to access objects of the control login and of other roles. It also tries to
//! do what only a superuser may do. `steal` reports to the server's log, because a failed batch
//! would roll back a report in a table.

use std::collections::BTreeSet;

use backfilld_testbed::wait;

use super::Scene;
use crate::support::{SOON, run, value};

/// Creates `steal` and two functions that call it. `way` names the way in which the job runs
/// `steal`. `steal` logs the session's user. From this log the test learns whether the executor ran
/// `steal`.
const STEAL: &str = r#"
set role e;
create function steal(way text) returns int language plpgsql volatile as $f$
declare
  leave text;
  take text;
begin
  raise log 'TRIED % session=% current=%', way, session_user, current_user;
  foreach leave in array array[
    'select 1', 'reset role', 'set role none', 'set local role none', $$select set_config('role', 'none', false)$$,
    'set role ctl', $$select set_config('role', 'ctl', true)$$, 'set role x_f', 'set role f', 'set role postgres',
    'set session authorization ctl', 'set session authorization postgres', 'set session authorization default',
    'reset session authorization', $$select set_config('session_authorization', 'ctl', false)$$, 'reset all',
    $$declare held cursor with hold for select 1 from vault.secret$$, $$set search_path = backfill, vault, public$$] loop
    begin
      execute leave;
    exception when others then null;
    end;
    foreach take in array array[
      'select v from vault.secret', 'insert into vault.secret values (1)', 'create table backfill.mine ()', 'create table vault.mine ()',
      'create function backfill.advance() returns int language sql return 1',
      'select * from backfill.job', 'update backfill.job set run_as = ''ctl''', 'select token from backfill.lease', 'delete from backfill.lease',
      'update backfill.checkpoint set done = true', 'insert into backfill.executor (login, run_as) values (''x_e'', ''f'')',
      'insert into backfill.event (kind, message) values (''x'', ''forged'')', 'select * from backfill.row_error', 'select * from backfill.job_secret',
      'select backfill._register_executor(''x_e'', ''f'', true)', 'select backfill._claim(gen_random_uuid(), ''{f,e}'', ''1 h'', 9)',
      'select backfill._finish(1, gen_random_uuid())', 'select backfill._fail(1, gen_random_uuid(), '''', '''')', 'update backfill.quota set live_jobs = 0',
      'select * from f_table', 'update f_table set a = 1', 'grant f to e', 'grant ctl to e', 'alter role x_e superuser', 'create role mallory_2 superuser',
      'alter role ctl password ''x''', 'copy (select 1) to program ''true''', 'copy (select 1) to ''/tmp/mallory''', 'select pg_read_file(''PG_VERSION'')',
      'alter system set log_statement = ''all''', 'create event trigger mine on ddl_command_start execute function public.steal()',
      'alter schema backfill rename to ours', 'alter function backfill._lex(text, text) owner to e', 'drop schema backfill cascade',
      'create extension file_fdw', 'select * from pg_authid', 'lock table backfill.job', 'truncate backfill.job'] loop
      begin
        execute take;
        raise log 'LOOT % after <%> took <%> as %', way, leave, take, current_user;
      exception when others then null;
      end;
    end loop;
  end loop;
  -- Hide the attempt: restore the role and the search path.
  begin
    perform set_config('role', 'e', false), set_config('search_path', 'public', false);
  exception when others then null;
  end;
  return 1;
end $f$;
create function pure_steal(way text, n int) returns int language plpgsql immutable as $f$ begin perform public.steal(way); return n; end $f$;
create function steal_row() returns trigger language plpgsql as $f$ begin perform public.steal(tg_argv[0]); return new; end $f$;
"#;

/// The ways to run `steal`, each as (name, setup, `set`, `filter`). Each way has a table of the
/// same name with one row. Its job may succeed or fail.
const WAYS: &[(&str, &str, &str, &str)] = &[
    ("expression", "", "a = steal('expression')", ""),
    ("filter", "", "a = 1", "steal('filter') = 1"),
    ("subquery", "", "a = (select public.steal('subquery'))", ""),
    ("folded", "", "a = pure_steal('folded', 1)", ""),
    ("before_row", "create trigger t before update on before_row for each row execute function steal_row('before_row')", "a = 1", ""),
    ("after_row", "create trigger t after update on after_row for each row execute function steal_row('after_row')", "a = 1", ""),
    ("statement", "create trigger t after update on statement for each statement execute function steal_row('statement')", "a = 1", ""),
    (
        "deferred",
        "create constraint trigger t after update on deferred deferrable initially deferred for each row execute function steal_row('deferred')",
        "a = 1",
        "",
    ),
    (
        "deferred_again",
        "create table second (id int primary key, a int); insert into second values (1);
         create constraint trigger t after update on second deferrable initially deferred for each row execute function steal_row('deferred_again');
         create function defer_again() returns trigger language plpgsql as $f$ begin set constraints all deferred; update second set a = 1; return null; end $f$;
         create constraint trigger t after update on deferred_again deferrable initially deferred for each row execute function defer_again()",
        "a = 1",
        "",
    ),
    ("domain", "create domain stolen as int check (pure_steal('domain', value) > 0); alter table domain alter a type stolen", "a = 1", ""),
    ("cast", "create domain stolen_2 as int check (pure_steal('cast', value) > 0)", "a = 1::stolen_2", ""),
    ("check", "alter table \"check\" add check (pure_steal('check', a) is not null or a is null)", "a = 1", ""),
    ("index", "create index on index (pure_steal('index', a))", "a = 1", ""),
    ("predicate", "create index on predicate (a) where pure_steal('predicate', a) > 0", "a = 1", ""),
    ("generated", "alter table generated add g int generated always as (pure_steal('generated', a)) stored", "a = 1", ""),
    (
        "policy",
        "create table guarded (id int); insert into guarded values (1); alter table guarded enable row level security; alter table guarded force row level security;
         create policy p on guarded using (pure_steal('policy', id) = 1);
         create function look() returns int language sql volatile set row_security = on as 'select count(*)::int from guarded'",
        "a = look()",
        "",
    ),
    (
        "cascade",
        "alter table cascade add unique (a);
         create table child (a int references cascade (a) on update cascade); create trigger t before update on child for each row execute function steal_row('cascade');
         update cascade set a = 5; insert into child values (5)",
        "a = 1",
        "",
    ),
    ("operator", "create function op(int, int) returns int language plpgsql as $f$ begin return public.steal('operator'); end $f$; create operator public.+ (leftarg = int, rightarg = int, function = op)", "a = id operator(public.+) 1", ""),
    ("definer", "create function d() returns int language sql volatile security definer as $f$ select public.steal('definer') $f$", "a = d()", ""),
    ("verify", "", "a = 1", "a is distinct from pure_steal('verify', 1)"),
    ("view", "create view v as select public.steal('view') as s", "a = (select s from v)", ""),
    ("default_value", "alter table default_value alter a set default steal('default_value')", "a = default", ""),
];

/// Returns the ways in which the executor's login ran `steal`, according to the log. Also returns a
/// line for each statement of `steal` that the server should have refused but executed.
fn tried_and_taken(log: &str) -> (BTreeSet<String>, Vec<String>) {
    let after = |mark: &str| {
        let mark = format!("{mark} ");
        log.lines().filter_map(move |line| line.split_once(&mark).map(|(_, rest)| rest.to_owned())).collect::<Vec<_>>()
    };
    let tried = after("LOG:  TRIED").into_iter().filter(|rest| rest.contains("session=x_e"));
    let ways = tried.map(|rest| rest.split(' ').next().unwrap().to_owned()).collect();
    (ways, after("LOG:  LOOT"))
}

async fn enqueue_all(scene: &Scene) {
    scene
        .cluster
        .sql("postgres", "app", "create table f_table (id int primary key, a int); alter table f_table owner to f")
        .await;
    scene.cluster.sql("mallory", "app", STEAL).await;
    let e = scene.as_e().await;
    for (way, setup, set, filter) in WAYS {
        run(&e, &format!("create table \"{way}\" (id int primary key, a int); insert into \"{way}\" values (1)")).await;
        if !setup.is_empty() {
            run(&e, setup).await;
        }
        let filter = if filter.is_empty() { "null".to_owned() } else { format!("$q${filter}$q$") };
        // During enqueue, PostgreSQL evaluates constant expressions in mallory's session. After
        // `steal` has run, the current role of this session is `e`, of which mallory is a member
        // anyway. Each way to run `steal` therefore uses a new session.
        let mallory = scene.client("mallory").await;
        run(&mallory, &format!("select backfill.enqueue('{way}', '\"{way}\"', $q${set}$q$, {filter}, run_as => 'e')"))
            .await;
    }
    let mallory = scene.client("mallory").await;
    run(&mallory, "select * from backfill.preview('expression', $q$a = steal('preview')$q$)").await;
}

async fn until_all_ended(scene: &Scene) {
    let olga = scene.client("olga").await;
    wait::until(3 * SOON, "all jobs have ended", async || {
        value::<i64>(&olga, "select count(*) from backfill.jobs where state not in ('succeeded', 'failed')").await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_that_leaves_its_role_gains_nothing() {
    let scene = Scene::set().await;
    enqueue_all(&scene).await;
    let daemon = scene.start_daemon().await;
    until_all_ended(&scene).await;
    let (ways, loot) = tried_and_taken(&scene.cluster.log());
    assert_eq!(loot, [] as [String; 0]);
    let all: BTreeSet<String> = WAYS.iter().map(|(way, ..)| (*way).to_owned()).collect();
    assert_eq!(ways, all, "the executor did not run steal in all of the ways");
    assert_eq!(
        scene.cluster.value::<String>("postgres", "app", "select string_agg(v, ',') from vault.secret").await,
        "the secret"
    );

    // The jobs of other roles run as usual.
    scene.cluster.sql("postgres", "app", "insert into f_table select generate_series(1, 100)").await;
    let alice = scene.client("alice").await;
    run(&alice, "select backfill.enqueue('innocent', 'f_table', 'a = id', run_as => 'f')").await;
    let olga = scene.client("olga").await;
    let done = "select count(*) = 1 from backfill.jobs where name = 'innocent' and state = 'succeeded'";
    wait::until(SOON, "a job of another role is done", async || value::<bool>(&olga, done).await).await;
    drop(daemon);
}

/// Shows that the previous test can fail. Here the executor's login is a member of the role that
/// owns schema backfill. A job can then read the vault, and doctor reports the membership.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_with_extra_rights_exposes_them_and_doctor_reports_it() {
    let scene = Scene::set().await;
    scene.cluster.sql("postgres", "app", "grant ctl to x_e").await;
    scene.cluster.sql("postgres", "app", "create table f_table (id int primary key, a int)").await;
    scene.cluster.sql("mallory", "app", STEAL).await;
    scene.table("one", 1).await;
    let daemon = scene.start_daemon().await;
    let mallory = scene.client("mallory").await;
    run(&mallory, "select backfill.enqueue('one', 'one', $q$a = steal('expression')$q$, run_as => 'e')").await;
    wait::until(SOON, "the secret of the vault is read", async || {
        tried_and_taken(&scene.cluster.log()).1.iter().any(|loot| loot.contains("select v from vault.secret"))
    })
    .await;
    let found = scene.doctor().await;
    assert!(
        found
            .iter()
            .any(|line| line.contains("\"x_e\" is also a member of ctl") && line.contains("revoke ctl from x_e;")),
        "{found:#?}"
    );
    drop(daemon);
}

/// An executor's login should be a direct member of exactly one role, and have no other
/// memberships, privileges, attributes, settings or objects. Doctor reports each deviation, and
/// prints a remedy if there is one. The test undoes most deviations with these remedies. At the
/// end, doctor finds no deviation.
#[tokio::test]
async fn doctor_finds_each_extra_right_of_an_executor_and_its_remedy_revokes_it() {
    let scene = Scene::set().await;
    scene
        .cluster
        .sql(
            "ctl",
            "app",
            "select backfill._register_executor('x_e', 'e', false), backfill._register_executor('x_f', 'f', false)",
        )
        .await;
    let clean = scene.doctor().await;
    assert!(clean.len() == 2 && clean.iter().all(|line| line.starts_with("ok ")), "{clean:#?}");
    for (given, found, taken) in [
        ("alter role x_e superuser", "is a superuser", "alter role x_e nosuperuser;"),
        ("alter role x_e createrole", "has the attribute createrole", "alter role x_e nocreaterole;"),
        ("alter role x_e createdb", "has the attribute createdb", "alter role x_e nocreatedb;"),
        ("alter role x_e bypassrls", "has the attribute bypassrls", "alter role x_e nobypassrls;"),
        ("alter role x_e replication", "has the attribute replication", "alter role x_e noreplication;"),
        ("grant f to x_e", "is also a member of f", "revoke f from x_e;"),
        ("grant ctl to e", "may become the owner of schema backfill", ""),
        (
            "create table public.own (); alter table public.own owner to x_e",
            "owns objects in the databases of this cluster (1 in total)",
            "",
        ),
        (
            "grant select on backfill.jobs to x_e",
            "has a privilege of its own on table backfill.jobs",
            "revoke all on table backfill.jobs from x_e;",
        ),
        (
            "grant usage on schema backfill to x_e",
            "has a privilege of its own on schema backfill",
            "revoke all on schema backfill from x_e;",
        ),
        (
            "grant execute on function backfill.advance(bigint, uuid, tid, text[], text[], bigint, bigint, bigint, boolean) to x_e",
            "has a privilege of its own on routine backfill.advance",
            "",
        ),
        ("grant e to x_e with admin option", "may grant e to any role", "revoke admin option for e from x_e;"),
        (
            "alter role x_e set transform_null_equals = on",
            "has settings of its own: transform_null_equals",
            "alter role x_e reset all;",
        ),
        (
            "create table public.own (); grant select on public.own to x_e",
            "has privileges of its own on objects of this cluster (1 in total)",
            "drop owned by x_e;",
        ),
        (
            "grant create on database app to x_e",
            "has privilege CREATE on database app",
            "revoke CREATE on database app from x_e;",
        ),
        ("grant x_e to f", "is granted to f", "revoke x_e from f;"),
        (
            "create role between; grant e to between; grant between to x_e; revoke e from x_e",
            "is not a direct member of e",
            "grant e to x_e;",
        ),
    ] {
        scene.cluster.sql("postgres", "app", given).await;
        let reported = scene.doctor().await;
        let line = reported.iter().find(|line| line.starts_with("fail ") && line.contains(&format!("\"x_e\" {found}")));
        let line = line.unwrap_or_else(|| panic!("{given}: {reported:#?}"));
        assert!(line.contains(taken), "{given}: {line}");
        let undo = match given {
            "grant ctl to e" => "revoke ctl from e",
            _ if given.starts_with("create table") => "drop table public.own",
            _ if given.starts_with("grant execute") => "revoke all on all functions in schema backfill from x_e",
            _ if given.starts_with("create role") => "grant e to x_e; revoke between from x_e",
            _ => taken,
        };
        scene.cluster.sql("postgres", "app", undo).await;
    }
    let clean = scene.doctor().await;
    assert!(clean.iter().all(|line| line.starts_with("ok ")), "{clean:#?}");
}
