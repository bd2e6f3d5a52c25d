//! A submitter does everything that a submitter may do, while two daemons also serve the jobs of
//! another role. By default the run is short. `make test-hostile` runs it for ten minutes. In this
//! long run, each job of the other role must be served within five seconds.

use std::time::Duration;

use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::wait;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::Scene;
use super::memory::{LIMIT_MIB, peak};
use crate::support::{SOON, run, until_true, value};

/// Length of the run in seconds.
const SECONDS: &str = "BACKFILLD_HOSTILE_SECONDS";

/// The functions that the hostile jobs call. The functions that act during planning do nothing
/// while table `calm` exists. The table exists while jobs are enqueued, because `enqueue` plans the
/// statement too.
const CODE: &str = "
set role e;
create table calm ();
create function is_calm() returns boolean language sql volatile as $$ select to_regclass('public.calm') is not null $$;
create function plan_sleep() returns int language plpgsql immutable as $$ begin
  if not is_calm() then perform pg_sleep(120); end if; return 1; end $$;
create function plan_leave() returns int language plpgsql immutable as $$ begin
  if not is_calm() then perform set_config('role', 'none', false); perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(5); end if; return 1; end $$;
create function plan_stubborn() returns int language plpgsql immutable as $$ begin
  if is_calm() then return 1; end if;
  loop begin perform set_config('statement_timeout', '0', false); perform pg_sleep(1000); exception when query_canceled then null; end; end loop; end $$;
create function raise_code(n int) returns int language plpgsql as $$ begin
  raise exception 'invented' using errcode = (array['53000', '53100', '53200', '53300', '58030', '25006', '57P03', '57014', '28000', '40001', '40P01', '55P03', 'BF006', 'BF007'])[n % 14 + 1];
  return n; end $$;
create function set_all(n int) returns int language plpgsql as $$ begin
  perform set_config(s.name, s.value, false) from (values ('client_encoding', 'LATIN1'), ('DateStyle', 'German'), ('search_path', 'public'), ('statement_timeout', '0'),
    ('lock_timeout', '0'), ('log_parameter_max_length_on_error', '-1'), ('standard_conforming_strings', 'off'), ('default_transaction_read_only', 'on')) s(name, value);
  return n; end $$;
create function slow(n int) returns int language plpgsql as $$ begin perform pg_sleep(3); return n; end $$;
create function stubborn(n int) returns int language plpgsql as $$ begin
  perform set_config('statement_timeout', '0', false);
  loop begin perform pg_sleep(1000); exception when query_canceled then null; end; end loop; end $$;
create function huge(n int) returns int language plpgsql as $$ begin
  raise notice '%', repeat('n', 4000000); raise exception '%', repeat('x', 8000000) using detail = repeat('y', 8000000); return n; end $$;
create function leave(n int) returns int language plpgsql as $$ begin
  perform set_config('role', 'none', false); perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(5); return n; end $$;
create function cancel_others(n int) returns int language plpgsql as $$ begin
  perform set_config('role', 'none', true);
  perform pg_cancel_backend(a.pid), pg_terminate_backend(a.pid) from pg_stat_activity a where a.usename = 'x_e' and a.pid <> pg_backend_pid();
  perform set_config('role', 'e', true); return n; end $$;
create function later(what text) returns int stable language plpgsql as $$ declare n int := 1; begin
  if not is_calm() then execute format('select public.%I(1)', what) into n; end if; return n; end $$;
create function hold(n int) returns int language plpgsql as $$ begin perform pg_advisory_lock(n); perform pg_notify('backfill', repeat('x', 7000)); return n; end $$";

/// The assignments of the hostile jobs.
const SETS: &[&str] = &[
    "a = plan_sleep()",
    "a = plan_leave()",
    "a = plan_stubborn()",
    "a = raise_code(id)",
    "a = set_all(id)",
    "a = slow(id)",
    "a = stubborn(id)",
    "a = huge(id)",
    "a = leave(id)",
    "a = cancel_others(id)",
    "a = hold(id)",
    "a = (select sum(b.id)::int from t b, t c where b.id <> t.id)",
];

/// The type, the default and the constraints of the columns that the hostile rollouts add.
const COLUMNS: &[&str] = &[
    r#""type": "int", "default": "later('stubborn')""#,
    r#""type": "int", "default": "later('slow')""#,
    r#""type": "int", "default": "later('huge')""#,
    r#""type": "int", "default": "later('leave')""#,
    r#""type": "int", "default": "later('set_all')""#,
    r#""type": "int", "default": "1", "check": "later('stubborn') > 0""#,
    r#""type": "int", "using": "id + 1", "check": "later('slow') > 0", "index": true"#,
];

/// Starts hostile rollouts, and rolls back those of the round before.
async fn roll_out(mallory: &Client, round: usize) {
    for (n, column) in COLUMNS.iter().enumerate() {
        for verb in ["resume", "rollback"] {
            let old = format!("select backfill.rollout_{verb}('r{}_{n}')", round.wrapping_sub(1));
            let _ = mallory.batch_execute(&format!("set statement_timeout = '5s'; {old}")).await;
        }
        let name = format!("r{round}_{n}");
        let start = format!(
            r#"select backfill.rollout_start($spec${{"rollout": "{name}", "table": "t", "add_column": {{"name": "{name}", {column}}}}}$spec$)"#
        );
        if let Err(error) = mallory.batch_execute(&start).await {
            println!("{name}: {}", error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string));
        }
    }
}

