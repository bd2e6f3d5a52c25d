//! Tests of pause, resume, cancel, approve, retry, rerun, tune, forget, pause_all and resume_all,
//! and of assert_complete and wait.

use backfilld::job::state::{Event, State, transition};
use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::wait;
use tokio_postgres::Client;

use crate::proof::batches;
use crate::support::{SOON, ServerError, daemon, installed, refused, run, sql, until_state, until_true, value};

/// Creates a job and puts it into the given state, mostly by writing to the tables of the schema.
async fn one_in(cluster: &Cluster, state: State) -> String {
    let owner = cluster.owner().await;
    let name = format!("{state}_{:.8}", uuid());
    run(&owner, &format!("select backfill.enqueue('{name}', 't', 'a = 1', 'a is null')")).await;
    // In every state except `queued`, the job is planned and has a walk, which the functions
    // `resume` and `retry` can continue.
    run(&owner, &format!("update backfill.job set state = 'running', plan = '{{\"upper\": [\"9\"]}}' where name = '{name}' and '{state}' <> 'queued';
        insert into backfill.slice (job_id, kind, relation, lower, upper, run_as) select id, 'walk', relation, null, '{{9}}', run_as from backfill.job where name = '{name}' and '{state}' <> 'queued';
        update backfill.slice s set state = 'done' from backfill.job j where j.id = s.job_id and j.name = '{name}' and s.kind = 'plan' and '{state}' <> 'queued'")).await;
    if state == State::Verifying {
        run(&owner, &format!("select backfill._add_slices(id, 'verify', 1) from backfill.job where name = '{name}'"))
            .await;
    }
    if !matches!(state, State::Queued | State::Running) {
        run(&owner, &format!("update backfill.job set state = '{state}', desired_state = case '{state}' when 'paused' then 'paused' when 'cancelled' then 'cancelled' else 'running' end where name = '{name}'")).await;
    }
    name
}

fn uuid() -> String {
    format!("{:x}", std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos())
        .chars()
        .rev()
        .collect()
}

#[tokio::test]
async fn each_command_in_each_state_follows_the_state_machine_or_is_refused() {
    let cluster = installed(Options::default()).await;
    sql(&cluster, "create table t (id int primary key, a int)").await;
    let owner = cluster.owner().await;
    for (verb, event) in [
        ("pause", Some(Event::Pause)),
        ("resume", Some(Event::Resume)),
        ("cancel", Some(Event::Cancel)),
        ("retry", Some(Event::Retry)),
        ("rerun", Some(Event::Rerun)),
        ("tune", None),
        ("approve", None),
        ("forget", None),
    ] {
        for state in State::ALL {
            let name = one_in(&cluster, state).await;
            let more = if verb == "tune" { ", '{\"slices\": 2}'" } else { "" };
            let answer = owner.query_one(&format!("select backfill.{verb}('{name}'{more})::text"), &[]).await;
            let legal = event.and_then(|event| transition(state, event).ok());
            let what = format!("{verb} in {state}");
            match answer {
                Ok(row) => {
                    let after = row.get::<_, Option<String>>(0).and_then(|text| State::read(&text));
                    match (verb, legal) {
                        (_, Some(next)) => assert!(next.contains(&after.unwrap()), "{what}: {after:?}"),
                        // If the job already has the desired state, the call changes nothing.
                        ("pause" | "resume", None) => {
                            assert_eq!(after, Some(state), "{what}");
                            assert!(!state.has_ended(), "{what}");
                        }
                        ("tune", None) => assert_eq!(after, Some(state), "{what}"),
                        ("forget", None) => {
                            assert!(state.has_ended(), "{what}");
                            let left: i64 =
                                value(&owner, &format!("select count(*) from backfill.jobs where name = '{name}'"))
                                    .await;
                            assert_eq!(left, 0);
                        }
                        _ => panic!("{what} was accepted: {after:?}"),
                    }
                }
                Err(error) => {
                    let refusal = ServerError::from(error);
                    assert_eq!(refusal.sqlstate, "BF005", "{what}: {refusal:?}");
                    assert!(legal.is_none(), "{what}: {refusal:?}");
                    assert!(refusal.detail.is_some() && refusal.hint.is_some(), "{refusal:?}");
                    let now: String =
                        value(&owner, &format!("select state from backfill.jobs where name = '{name}'")).await;
                    assert_eq!(now, state.to_string(), "{what}");
                }
            }
        }
        assert_eq!(
            refused(&owner, &format!("select backfill.{verb}('none'{})", if verb == "tune" { ", '{}'" } else { "" }))
                .await
                .sqlstate,
            "BF003"
        );
    }
    // A job can be approved twice. The events name the role that called the functions.
    run(&owner, "select backfill.enqueue('held', 't', 'a = 1', needs_approval => true)").await;
    assert_eq!(
        value::<String>(&owner, "select waiting_reason from backfill.jobs where name = 'held'").await,
        "approval"
    );
    run(&owner, "select backfill.approve('held'); select backfill.approve('held')").await;
    run(&owner, "select backfill.pause('held', 'lunch')").await;
    assert_eq!(value::<String>(&owner, "select reason from backfill.jobs where name = 'held'").await, "lunch");
    let said: String = value(
        &owner,
        "select string_agg(distinct kind || ' by ' || actor, ', ') from backfill.events where name = 'held'",
    )
    .await;
    assert_eq!(said, "approve by owner, enqueued by owner, pause by owner, paused by owner");
    run(&owner, "select backfill.pause_all('maintenance')").await;
    let reason =
        "select distinct waiting_reason from backfill.jobs where state = 'queued' and desired_state = 'running'";
    assert_eq!(value::<String>(&owner, reason).await, "paused_all");
    run(&owner, "select backfill.resume_all()").await;
    let switched: i64 = value(&owner, "select count(*) from backfill.events where kind in ('pause_all', 'resume_all') and actor = 'owner' and job_id is null").await;
    assert_eq!(switched, 2);
}

const CHANGED: &str = "select count(*) from t where a is not null";

#[tokio::test]
async fn pause_tune_and_cancel_stop_each_slice_after_at_most_two_more_batches() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int); insert into t select generate_series(1, 100000)").await;
    let _daemon = daemon(&cluster).await;
    run(
        &owner,
        "select backfill.enqueue('j', 't', 'a = 1', options => '{\"max_rows_per_second\": 2000, \"slices\": 2}')",
    )
    .await;
    until_true(&owner, SOON, "select count(*) > 200 from t where a is not null").await;

    stops(&owner, "select backfill.pause('j', 'lunch')", "select state = 'paused' from backfill.jobs").await;

    // At this rate the workers wait most of the time. A higher rate must take effect while they
    // wait.
    run(&owner, "select backfill.tune('j', '{\"max_rows_per_second\": 0.1}'); select backfill.resume('j')").await;
    until_true(&owner, SOON, "select coalesce(waiting_reason = 'rate', false) from backfill.jobs").await;
    run(&owner, "select backfill.tune('j', '{\"max_rows_per_second\": 5000}')").await;
    let from: i64 = value(&owner, CHANGED).await;
    until_true(&owner, SOON, &format!("select count(*) >= {from} + 200 from t where a is not null")).await;

    // Pause while the workers wait. The job must be paused long before the next batch.
    run(&owner, "select backfill.tune('j', '{\"max_rows_per_second\": 0.1}')").await;
    wait::until(SOON, "no batch runs between two heartbeats", async || {
        let before = batches(&owner, "j").await;
        heartbeat(&owner).await;
        batches(&owner, "j").await == before
    })
    .await;
    let before = batches(&owner, "j").await;
    stops(&owner, "select backfill.pause('j')", "select state = 'paused' from backfill.jobs").await;
    assert_eq!(batches(&owner, "j").await, before, "the pause waited for the next batch");
    run(&owner, "select backfill.resume('j'); select backfill.tune('j', '{\"max_rows_per_second\": 2000}')").await;

    let released = "select state = 'running' and waiting_reason = 'paused_all'
        and not exists (select from backfill.slices where state = 'leased') from backfill.jobs";
    stops(&owner, "select backfill.pause_all('storm')", released).await;
    let from: i64 = value(&owner, CHANGED).await;
    run(&owner, "select backfill.resume_all()").await;
    until_true(&owner, SOON, &format!("select count(*) > {from} from t where a is not null")).await;

    stops(&owner, "select backfill.cancel('j', 'enough')", "select state = 'cancelled' from backfill.jobs").await;
    let counted: bool =
        value(&owner, "select rows_changed = (select count(*) from t where a is not null) from backfill.jobs").await;
    assert!(counted, "rows_changed is not the number of changed rows");
    assert!(refused(&owner, "select backfill.assert_complete('j')").await.message.contains("cancelled"));

    run(&owner, "select backfill.tune('j', '{\"max_rows_per_second\": null}'); select backfill.retry('j')").await;
    let waiting = cluster.owner().await;
    run(&waiting, "call backfill.wait('j', '30 s')").await;
    run(&owner, "select backfill.assert_complete('j')").await;
    assert_eq!(value::<i64>(&owner, CHANGED).await, 100_000);
    assert_eq!(value::<i64>(&owner, "select rows_changed from backfill.jobs").await, 100_000);
}

