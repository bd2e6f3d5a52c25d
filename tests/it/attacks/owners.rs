//! Code of the owner of a table runs in sessions of another role: triggers while rows are changed,
//! and immutable functions while a statement is planned. With a single url, the other role would be
//! the control login.

use backfilld_testbed::daemon::Daemon;

use super::Scene;
use crate::enqueue::notices;
use crate::support::{BACKFILLD, SOON, refused, run, until_true, value};

/// Returns a configuration with one url and no executors.
fn one_url(scene: &Scene, more: &str) -> String {
    format!("lease: {{poll_ms: 100}}\ndatabases:\n  - name: main\n    url: {}\n{more}", scene.cluster.url("ctl", "app"))
}

async fn daemon_with(scene: &Scene, more: &str) -> Daemon {
    let daemon = Daemon::builder(BACKFILLD, &scene.cluster.url("ctl", "app")).config(one_url(scene, more)).start();
    daemon.wait_ready(SOON).await;
    daemon
}

/// Each of these statements lets role `e` run code when rows of table `t` of `ctl` are changed.
const PLANTED: &[&str] = &[
    "alter table t owner to e",
    "grant trigger on t to e",
    "grant trigger on t to public",
    "create function theirs() returns trigger language plpgsql as 'begin return new; end'; alter function theirs owner to e;
     create trigger theirs before update on t for each row execute function theirs()",
    "create function theirs(int) returns int immutable language sql as 'select $1'; alter function theirs owner to e; create index on t (theirs(a))",
    "create function theirs(int) returns bool immutable language sql as 'select true'; alter function theirs owner to e; alter table t add check (theirs(a))",
    "create function theirs() returns int language sql as 'select 1'; alter function theirs owner to e; alter table t add column d int default theirs()",
    "create function theirs(int) returns bool immutable language sql as 'select true'; alter function theirs owner to e;
     create domain checked as int check (theirs(value)); alter table t add column d checked",
    "create table child () inherits (t); alter table child add primary key (id); alter table child owner to e",
    "create table child (id int references t on delete cascade); alter table child owner to e",
    "grant references on t to e",
    "grant references (id) on t to e",
    "create domain checked as int; alter domain checked owner to e; alter table t add column d checked",
    "create domain checked as int; alter domain checked owner to e; alter table t add column d checked[]",
    "create type pair as (x int); alter type pair owner to e; alter table t add column d pair",
    "create function theirs(int, int) returns bool immutable language sql as 'select true'; alter function theirs owner to e;
     create operator === (leftarg = int, rightarg = int, function = theirs); alter table t add check (a === id)",
    "create domain checked as int; alter domain checked owner to e; alter table t add check ((a::checked) is not null or true)",
    "create function theirs(int) returns int immutable language sql as 'select $1'; alter function theirs owner to e;
     alter table t rename to old; create table t (id int, a int) partition by list (theirs(id)); create table child partition of t default;
     alter table child add primary key (id); alter table t owner to ctl; alter table child owner to ctl",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_with_one_url_refuses_tables_with_code_of_other_roles() {
    let scene = Scene::set().await;
    let daemon = daemon_with(&scene, "").await;
    let ctl = scene.client("ctl").await;
    scene.cluster.sql("postgres", "app", "grant create on schema public to ctl").await;
    let table = "create table t (id int primary key, a int); insert into t select generate_series(1, 10); alter table t owner to ctl";
    scene.cluster.sql("postgres", "app", table).await;
    let enqueue = |name: &str| format!("select backfill.enqueue('{name}', 't', 'a = 1')");
    run(&ctl, &enqueue("own")).await;
    until_true(&ctl, SOON, "select state = 'succeeded' from backfill.jobs where name = 'own'").await;
    for (n, planted) in PLANTED.iter().enumerate() {
        // The code is planted before the job is enqueued.
        scene.cluster.sql("postgres", "app", planted).await;
        let refusal = refused(&ctl, &enqueue("late")).await;
        assert!(
            refusal.sqlstate == "BF001" && refusal.message.contains("with the privileges of \"ctl\""),
            "{planted}: {refusal:?}"
        );
        assert!(refusal.hint.is_some_and(|hint| hint.contains("trust_table_owners")), "{planted}");
        scene.cluster.sql("postgres", "app", "drop table if exists child; drop table t cascade; drop domain if exists checked; drop type if exists pair; drop table if exists old; drop function if exists theirs() cascade; drop function if exists theirs(int) cascade; drop function if exists theirs(int, int) cascade").await;
        scene.cluster.sql("postgres", "app", table).await;
        // The code is planted while the job waits.
        let name = format!("waits{n}");
        run(&ctl, &format!("select backfill.enqueue('{name}', 't', 'a = 1', needs_approval => true)")).await;
        scene.cluster.sql("postgres", "app", planted).await;
        run(&ctl, &format!("select backfill.approve('{name}')")).await;
        let failed = format!(
            "select state = 'failed' and (error like '%would run code of role%' or error like '%is not the table%') from backfill.jobs where name = '{name}'"
        );
        until_true(&ctl, SOON, &failed).await;
        scene.cluster.sql("postgres", "app", "drop table if exists child; drop table t cascade; drop domain if exists checked; drop type if exists pair; drop table if exists old; drop function if exists theirs() cascade; drop function if exists theirs(int) cascade; drop function if exists theirs(int, int) cascade").await;
        scene.cluster.sql("postgres", "app", table).await;
    }
    drop(daemon);
}

