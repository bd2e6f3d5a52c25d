//! Tests the kinds of errors that the error policy distinguishes, nearly all of them on a real
//! server. The tests check whether the walk continues after the failure, which message the operator
//! sees during the failure, and how often the failure is logged. `every_kind_of_error_has_a_test`
//! names the other files that test some of the kinds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backfilld::error::{Error, Kind};
use backfilld::worker::error_policy::{Action, FailedBatch, Response, action, respond};
use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::{Builder, Daemon};
use backfilld_testbed::proxy::Proxy;
use backfilld_testbed::standby::Standby;
use backfilld_testbed::wait;
use tokio::task::JoinSet;

use crate::proof::{Dice, PLUS_ONE, QUICK, batches, enqueue, exact, quick, table, until_more_batches};
use crate::support::{BACKFILLD, SOON, installed, run, sql, until_state, until_true, value};

const ROWS: i64 = 300;
/// Number of rows in each table whose trigger raises errors. The walk may defer each of these rows
/// separately.
const FAILING_ROWS: i64 = 60;

/// Creates a table with a trigger that raises the SQLSTATE that is stored in table `raised`. While
/// `raised` is empty, the trigger raises nothing.
async fn failing(cluster: &Cluster, name: &str) {
    table(cluster, name, FAILING_ROWS).await;
    let made = format!(
        "create table if not exists raised (code text); create sequence if not exists tries;
         create or replace function raise_error() returns trigger language plpgsql as $$ declare v text; begin
           select code into v from raised;
           if found then perform nextval('tries'); raise exception using errcode = v, message = 'raised ' || v; end if;
           return null; end $$;
         create trigger raised before update on {name} for each statement execute function raise_error()"
    );
    sql(cluster, &made).await;
}

/// Configures a daemon with one worker. Several workers would each log an error that ends a claim.
fn one_worker(url: &str) -> Builder {
    let one = "databases: [{name: main, url: 'postgres://x', workers: 1}]";
    Daemon::builder(BACKFILLD, url).config(format!("{QUICK}\n{one}")).arg("--no-migrate")
}

/// Returns how many lines of the log contain the sentence that [`action`] returns for this kind of
/// error.
fn times_logged(daemon: &Daemon, kind: Kind) -> usize {
    let (_, sentence) = action(kind);
    daemon.output().lines().filter(|line| line.contains(sentence)).count()
}

async fn until_logged(daemon: &Daemon, kind: Kind) {
    wait::until(SOON, format!("the log says: {}", action(kind).1), async || times_logged(daemon, kind) > 0).await;
}