/// Waits until the daemon has sent another heartbeat.
async fn heartbeat(owner: &Client) {
    let last: String = value(owner, "select max(heartbeat_at)::text from backfill.workers").await;
    until_true(owner, SOON, &format!("select max(heartbeat_at) > '{last}' from backfill.workers")).await;
}

/// Runs a command and waits until it has taken effect on job j. Meanwhile each of the two workers
/// may finish its batch in flight. A worker that read the job's state before the command may also
/// run one more batch. After that, no row may change during two heartbeats.
async fn stops(owner: &Client, command: &str, effect: &str) {
    run(owner, command).await;
    let before = batches(owner, "j").await;
    until_true(owner, SOON, effect).await;
    let more = batches(owner, "j").await - before;
    assert!(more <= 4, "{more} more batches after: {command}");
    let changed: i64 = value(owner, CHANGED).await;
    heartbeat(owner).await;
    heartbeat(owner).await;
    assert_eq!(
        value::<i64>(owner, CHANGED).await,
        changed,
        "rows changed after this command had taken effect: {command}"
    );
}

#[tokio::test]
async fn waiting_in_sql_holds_no_snapshot_and_ends_with_the_job() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int); insert into t values (1); select backfill.enqueue('j', 't', 'a = 1')").await;
    assert_eq!(refused(&owner, "call backfill.wait('j', '100 ms')").await.sqlstate, "BF004");
    run(&owner, "begin").await;
    let refusal = refused(&owner, "call backfill.wait('j')").await;
    run(&owner, "rollback").await;
    assert_eq!((refusal.sqlstate.as_str(), refusal.hint.unwrap().contains("backfilld wait")), ("BF005", true));

    let waiter = cluster.owner().await;
    let pid: i32 = value(&waiter, "select pg_backend_pid()").await;
    let waits = tokio::spawn(async move { waiter.batch_execute("call backfill.wait('j', '60 s')").await });
    let seen = format!(
        "select coalesce(max(clock_timestamp() - xact_start), '0') < '5 s' and bool_or(state = 'active')
        from pg_stat_activity where pid = {pid} and backend_xmin is not null or pid = {pid}"
    );
    until_true(&owner, SOON, &format!("select state = 'active' from pg_stat_activity where pid = {pid}")).await;
    // `wait` must not hold back vacuum: its transaction is always recent, and its xmin advances.
    let mut xmins = std::collections::BTreeSet::new();
    wait::until(SOON, "the waiter's xmin has had ten values", async || {
        assert!(value::<bool>(&owner, &seen).await, "the waiter keeps a snapshot");
        run(&owner, "select pg_current_xact_id()").await;
        let xmin = owner
            .query_one(&format!("select backend_xmin::text from pg_stat_activity where pid = {pid}"), &[])
            .await
            .unwrap();
        xmins.extend(xmin.get::<_, Option<String>>(0));
        xmins.len() >= 10
    })
    .await;
    let _daemon = daemon(&cluster).await;
    waits.await.unwrap().unwrap();
    run(&owner, "select backfill.assert_complete('j')").await;
    // `assert_complete` raises an error if the job was not verified.
    run(&owner, "select backfill.enqueue('unproven', 't', 'a = 2', options => '{\"verify\": \"none\"}')").await;
    run(&owner, "call backfill.wait('unproven', '30 s')").await;
    let refusal = refused(&owner, "select backfill.assert_complete('unproven')").await;
    assert_eq!(
        (refusal.sqlstate.as_str(), refusal.message.as_str()),
        ("BF004", "job \"unproven\" succeeded without verification")
    );
}