/// With `trust_table_owners`, the jobs run. `enqueue`, doctor and the log of the daemon each show a
/// warning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trusted_owners_are_named_in_warnings() {
    let scene = Scene::set().await;
    scene.table("t", 10).await;
    scene.cluster.sql("postgres", "app", "grant select, update on t to ctl").await;
    let trust = "    trust_table_owners: true\n";
    let daemon = daemon_with(&scene, trust).await;
    let (client, heard) = notices(&scene.cluster.url("ctl", "app")).await;
    run(&client, "select backfill.enqueue('waits', 't', 'a = 1', needs_approval => true)").await;
    let said = "WARNING: triggers and functions of table public.t will run with the privileges of \"ctl\", and role \"e\" can change these triggers and functions";
    assert!(heard.lock().unwrap().iter().any(|line| line.contains(said)), "{heard:?}");
    drop(daemon);
    let daemon = daemon_with(&scene, trust).await;
    assert!(
        daemon.output().contains("code of other roles runs with the privileges of the login"),
        "{}",
        daemon.output()
    );
    let found = scene.doctor_with("jobs", &one_url(&scene, trust)).await;
    assert!(found.iter().any(|line| line.contains("code of e runs with the privileges of \"ctl\"")), "{found:?}");
    run(&client, "select backfill.approve('waits')").await;
    until_true(&client, SOON, "select state = 'succeeded' from backfill.jobs where name = 'waits'").await;
}

/// The server evaluates immutable functions while it plans a statement. If executors are
/// configured, the control login does not plan the statements of jobs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owner_of_the_schema_does_not_plan_statements_of_jobs() {
    let scene = Scene::set().await;
    scene.table("t", 10).await;
    let code = "set role e; create function spy() returns int language plpgsql immutable as $$ begin
      if current_user = 'ctl' then raise exception 'this code runs as ctl'; end if; return 1; end $$; create index on t ((a + spy()))";
    scene.cluster.sql("mallory", "app", code).await;
    scene.cluster.sql("postgres", "app", "grant select, update on t to ctl; grant e to ctl").await;
    let _daemon = scene.start_daemon().await;
    let ctl = scene.client("ctl").await;
    for call in [
        "backfill.enqueue('j', 't', 'a = spy()', run_as => 'e')",
        "backfill.enqueue_delete('j', 't', 'a = spy()', run_as => 'e')",
        "backfill.preview('t', 'a = spy()')",
    ] {
        let refusal = refused(&ctl, &format!("select {call}")).await;
        let told = "role \"ctl\" owns schema backfill and must not plan the statements of jobs";
        assert_eq!((refusal.sqlstate.as_str(), refusal.message.as_str()), ("BF001", told), "{call}");
    }
    let mallory = scene.client("mallory").await;
    run(&mallory, "select backfill.enqueue('j', 't', 'a = spy()', run_as => 'e')").await;
    until_true(&mallory, SOON, "select state = 'succeeded' from backfill.jobs where name = 'j'").await;
    assert_eq!(value::<i64>(&mallory, "select count(*) from t where a = 1").await, 10);
}

/// The submitter of a queued job is dropped before a daemon with one url starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_submitter_does_not_keep_the_daemon_from_starting() {
    let scene = Scene::set().await;
    let table = "create role h login in role backfill_submitter; create table t (id int primary key, a int); grant select, update on t to h";
    scene.cluster.sql("postgres", "app", table).await;
    run(&scene.client("h").await, "select backfill.enqueue('h', 't', 'a = 1')").await;
    scene.cluster.sql("postgres", "app", "drop owned by h; drop role h").await;
    let _daemon = daemon_with(&scene, "").await;
}
