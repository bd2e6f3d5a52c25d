//! The code of a job runs forever: it disables the timeouts, or catches the errors that they raise.
//! Such a job must not keep its locks or a worker for longer than one batch plus its cancellation.
//! A flood of notifications must not keep the workers busy.

use std::time::Duration;

use backfilld::error::Kind;
use backfilld::worker::error_policy::action;
use backfilld_testbed::wait;
use tokio::time::Instant;

use super::Scene;
use crate::support::{SOON, run, until_true, value};

/// Maximum age of a job's transaction. Without the daemon, the job's code would run for 10 minutes
/// or forever. On an idle machine, the daemon ends the transaction after about 5 s.
const HELD_AT_MOST: Duration = SOON;

const UNCANCELLABLE: &str = "
set role e;
create function uncancellable() returns int language plpgsql volatile as $f$ begin
  raise log 'UNCANCELLABLE';
  loop
    begin perform pg_sleep(5); exception when query_canceled then null; end;
  end loop;
end $f$;
create function lifted() returns int language plpgsql volatile as $f$ begin
  perform set_config(n, '0', false) from unnest(array['statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'client_connection_check_interval']) n;
  if nextval('calls') > 1 then
    raise log 'LIFTED';
    -- The session sets statement_timeout again before each batch, but the timeout fires only once.
    begin perform pg_sleep(600); exception when query_canceled then perform pg_sleep(600); end;
  end if;
  return 1;
end $f$;
create sequence calls;
create function alone() returns int language plpgsql volatile as $f$ begin
  perform set_config('client_connection_check_interval', '0', false);
  return uncancellable();
end $f$;
create function immutable_uncancellable() returns int language plpgsql immutable as $f$ begin return uncancellable(); end $f$";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_that_ignores_its_timeout_and_a_cancel_loses_its_session_and_fails_its_job() {
    let scene = Scene::set().await;
    scene.cluster.sql("mallory", "app", UNCANCELLABLE).await;
    scene.table("caught", 3).await;
    scene.table("lifting", 3).await;
    let mallory = scene.client("mallory").await;
    run(&mallory, "select backfill.enqueue('caught', 'caught', 'a = uncancellable()', run_as => 'e')").await;
    let one = r#"{"max_batch_rows": 1, "max_row_errors": 0}"#;
    run(
        &mallory,
        &format!("select backfill.enqueue('lifting', 'lifting', 'a = lifted()', run_as => 'e', options => '{one}')"),
    )
    .await;
    let daemon = scene.start_daemon().await;
    let olga = scene.client("olga").await;
    let holds = "select coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0)::float8 from pg_stat_activity where usename = 'x_e'";
    let watcher = scene.cluster.superuser("app").await;
    let started = Instant::now();
    wait::until(4 * SOON, "both jobs have failed", async || {
        let held: f64 = value(&watcher, holds).await;
        assert!(held < HELD_AT_MOST.as_secs_f64(), "a transaction of the job is {held} s old");
        value::<i64>(&olga, "select count(*) from backfill.jobs where state = 'failed'").await == 2
    })
    .await;
    eprintln!("both jobs failed after {:?}", started.elapsed());
    for (name, expected) in
        [("caught", "ignored a cancel request"), ("lifting", "the statement for this row takes longer than max_row_ms")]
    {
        let error: String = value(&olga, &format!("select error from backfill.jobs where name = '{name}'")).await;
        assert!(error.contains(expected), "{name}: {error}");
    }
    // The daemon does not use the session of such a batch again. It logs the reason and terminates
    // the session.
    for message in ["ignored a cancel request", action(Kind::Overrun).1] {
        assert!(daemon.output().contains(message), "{}", daemon.output());
    }
    until_true(&watcher, SOON, "select count(*) = 0 from pg_stat_activity where usename = 'x_e'").await;

    // The jobs of other roles are not affected.
    scene.cluster.sql("postgres", "app", "create table ft (id int primary key, a int); alter table ft owner to f; insert into ft select generate_series(1, 100)").await;
    run(&scene.client("alice").await, "select backfill.enqueue('of_f', 'ft', 'a = 1', run_as => 'f')").await;
    until_true(&olga, SOON, "select state = 'succeeded' from backfill.jobs where name = 'of_f'").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_notifications_costs_the_daemon_little() {
    let scene = Scene::set().await;
    let _daemon = scene.start_daemon().await;
    let mallory = scene.client("mallory").await;
    let claims = "select coalesce(sum(calls), 0)::bigint from pg_stat_user_functions where funcname = '_claim'";
    let watcher = scene.cluster.superuser("app").await;
    // Without a flood, the workers claim slices at their normal rate. The server's call counter
    // must show these claims, because the test relies on it.
    until_true(&watcher, SOON, &format!("select ({claims}) > 10")).await;
    let before: i64 = value(&watcher, claims).await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(4) {
        run(&mallory, "notify backfill").await;
    }
    // The server publishes its statistics with a delay, so the elapsed time includes this delay.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let flooded = value::<i64>(&watcher, claims).await - before;
    // Each of the two workers may claim at most 40 times per second. The test allows 50 per worker,
    // which leaves a margin.
    let most = (started.elapsed().as_secs_f64() * 2.0 * 50.0).ceil() as i64;
    assert!(flooded < most, "{flooded} claims in {:?}, at most {most} are expected", started.elapsed());
}

/// To end a session whose code ignores a cancel request, the daemon opens a second session with the
/// same login. If the server rejects this login (here because of NOLOGIN), the control login ends
/// the session. In this test, the control login is allowed to end the session because it is a
/// member of pg_signal_backend. A job could cause the rejection itself, because any login may
/// change its own password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_login_ends_a_session_that_its_own_login_cannot_end() {
    let scene = Scene::set().await;
    scene.cluster.sql("postgres", "app", "grant pg_signal_backend to ctl").await;
    scene.cluster.sql("mallory", "app", UNCANCELLABLE).await;
    scene.table("caught", 3).await;
    let daemon = scene.start_daemon().await;
    let (mallory, watcher) = (scene.client("mallory").await, scene.cluster.superuser("app").await);
    // Function `alone` disables client_connection_check_interval, so the server does not detect
    // that the daemon has disconnected.
    run(&mallory, "select backfill.enqueue('caught', 'caught', 'a = alone()', run_as => 'e')").await;
    until_true(&watcher, SOON, "select exists (select from pg_stat_activity where usename = 'x_e' and state = 'active' and wait_event = 'PgSleep')").await;
    scene.cluster.sql("postgres", "app", "alter role x_e nologin").await;
    until_true(&watcher, SOON, "select not exists (select from pg_stat_activity where usename = 'x_e')").await;
    let message =
        "the control login terminated the session of a job, because the executor's login could not terminate it";
    wait::until(SOON, "the termination is logged", async || daemon.output().contains(message)).await;
}