/// Temporary failures, each as (SQLSTATE, kind, `waiting_reason`): the walk waits, reports the
/// reason, and continues without an operator.
const PASSING: &[(&str, Kind, &str)] = &[
    ("40P01", Kind::Deadlock, "locked_rows"),
    ("40001", Kind::Serialization, "locked_rows"),
    ("53100", Kind::ServerResources, "load"),
    ("53200", Kind::ServerResources, "load"),
    ("53400", Kind::ServerResources, "load"),
    ("58030", Kind::ServerResources, "load"),
    // After each of the following errors, the worker releases the slice and claims it again in
    // another session. In the meantime no worker holds the slice.
    ("57P03", Kind::ServerUnavailable, "load"),
    ("25006", Kind::ReadOnly, "load"),
    ("53300", Kind::TooManyConnections, "connections"),
    // The daemon reads a changed password at its next connection attempt.
    ("28P01", Kind::Authentication, "load"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_temporary_failure_is_logged_once_and_the_walk_resumes_by_itself() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    // Most of these errors are rare on a real server, so a trigger raises them. The proxy makes
    // these errors look like the server's own, because the daemon treats a trigger's errors as
    // errors of a row.
    let proxy = Proxy::to(cluster.addr()).await;
    proxy.disguise_raised_errors();
    for (code, kind, waits) in PASSING {
        let job = format!("job_{}", code.to_lowercase());
        failing(&cluster, &job).await;
        let daemon = one_worker(&proxy.url("owner", "app")).start();
        daemon.wait_ready(SOON).await;
        run(&owner, &format!("insert into raised values ('{code}')")).await;
        enqueue(&cluster, &job, PLUS_ONE, r#"{"max_batch_rows": 20, "throttle": "off"}"#).await;
        until_logged(&daemon, *kind).await;
        let asked = format!(
            "select coalesce(waiting_reason = '{waits}' and waiting_text <> '', false) from backfill.jobs where name = '{job}'"
        );
        until_true(&owner, SOON, &asked).await;
        // The worker makes more attempts and logs none of them.
        let tries: i64 = value(&owner, "select last_value from tries").await;
        until_true(&owner, SOON, &format!("select last_value > {tries} + 2 from tries")).await;
        assert_eq!(value::<i64>(&owner, &format!("select count(*) from {job} where n <> 0")).await, 0, "{code}");
        run(&owner, "truncate raised").await;
        until_state(&cluster, &job, "succeeded", SOON).await;
        exact(&cluster, &job, FAILING_ROWS).await.unwrap();
        assert_eq!(times_logged(&daemon, *kind), 1, "{code}: {}", daemon.output());
    }
}

/// Permanent failures, each as (SQLSTATE, kind). The causes are errors in the statement or in the
/// objects that it uses, missing privileges, internal errors of the server, and a plan that stays
/// stale. If the job's own code raises one of the codes BF001 to BF006, the failure is permanent
/// too.
const STAYING: &[(&str, Kind)] = &[
    ("42P01", Kind::Statement),
    ("42501", Kind::Permission),
    ("42703", Kind::Statement),
    ("55000", Kind::Statement),
    ("XX000", Kind::Statement),
    // A trigger raises this code if it loses a connection to another server. The batch's own
    // session continues.
    ("08006", Kind::Statement),
    ("BF001", Kind::Refused),
    ("BF002", Kind::OtherSpec),
    ("BF003", Kind::NoSuchJob),
    ("BF004", Kind::NotComplete),
    ("BF005", Kind::WrongState),
    ("BF006", Kind::Fenced),
];

/// Permanent failures: the job fails with the server's message, and continues after a retry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permanent_failure_fails_the_job_with_the_servers_message() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    let daemon = one_worker(&cluster.owner_url()).start();
    for (code, kind) in STAYING {
        assert!(matches!(action(*kind).0, Action::Fail | Action::Doubt | Action::Prepare | Action::Stop), "{code}");
        let job = format!("job_{}", code.to_lowercase());
        failing(&cluster, &job).await;
        run(&owner, &format!("insert into raised values ('{code}')")).await;
        enqueue(&cluster, &job, PLUS_ONE, r#"{"max_batch_rows": 20, "throttle": "off"}"#).await;
        let failed = format!(
            "select state = 'failed' and error like '%raised {code}%' and hint <> '' from backfill.jobs where name = '{job}'"
        );
        until_true(&owner, SOON, &failed).await;
        assert_eq!(value::<i64>(&owner, &format!("select count(*) from {job} where n <> 0")).await, 0, "{code}");
        run(&owner, &format!("truncate raised; select backfill.retry('{job}')")).await;
        until_state(&cluster, &job, "succeeded", SOON).await;
        exact(&cluster, &job, FAILING_ROWS).await.unwrap();
        let lines = daemon
            .output()
            .lines()
            .filter(|line| line.contains("job failed") && line.contains(&format!("raised {code}")))
            .count();
        assert_eq!(lines, 1, "{code}: {}", daemon.output());
    }
}

/// The TLS connection fails before the server sends an SQLSTATE, so a trigger cannot raise this
/// error. The test `tls::a_job_waits_while_the_servers_certificate_is_expired` causes it on a real
/// server.
#[test]
fn an_untrusted_connection_is_retried() {
    let error = Error::new(Kind::Tls, "the certificate has expired");
    assert_eq!((action(error.kind).0, error.exit_code()), (Action::Reconnect, 69));
}

/// During a batch, the daemon itself may raise an error of one of these kinds. The job then fails,
/// as it does after a permanent error of the server.
#[test]
fn errors_of_the_daemon_itself_fail_the_job() {
    for kind in [Kind::Schema, Kind::Usage, Kind::Config, Kind::Timeout, Kind::Internal] {
        let error = Error::new(kind, "of our own");
        assert_eq!(action(error.kind).0, Action::Fail, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_take_too_long_are_retried_with_fewer_rows() {
    let cluster = installed(Options::default()).await;
    table(&cluster, "slow", 60).await;
    sql(
        &cluster,
        "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.02); return new; end $$;
         create trigger slow before update on slow for each row execute function slow()",
    )
    .await;
    let daemon = one_worker(&cluster.owner_url()).start();
    enqueue(&cluster, "slow", PLUS_ONE, r#"{"throttle": "off"}"#).await;
    until_state(&cluster, "slow", "succeeded", SOON).await;
    exact(&cluster, "slow", 60).await.unwrap();
    assert_eq!(times_logged(&daemon, Kind::TimeLimit), 1, "{}", daemon.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_another_session_cancels_is_retried() {
    let cluster = installed(Options::default()).await;
    table(&cluster, "slow", 40).await;
    sql(
        &cluster,
        "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.1); return new; end $$;
         create trigger slow before update on slow for each row execute function slow()",
    )
    .await;
    let daemon = one_worker(&cluster.owner_url()).start();
    enqueue(&cluster, "slow", PLUS_ONE, r#"{"throttle": "off", "max_batch_rows": 4}"#).await;
    let cancel = "select count(pg_cancel_backend(pid)) = 1 from pg_stat_activity where application_name like 'backfilld job%' and wait_event = 'PgSleep'";
    until_true(&cluster.owner().await, SOON, cancel).await;
    until_state(&cluster, "slow", "succeeded", SOON).await;
    exact(&cluster, "slow", 40).await.unwrap();
    assert_eq!(times_logged(&daemon, Kind::Cancelled), 1, "{}", daemon.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_are_cancelled_or_terminated_repeatedly_still_finish() {
    let cluster = installed(Options::default()).await;
    for (job, how) in [("cancelled", "pg_cancel_backend"), ("ended", "pg_terminate_backend")] {
        table(&cluster, job, 2_000).await;
        let daemon = one_worker(&cluster.owner_url()).start();
        let owner = cluster.owner().await;
        enqueue(&cluster, job, PLUS_ONE, r#"{"max_rows_per_second": 500, "max_batch_rows": 20}"#).await;
        for _ in 0..6 {
            until_more_batches(&owner, job, 3).await;
            let hit = format!(
                "select count({how}(pid)) from pg_stat_activity where application_name = 'backfilld job ' || (select id from backfill.jobs where name = '{job}')"
            );
            assert!(value::<i64>(&owner, &hit).await <= 1);
        }
        until_state(&cluster, job, "succeeded", SOON).await;
        exact(&cluster, job, 2_000).await.unwrap();
        drop(daemon);
    }
}

/// The address that the daemon connects to is redirected to a standby, as if the server had been
/// demoted. The daemon waits until a primary accepts sessions at this address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_connected_to_a_standby_waits_for_the_primary() {
    let cluster = installed(Options::default()).await;
    table(&cluster, "demoted", 2_000).await;
    let standby = Standby::of(&cluster).await;
    let proxy = Proxy::to(cluster.addr()).await;
    let daemon = one_worker(&proxy.url("owner", "app")).start();
    let owner = cluster.owner().await;
    enqueue(&cluster, "demoted", PLUS_ONE, r#"{"max_rows_per_second": 1000, "max_batch_rows": 20}"#).await;
    until_more_batches(&owner, "demoted", 3).await;
    proxy.retarget(standby.addr());
    proxy.cut();
    until_logged(&daemon, Kind::ReadOnly).await;
    let before = batches(&owner, "demoted").await;
    proxy.retarget(cluster.addr());
    proxy.cut();
    until_more_batches(&owner, "demoted", 3).await;
    assert!(before > 0);
    until_state(&cluster, "demoted", "succeeded", SOON).await;
    exact(&cluster, "demoted", 2_000).await.unwrap();
    assert_eq!(times_logged(&daemon, Kind::ReadOnly), 1, "{}", daemon.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_walk_waits_for_a_free_connection() {
    let cluster = installed(Options::default()).await;
    table(&cluster, "crowded", 500).await;
    let daemon = one_worker(&cluster.owner_url()).start();
    daemon.wait_ready(SOON).await;
    // Existing sessions stay open. The server refuses the new session that a claim needs.
    cluster.sql("postgres", "postgres", "alter role owner connection limit 0").await;
    let superuser = cluster.superuser("app").await;
    run(&superuser, "select backfill.enqueue('crowded', 'crowded', 'n = n + 1', run_as => 'owner', options => '{\"max_batch_rows\": 20}')").await;
    until_logged(&daemon, Kind::TooManyConnections).await;
    assert_eq!(value::<i64>(&superuser, "select count(*) from crowded where n <> 0").await, 0);
    cluster.sql("postgres", "postgres", "alter role owner connection limit -1").await;
    until_state(&cluster, "crowded", "succeeded", SOON).await;
    exact(&cluster, "crowded", 500).await.unwrap();
    // The claim may need a new session of the control login, too.
    assert!((1..=2).contains(&times_logged(&daemon, Kind::TooManyConnections)), "{}", daemon.output());
}

/// To restrict the application, a DBA sets limits and modes on a role. None of them affects a walk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limits_and_modes_of_a_role_do_not_affect_a_walk() {
    let cluster = installed(Options::default()).await;
    table(&cluster, "limited", 3_000).await;
    let mut settings = vec![
        "statement_timeout = '300ms'",
        "lock_timeout = '1ms'",
        "idle_session_timeout = '200ms'",
        "idle_in_transaction_session_timeout = '1ms'",
        "default_transaction_isolation = 'serializable'",
        "default_transaction_read_only = on",
        "default_transaction_deferrable = on",
        "search_path = 'nowhere'",
        "row_security = off",
        "enable_indexscan = off",
    ];
    if cluster.major() >= 17 {
        settings.push("transaction_timeout = '20ms'");
    }
    for setting in settings {
        cluster.sql("postgres", "app", &format!("alter role owner set {setting}")).await;
    }
    let daemon = one_worker(&cluster.owner_url()).start();
    let superuser = cluster.superuser("app").await;
    run(&superuser, "select backfill.enqueue('limited', 'public.limited', 'n = n + 1', run_as => 'owner', options => '{\"slices\": 2, \"max_batch_rows\": 50, \"max_rows_per_second\": 3000}')").await;
    until_true(&superuser, SOON, "select state in ('succeeded', 'failed') from backfill.jobs").await;
    let found = "select concat_ws(' ', state, rows_changed, error, (select count(*) from public.limited where n = 1)) from backfill.jobs";
    assert_eq!(value::<String>(&superuser, found).await, "succeeded 3000 3000", "{}", daemon.output());
}

/// In a deadlock between a batch and the application, the batch reaches its statement_timeout
/// before the server looks for deadlocks (P16). Therefore no statement of the application fails,
/// and the walk finishes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_locks_rows_in_reverse_order_never_loses_a_deadlock() {
    const WALKED: i64 = 2_000;
    let cluster = installed(Options::default()).await;
    table(&cluster, "crossed", WALKED).await;
    let over = Arc::new(AtomicBool::new(false));
    let mut application = JoinSet::new();
    let mut client = cluster.owner().await;
    let going = Arc::clone(&over);
    application.spawn(async move {
        let (mut dice, mut lost, mut won) = (Dice::new(), 0, 0);
        while !going.load(Ordering::SeqCst) {
            let high = i64::try_from(dice.roll(2, WALKED as u64)).unwrap() * 3;
            let transaction = client.transaction().await.unwrap();
            let mut done = Ok(0);
            // The application locks rows in descending order. The walk locks rows in ascending
            // order.
            for id in [high, high - 3, high - 30] {
                done = transaction.execute("update crossed set m = m + 1 where id = $1", &[&id]).await;
                tokio::task::yield_now().await;
                if done.is_err() {
                    break;
                }
            }
            if done.is_ok() {
                transaction.rollback().await.unwrap();
                won += 1;
            } else {
                transaction.rollback().await.unwrap();
                lost += 1;
            }
        }
        (won, lost)
    });
    let _daemon = quick(&cluster.owner_url()).start();
    enqueue(
        &cluster,
        "crossed",
        PLUS_ONE,
        r#"{"max_rows_per_second": 1000, "max_batch_rows": 60, "max_victim_wait_ms": 2000}"#,
    )
    .await;
    until_state(&cluster, "crossed", "succeeded", SOON * 2).await;
    over.store(true, Ordering::SeqCst);
    let (won, lost) = application.join_next().await.unwrap().unwrap();
    assert_eq!(lost, 0, "the application lost deadlocks; {won} of its transactions did not fail");
    exact(&cluster, "crossed", WALKED).await.unwrap();
}

/// The server stops in the middle of a job, refuses connections for some time, and starts again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_walk_waits_for_a_server_that_starts_slowly() {
    let cluster = installed(Options::default()).await;
    table(&cluster, "restarted", 2_000).await;
    let daemon = one_worker(&cluster.owner_url()).start();
    let owner = cluster.owner().await;
    enqueue(&cluster, "restarted", PLUS_ONE, r#"{"max_rows_per_second": 1500, "max_batch_rows": 20}"#).await;
    until_more_batches(&owner, "restarted", 3).await;
    cluster.stop(backfilld_testbed::cluster::Mode::Fast).await;
    until_logged(&daemon, Kind::ConnectionLost).await;
    wait::until(SOON, "the server refuses connections", async || daemon.output().contains("Connection refused")).await;
    cluster.start_again().await;
    until_state(&cluster, "restarted", "succeeded", SOON).await;
    exact(&cluster, "restarted", 2_000).await.unwrap();
    assert_eq!(times_logged(&daemon, Kind::ConnectionLost), 1, "{}", daemon.output());
}

/// If a value is too large for an index, only its row is at fault. The row is quarantined, and the
/// rows before it are changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_does_not_fit_its_index_is_isolated_row_by_row() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table large (id int primary key, c text); insert into large select generate_series(1, 300); create index on large (c);
         create function value_of(i int) returns text language sql immutable as $$
           select string_agg(md5(i::text || j), '') from generate_series(1, case i when 77 then 300 else 1 end) j $$",
    )
    .await;
    let _daemon = one_worker(&cluster.owner_url()).start();
    enqueue(&cluster, "large", "c = value_of(id)", r#"{"max_batch_rows": 50, "throttle": "off"}"#).await;
    until_true(&owner, SOON, "select rows_quarantined = 1 from backfill.jobs").await;
    assert_eq!(value::<i64>(&owner, "select count(*) from large where c is null and id < 77").await, 0);
}

/// Each time a worker claims the slice, the rows are still locked. The log contains only one line
/// about them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_stays_locked_is_deferred_logged_once_and_changed_when_it_is_free() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    table(&cluster, "locked", ROWS).await;
    let application = cluster.owner().await;
    run(&application, "begin; select from locked where id in (150, 153, 600) for update").await;
    let daemon = one_worker(&cluster.owner_url()).start();
    enqueue(&cluster, "locked", PLUS_ONE, r#"{"max_batch_rows": 20, "throttle": "off"}"#).await;
    assert_eq!(action(Kind::LockTimeout).0, Action::GoAround);
    until_true(&owner, SOON, "select coalesce(max(attempts) > 3, false) from backfill.slice where kind = 'walk'").await;
    assert_eq!(value::<i64>(&owner, "select count(*) from locked where n = 0").await, 3);
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.deferred_row").await, 3);
    run(&application, "commit").await;
    until_state(&cluster, "locked", "succeeded", SOON).await;
    exact(&cluster, "locked", ROWS).await.unwrap();
    assert_eq!(times_logged(&daemon, Kind::LockTimeout), 1, "{}", daemon.output());
}

/// Rows that raise an error are isolated in several attempts and then quarantined. Rows that a
/// trigger leaves unchanged are quarantined too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_bad_rows_are_quarantined_and_logged_once() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    for (job, kind, what, body) in [
        ("data", Kind::Data, Action::Isolate, "raise exception using errcode = '22012', message = 'bad'"),
        ("unmatched", Kind::Unmatched, Action::TellApart, "return null"),
    ] {
        assert_eq!(action(kind).0, what);
        table(&cluster, job, ROWS).await;
        let trigger = format!(
            "create function {job}() returns trigger language plpgsql as $$ begin if new.id % 30 = 0 then {body}; end if; return new; end $$;
             create trigger {job} before update on {job} for each row execute function {job}()"
        );
        sql(&cluster, &trigger).await;
        let daemon = one_worker(&cluster.owner_url()).start();
        enqueue(&cluster, job, PLUS_ONE, r#"{"max_batch_rows": 50, "throttle": "off"}"#).await;
        until_true(&owner, SOON, &format!("select state = 'failed' from backfill.jobs where name = '{job}'")).await;
        let kept = format!(
            "select rows_quarantined || ' ' || (select count(*) from {job} where n = 0 and id % 30 = 0) || ' ' || (select count(*) from {job} where n = 0) from backfill.jobs where name = '{job}'"
        );
        assert_eq!(value::<String>(&owner, &kept).await, "30 30 30", "{job}");
        assert_eq!(times_logged(&daemon, kind), 1, "{}", daemon.output());
        run(&owner, &format!("drop trigger {job} on {job}; select backfill.retry('{job}')")).await;
        until_state(&cluster, job, "succeeded", SOON).await;
        assert_eq!(value::<i64>(&owner, &format!("select count(*) from {job} where n <> 1")).await, 0, "{job}");
        assert_eq!(times_logged(&daemon, kind), 1, "{}", daemon.output());
    }
}

/// DDL changes columns that the job does not use. Later, a transaction locks the table and creates
/// a trigger. The trigger makes the statement of the batch stale.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_walk_continues_after_a_table_change_makes_its_statement_stale() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    for (job, set) in [("stale", PLUS_ONE), ("stale_rr", crate::proof::PLUS_ONE_OF_ANOTHER_ROW)] {
        table(&cluster, job, 2_000).await;
        let daemon = one_worker(&cluster.owner_url()).start();
        enqueue(&cluster, job, set, r#"{"max_rows_per_second": 1000, "max_batch_rows": 20}"#).await;
        until_more_batches(&owner, job, 3).await;
        let application = cluster.owner().await;
        run(
            &application,
            &format!("alter table {job} alter at type text; alter table {job} add column other int default 7"),
        )
        .await;
        until_more_batches(&owner, job, 3).await;
        run(
            &application,
            &format!(
                "create function {job}() returns trigger language plpgsql as 'begin return new; end'; begin; lock table {job};
                 create trigger {job} before update on {job} for each row execute function {job}(); select pg_sleep(0.3); commit"
            ),
        )
        .await;
        run(&owner, &format!(r#"select backfill.tune('{job}', '{{"max_rows_per_second": null}}')"#)).await;
        until_state(&cluster, job, "succeeded", SOON).await;
        exact(&cluster, job, 2_000).await.unwrap();
        assert_eq!(times_logged(&daemon, Kind::StalePlan), 1, "{}", daemon.output());
    }
}

/// Another session creates a trigger after a row has failed and before the row is quarantined.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_walk_continues_if_the_table_changes_while_a_row_is_skipped() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    table(&cluster, "late", ROWS).await;
    sql(
        &cluster,
        "alter table late add check (n = 0 or id <> 300); create function late() returns trigger language plpgsql as 'begin return new; end'",
    )
    .await;
    let daemon = one_worker(&cluster.owner_url()).env("BACKFILLD_FAILPOINT", "before_skip_row:1=sleep:1500").start();
    enqueue(&cluster, "late", PLUS_ONE, r#"{"max_batch_rows": 50, "throttle": "off"}"#).await;
    // The bad row is isolated, and the worker sleeps at the failpoint.
    let isolated = "select exists (select from backfill.checkpoint where position = array['297'])";
    until_true(&owner, SOON, isolated).await;
    run(&owner, "select pg_sleep(0.3); create trigger late before update on late for each row execute function late()")
        .await;
    until_true(&owner, SOON, "select state = 'failed' from backfill.jobs").await;
    let said: String =
        value(&owner, "select error || (select string_agg(key::text, '') from backfill.row_errors) from backfill.jobs")
            .await;
    assert!(
        said.starts_with("1 row could not be changed: new row for relation") && said.ends_with(r#"{"id": 300}"#),
        "{said}\n{}",
        daemon.output()
    );
    assert_eq!(value::<i64>(&owner, "select count(*) from late where n = 0").await, 1);
}

/// A trigger writes more temporary data than `temp_file_limit` allows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_reaches_the_limit_on_temporary_files_waits() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    cluster
        .sql(
            "postgres",
            "app",
            "alter role owner set temp_file_limit = '128kB'; alter role owner set work_mem = '64kB'",
        )
        .await;
    table(&cluster, "spilling", ROWS).await;
    sql(
        &cluster,
        "create table raised (rows int); insert into raised values (30000);
         create function spill() returns trigger language plpgsql as $$ begin
           perform count(*) over (order by md5(i::text)) from generate_series(1, (select max(rows) from raised)) i limit 1; return null; end $$;
         create trigger spill before update on spilling for each statement execute function spill()",
    )
    .await;
    let daemon = one_worker(&cluster.owner_url()).start();
    enqueue(&cluster, "spilling", PLUS_ONE, r#"{"max_batch_rows": 50, "throttle": "off"}"#).await;
    until_logged(&daemon, Kind::ServerResources).await;
    assert!(daemon.output().contains("temp_file_limit"), "{}", daemon.output());
    until_true(&owner, SOON, "select coalesce(waiting_reason = 'load', false) from backfill.jobs").await;
    run(&owner, "truncate raised").await;
    until_state(&cluster, "spilling", "succeeded", SOON).await;
    exact(&cluster, "spilling", ROWS).await.unwrap();
}

/// The table was analyzed while it was empty, and the columns of the key have no statistics. The
/// walk still reads along the index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_statistics_do_not_make_a_batch_read_the_whole_table() {
    const LARGE: i64 = 100_000;
    let cluster = installed(Options::default().set("autovacuum", "off")).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table lied (a int, b text, n int not null default 0, c int, primary key (a, b)); create index on lied (c); analyze lied",
    )
    .await;
    run(&owner, &format!("insert into lied select i % 3, 'b' || i, 0, i % 2 from generate_series(1, {LARGE}) i")).await;
    let daemon = one_worker(&cluster.owner_url()).start();
    let enqueued = "select backfill.enqueue('lied', 'lied', 'n = n + 1', 'c = 1', options => '{\"max_batch_rows\": 500, \"throttle\": \"off\"}')";
    run(&owner, enqueued).await;
    until_state(&cluster, "lied", "succeeded", SOON * 3).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from lied where n <> c").await, 0);
    // A session reports its statistics counters when it ends, if not earlier. The test therefore
    // stops the daemon before it reads the counters.
    daemon.sigterm();
    daemon.wait_exit(SOON).await;
    let read =
        "select sum(idx_tup_read)::bigint + (select seq_tup_read from pg_stat_user_tables where relname = 'lied')
        from pg_stat_user_indexes where relname = 'lied'";
    until_true(&owner, SOON, &format!("select ({read}) >= {LARGE}")).await;
    let read: i64 = value(&owner, read).await;
    assert!(read < 10 * LARGE, "{read} rows were read of {LARGE}");
}

/// If the server's answer to a batch is unreadable, the batch may have committed, so the daemon
/// must not repeat it. A retry of the job reads the checkpoint again.
#[test]
fn a_batch_whose_answer_is_unreadable_is_not_repeated() {
    assert_eq!(action(Kind::Unreadable).0, Action::Fail);
}

/// If the server's answer to a batch is late, the server or the network was slow. However often
/// this happens, the daemon does not treat any row as the cause.
#[test]
fn a_batch_whose_answer_is_late_counts_against_no_row() {
    assert_eq!(action(Kind::Unanswered).0, Action::Reconnect);
    assert_eq!(action(Kind::Pooled).0, Action::Reconnect);
    let failed = FailedBatch {
        kind: Kind::Unanswered,
        tries: 1000,
        walking: true,
        rows: 1,
        is_known_row: true,
        without_row: 0,
        doubted_rows: 0,
    };
    assert_eq!(respond(failed), Response::GiveWay);
}

#[test]
fn every_kind_of_error_has_a_test() {
    let kinds =
        include_str!("../../src/error.rs").split("pub enum Kind {").nth(1).unwrap().split("\n}").next().unwrap();
    let tests = concat!(
        include_str!("error_policy.rs"),
        include_str!("quarantine.rs"),
        include_str!("guard.rs"),
        include_str!("attacks/runaway.rs"),
        include_str!("slow_rows.rs")
    );
    for kind in kinds.lines().map(str::trim).filter(|line| !line.starts_with("//") && !line.is_empty()) {
        let name = format!("Kind::{}", kind.trim_end_matches(','));
        assert!(tests.contains(&name), "{name}");
    }
}

/// A statement-level trigger raises an error even if the statement changes no row, so no row can be
/// isolated as the cause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_fails_without_a_row_fails_the_job() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    failing(&cluster, "few").await;
    run(&owner, "delete from few where id > 30; insert into raised values ('P0001')").await;
    let daemon = one_worker(&cluster.owner_url()).start();
    enqueue(&cluster, "few", PLUS_ONE, r#"{"max_batch_rows": 20, "throttle": "off"}"#).await;
    until_true(&owner, SOON, "select state = 'failed' and error like '%raised P0001%' from backfill.jobs").await;
    assert_eq!(times_logged(&daemon, Kind::Data), 1, "{}", daemon.output());
    run(&owner, "truncate raised; select backfill.retry('few')").await;
    until_state(&cluster, "few", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from few where n = 1").await, 10);
}

/// The only worker does not wait for the locked table of one job. It runs another job meanwhile,
/// and then continues with the job whose table was locked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slice_that_cannot_continue_is_put_off() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    for name in ["busy", "free"] {
        table(&cluster, name, ROWS).await;
    }
    let _daemon = one_worker(&cluster.owner_url()).start();
    enqueue(&cluster, "busy", PLUS_ONE, r#"{"max_batch_rows": 1, "max_rows_per_second": 50, "slices": 1}"#).await;
    until_more_batches(&owner, "busy", 3).await;
    let application = cluster.owner().await;
    run(&application, "begin; lock table busy").await;
    enqueue(&cluster, "free", PLUS_ONE, "{}").await;
    until_state(&cluster, "free", "succeeded", SOON).await;
    let waits = "select state = 'running' and waiting_reason = 'locked_rows' from backfill.jobs where name = 'busy'";
    until_true(&owner, SOON, waits).await;
    run(&application, "commit").await;
    until_state(&cluster, "busy", "succeeded", SOON).await;
    for name in ["busy", "free"] {
        exact(&cluster, name, ROWS).await.unwrap();
    }
}

/// Another session locks the tables of the queue for longer than the statements of the daemon wait
/// for a lock. No job fails, and a daemon that starts meanwhile does not exit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_on_the_queue_fails_no_job_and_ends_no_daemon() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    for name in ["walks", "waits"] {
        table(&cluster, name, ROWS).await;
    }
    let first = one_worker(&cluster.owner_url()).start();
    enqueue(&cluster, "walks", PLUS_ONE, r#"{"max_batch_rows": 1, "max_rows_per_second": 100, "slices": 1}"#).await;
    until_more_batches(&owner, "walks", 3).await;
    enqueue(&cluster, "waits", PLUS_ONE, "{}").await;
    let second = one_worker(&cluster.owner_url()).start();
    let locked = "begin; lock table backfill.job, backfill.slice, backfill.lease, backfill.checkpoint, backfill.worker, backfill.executor, backfill.event in access exclusive mode;
        select pg_sleep(12); commit";
    run(&cluster.owner().await, locked).await;
    for name in ["walks", "waits"] {
        until_state(&cluster, name, "succeeded", SOON).await;
        exact(&cluster, name, ROWS).await.unwrap();
    }
    for daemon in [&first, &second] {
        daemon.wait_ready(SOON).await;
        assert!(!daemon.output().contains("job failed"), "{}", daemon.output());
        assert!(!daemon.output().contains("a row is locked"), "{}", daemon.output());
    }
}