#[tokio::test]
async fn a_pause_takes_effect_while_a_row_is_still_locked() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, n int not null default 0); insert into t select generate_series(1, 1000)",
    )
    .await;
    let application = cluster.owner().await;
    application.batch_execute("begin; select 1 from t where id = 1 for update").await.unwrap();
    run(&owner, "select backfill.enqueue('j', 't', 'n = n + 1')").await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select waiting_reason is not distinct from 'locked_rows' from backfill.jobs").await;
    run(&owner, "select backfill.pause('j', 'maintenance')").await;
    until_true(&owner, SOON, "select state = 'paused' from backfill.jobs").await;
    application.batch_execute("commit").await.unwrap();
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n = 0").await, 1);
    run(&owner, "select backfill.resume('j')").await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n <> 1").await, 0);
}

/// After a retry or a rerun, the job must no longer show the error or the hint of its last failure.
/// This holds for roles that may see row values and for other roles.
#[tokio::test]
async fn a_retry_and_a_rerun_clear_the_last_error_and_its_redacted_form() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int); insert into t values (1)").await;
    for (name, plan, verb) in [("a", "null", "retry"), ("b", "'{}'", "retry"), ("c", "'{}'", "rerun")] {
        run(&owner, &format!("select backfill.enqueue('{name}', 't', 'a = 1', 'a is null')")).await;
        run(&owner, &format!("update backfill.job set state = 'failed', plan = {plan}, finished_at = now(), error = 'e', hint = 'h', redacted = '{{\"error\": \"r\"}}' where name = '{name}'")).await;
        run(&owner, &format!("select backfill.{verb}('{name}')")).await;
        let forgotten = format!(
            "select error is null and hint is null and redacted is null from backfill.job where name = '{name}'"
        );
        assert!(value::<bool>(&owner, &forgotten).await, "{name}, {verb}");
    }
}