/// Enqueues, cancels, retries and forgets hostile jobs until `end`, and starts hostile rollouts.
/// Refusals are expected.
async fn attack(scene: &Scene, end: Instant) -> u64 {
    let (mallory, superuser) = (scene.client("mallory").await, scene.cluster.superuser("app").await);
    let mut accepted = 0;
    for round in 0_usize.. {
        if Instant::now() >= end {
            break;
        }
        let _ = superuser.batch_execute("set role e; create table if not exists calm (); reset role").await;
        for (n, set) in SETS.iter().enumerate() {
            let name = format!("m{}", (round * SETS.len() + n) % 600);
            for verb in ["cancel", "forget", "retry"] {
                let _ = mallory.batch_execute(&format!("select backfill.{verb}('{name}')")).await;
            }
            let options = r#"{"max_row_errors": 10000, "max_batch_rows": 100000, "slices": 8}"#;
            let job = format!(
                "select backfill.enqueue('{name}', 't', '{set}', run_as => 'e', priority => -100, options => '{options}')"
            );
            match mallory.batch_execute(&job).await {
                Ok(()) => accepted += 1,
                Err(error) => {
                    println!("{name}: {}", error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string))
                }
            }
        }
        if round % 5 == 0 {
            roll_out(&mallory, round / 5).await;
        }
        let _ = superuser.batch_execute("drop table if exists calm").await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    accepted
}

/// Returns how long a job of role `f` takes from its enqueue to its success.
async fn serve(alice: &Client, name: &str) -> Duration {
    let start = Instant::now();
    run(
        alice,
        &format!(
            "select backfill.enqueue('{name}', 'other', 'a = coalesce(a, 0) + 1', run_as => 'f', priority => 100)"
        ),
    )
    .await;
    wait::until(SOON, format!("job {name} succeeds"), async || {
        let state = value::<String>(alice, &format!("select state from backfill.jobs where name = '{name}'")).await;
        assert_ne!(state, "failed", "{name}");
        state == "succeeded"
    })
    .await;
    start.elapsed()
}

fn alive(daemon: &Daemon) -> bool {
    daemon.output().matches("serving the database").count() == 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_submitter_does_not_keep_daemons_from_serving_another_role() {
    let asked = std::env::var(SECONDS).ok().map(|seconds| seconds.parse::<u64>().expect("a number of seconds"));
    let scene = Scene::set().await;
    scene.table("t", 500).await;
    scene.cluster.sql("mallory", "app", CODE).await;
    let other =
        "set role f; create table other (id int primary key, a int); insert into other select generate_series(1, 100)";
    scene.cluster.sql("alice", "app", other).await;
    let daemons = [scene.start_daemon().await, scene.start_daemon().await];
    let alice = scene.client("alice").await;
    let rollout = r#"select backfill.rollout_start('{"rollout": "of_f", "table": "other", "add_column": {"name": "b", "type": "int", "using": "a", "index": true}}')"#;
    let start = Instant::now();
    let end = start + Duration::from_secs(asked.unwrap_or(20));
    let served = async {
        let mut times = Vec::new();
        tokio::time::sleep(Duration::from_secs(5)).await;
        run(&alice, rollout).await;
        while Instant::now() < end {
            times.push(serve(&alice, &format!("f{}", times.len())).await);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        times
    };
    let (accepted, times) = tokio::join!(attack(&scene, end), served);
    assert!(accepted > 0, "no hostile job was accepted");
    let longest = times.iter().max().copied().unwrap_or_default();
    let rows = i64::try_from(times.len()).unwrap() * 100;
    let changed = "select sum(a)::int8 from other";
    assert_eq!(
        value::<i64>(&scene.cluster.superuser("app").await, changed).await,
        rows,
        "rows changed once by each job"
    );
    let reached = "select stage = 'constrained' from backfill.rollouts where name = 'of_f'";
    until_true(&alice, SOON, reached).await;
    let peaks: Vec<u64> = daemons.iter().map(|daemon| peak(daemon.pid())).collect();
    println!(
        "{accepted} hostile jobs, {} jobs of the other role, longest {longest:?}, memory at most {peaks:?} MiB",
        times.len()
    );
    let seen = "select coalesce(string_agg(format('%s %s %s', n, s, e), E'\\n' order by n desc), '') from (
        select count(*) n, j.set || ': ' || j.state s, left(coalesce(j.error, j.waiting_text), 90) e from backfill.jobs j where name like 'm%' group by 2, 3) x";
    println!("{}", value::<String>(&scene.client("olga").await, seen).await);
    let rollouts = "select coalesce(string_agg(format('%s %s %s %s', name, stage, state, left(coalesce(error, waiting_text), 90)), E'\n' order by id), '') from backfill.rollouts";
    println!("{}", value::<String>(&scene.client("olga").await, rollouts).await);
    for daemon in &daemons {
        assert!(alive(daemon), "a daemon ended or started again: {}", daemon.output());
    }
    assert!(peaks.iter().all(|peak| *peak < LIMIT_MIB), "{peaks:?} MiB");
    if asked.is_some() {
        assert!(longest < Duration::from_secs(5), "{times:?}");
    }
}
