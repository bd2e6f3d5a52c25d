//! Tests of the verification at the end of a job.

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::standby::Standby;
use tokio_postgres::Client;

use crate::rollout::{TABLE, spec, start, until_rollout};
use crate::support::{BACKFILLD, SOON, daemon, daemon_with, installed, refused, run, until_state, until_true, value};

#[tokio::test]
async fn rows_written_behind_the_walk_are_swept_and_a_gap_in_the_coverage_fails_the_job() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int, b int); insert into t select i, null, i from generate_series(1, 3000) i;
        create table u (id int primary key, a int); insert into u select generate_series(1, 3000)").await;
    let _daemon = daemon(&cluster).await;

    // The application resets a row that the walk has already passed, and inserts another row behind
    // the walk's position.
    run(&owner, "select backfill.enqueue('swept', 't', 'a = b', 'a is null', options => '{\"max_rows_per_second\": 1500, \"slices\": 2}')").await;
    until_true(&owner, SOON, "select exists (select from t where id = 1 and a = 1)").await;
    run(&owner, "update t set a = null where id = 1; insert into t values (0, null, 7)").await;
    until_state(&cluster, "swept", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where a is distinct from b").await, 0);
    let said: String = value(
        &owner,
        "select string_agg(kind || ': ' || message, '; ') from backfill.events where name = 'swept' and kind = 'sweep'",
    )
    .await;
    assert_eq!(
        said,
        "sweep: 2 rows match the filter after the walk (2 rows written after planning, 0 missed): starting sweep 1 of 3"
    );
    assert_eq!(value::<String>(&owner, "select concat_ws(' ', rows_scanned, rows_changed, rows_unresolved, verified_at is not null) from backfill.jobs where name = 'swept'").await, "3000 3002 0 t");

    // A trigger undoes the change to row 5 each time. After three sweeps, the job fails and reports
    // the remaining row.
    run(&owner, "update t set a = null; create function spoil() returns trigger language plpgsql as $$ begin update t set a = null where id = 5 and a is not null; return null; end $$;
        create trigger spoil after update on t for each row execute function spoil();
        select backfill.enqueue('unresolved', 't', 'a = b', 'a is null and id > 0')").await;
    until_true(&owner, SOON, "select state in ('failed', 'succeeded') from backfill.jobs where name = 'unresolved'")
        .await;
    let row = owner.query_one("select state, error, hint, finished_at is not null, verified_at is null from backfill.jobs where name = 'unresolved'", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "failed");
    assert_eq!(
        row.get::<_, String>(1),
        "1 row still needs work after 3 sweeps: 1 row written after planning, 0 missed"
    );
    assert!(row.get::<_, String>(2).contains("backfill.retry") && row.get(3) && row.get(4));
    run(&owner, "drop trigger spoil on t; select backfill.retry('unresolved')").await;
    until_state(&cluster, "unresolved", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where a is null and id > 0").await, 0);

    // The test creates a gap: it marks a slice as done before the slice has reached its end.
    run(
        &owner,
        "select backfill.enqueue('gap', 'u', 'a = 1', options => '{\"slices\": 3, \"max_rows_per_second\": 500}')",
    )
    .await;
    until_true(&owner, SOON, "select exists (select from backfill.slices where name = 'gap' and slice = 0 and state = 'leased' and rows_scanned > 0)").await;
    run(&owner, "select backfill.pause('gap')").await;
    until_state(&cluster, "gap", "paused", SOON).await;
    cluster.sql("postgres", "app", "update backfill.checkpoint c set done = true from backfill.slice s join backfill.job j on j.id = s.job_id
        where s.id = c.slice_id and s.kind = 'walk' and s.ordinal = 0 and j.name = 'gap'; select backfill.tune('gap', '{\"max_rows_per_second\": null}'); select backfill.resume('gap')").await;
    until_true(&owner, SOON, "select state in ('failed', 'succeeded') from backfill.jobs where name = 'gap'").await;
    let error: String =
        value(&owner, "select state || ': ' || coalesce(error, '') from backfill.jobs where name = 'gap'").await;
    assert!(
        error.starts_with("failed: the walk has a gap: slice 0 stopped at") && error.contains("before its upper bound"),
        "{error}"
    );
    assert_eq!(refused(&owner, "select backfill.assert_complete('gap')").await.sqlstate, "BF004");
    run(&owner, "select backfill.rerun('gap')").await;
    until_state(&cluster, "gap", "succeeded", SOON).await;
    run(&owner, "select backfill.assert_complete('gap')").await;
    assert_eq!(value::<i64>(&owner, "select count(*) from u where a = 1").await, 3000);
}

#[tokio::test]
async fn an_expression_that_reads_what_it_assigns_is_never_applied_twice_by_a_proof() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, n int not null); insert into t select i, 0 from generate_series(1, 500) i;
        select backfill.enqueue('auto', 't', 'n = n + 1', 'n < 100');
        select backfill.enqueue('filter', 't', 'n = n + 1', 'n < 100', options => '{\"verify\": \"filter\"}', priority => 1);
        select backfill.enqueue('none', 't', 'n = n + 1', options => '{\"verify\": \"none\"}', priority => 2)").await;
    // The jobs run one after the other. When a job begins its verification, a trigger adds a row
    // that matches the filter.
    run(&owner, "create function late() returns trigger language plpgsql as $$ begin
        if new.state = 'verifying' then insert into public.t values (-new.id, 0) on conflict do nothing; end if; return new; end $$;
        create trigger late before update on backfill.job for each row execute function late()").await;
    let _daemon = daemon_with(&cluster, "databases: [{name: main, url: x, workers: 1}]\n").await;
    until_true(&owner, SOON, "select bool_and(state in ('failed', 'succeeded')) from backfill.jobs").await;
    let ends: String = value(&owner, "select string_agg(concat_ws(' ', name, state, rows_changed, verified_at is not null), ', ' order by id) from backfill.jobs").await;
    assert_eq!(ends, "auto succeeded 500 t, filter succeeded 500 t, none succeeded 500 f");
    assert_eq!(value::<i64>(&owner, "select count(*) from t where id > 0 and n = 3").await, 500);
}

#[tokio::test]
async fn a_proof_by_expression_compares_every_row_and_changes_only_those_that_differ() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    // Table `wrote` records the changes, so that the test can check that no row is changed twice.
    run(&owner, "create table t (id int primary key, a int, b int); insert into t select i, null, i from generate_series(1, 3000) i;
        create table f (id int primary key, a int, b int); insert into f select i, case when i > 2 then null else -1 end, i from generate_series(1, 100) i;
        create table wrote (id int); create function wrote() returns trigger language plpgsql as $$ begin insert into public.wrote values (new.id); return new; end $$;
        create trigger wrote before update on t for each row execute function wrote()").await;
    let _daemon = daemon(&cluster).await;
    run(&owner, "select backfill.enqueue('all', 't', 'a = b + 1', options => '{\"verify\": \"expression\", \"max_rows_per_second\": 1500, \"slices\": 2}')").await;
    until_true(&owner, SOON, "select exists (select from t where id = 1 and a = 2)").await;
    run(&owner, "insert into t values (0, 7, 7)").await;
    until_state(&cluster, "all", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where a is distinct from b + 1").await, 0);
    assert_eq!(value::<String>(&owner, "select count(*) || ' ' || count(distinct id) from wrote").await, "3001 3001");
    let said: String =
        value(&owner, "select string_agg(message, '; ') from backfill.events where name = 'all' and kind = 'sweep'")
            .await;
    assert_eq!(
        said,
        "1 row differs from the result of set after the walk (1 row written after planning, 0 missed): starting sweep 1 of 3"
    );
    run(&owner, "select backfill.assert_complete('all')").await;

    // The filter selects the rows that the job may change. Other rows with a wrong value are
    // reported and not changed.
    run(
        &owner,
        "select backfill.enqueue('filtered', 'f', 'a = b', 'a is null', options => '{\"verify\": \"expression\"}')",
    )
    .await;
    until_true(&owner, SOON, "select state in ('failed', 'succeeded') from backfill.jobs where name = 'filtered'")
        .await;
    let job =
        owner.query_one("select state, error, hint from backfill.jobs where name = 'filtered'", &[]).await.unwrap();
    assert_eq!(
        (job.get::<_, &str>(0), job.get::<_, &str>(1)),
        ("failed", "2 rows differ from the result of set but do not match the filter, so the job does not change them")
    );
    let look = job.get::<_, &str>(2).split_once("Inspect: ").unwrap().1.split_once("; Fix").unwrap().0.to_owned();
    assert_eq!(owner.query(&look, &[]).await.unwrap().len(), 2, "{look}");
    assert_eq!(value::<i64>(&owner, "select count(*) from f where a = -1").await, 2);
    run(&owner, "update f set a = b where a = -1; select backfill.retry('filtered')").await;
    until_state(&cluster, "filtered", "succeeded", SOON).await;
}

#[tokio::test]
async fn a_proof_by_expression_is_refused_if_nothing_can_be_compared() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, n int, r float8); insert into t values (1, 1, 1)").await;
    for set in ["n = n + 1", "r = (select 1)"] {
        let call = format!("select backfill.enqueue('j', 't', '{set}', options => '{{\"verify\": \"expression\"}}')");
        let refusal = refused(&owner, &call).await;
        assert_eq!(refusal.message, "verify = expression is not possible for these expressions");
    }
    // `enqueue` cannot classify these expressions, so it accepts the jobs. The daemon classifies
    // the expressions when it plans the jobs. It then fails the jobs instead of verifying them in
    // another way.
    let _daemon = daemon(&cluster).await;
    run(
        &owner,
        "select backfill.enqueue('volatile', 't', 'r = random()', options => '{\"verify\": \"expression\"}');
         select backfill.enqueue('itself', 't', 'n = t.n * 2', options => '{\"verify\": \"expression\"}')",
    )
    .await;
    until_true(&owner, SOON, "select bool_and(state = 'failed') from backfill.jobs").await;
    let reported = "select count(*) from backfill.jobs where error like '%is not possible for these expressions%' and hint like '%backfill.tune%'";
    assert_eq!(value::<i64>(&owner, reported).await, 2);
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n = 1 and r = 1").await, 1);
    // The hint names these commands.
    run(&owner, "select backfill.tune('itself', '{\"verify\": \"auto\"}'), backfill.retry('itself')").await;
    until_state(&cluster, "itself", "succeeded", SOON).await;
    let refusal = refused(&owner, "select backfill.tune('itself', '{\"verify\": \"expression\"}')").await;
    assert_eq!(refusal.sqlstate, "BF001");
}

#[tokio::test]
async fn a_row_that_was_missed_is_swept() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int, b int); insert into t select i, null, i from generate_series(1, 1000) i;
        select backfill.enqueue('m', 't', 'a = b', 'a is null', options => '{\"max_rows_per_second\": 500}')").await;
    let _daemon = daemon(&cluster).await;
    let walks =
        "select exists (select from backfill.slices where name = 'm' and state = 'leased' and rows_scanned > 0)";
    until_true(&owner, SOON, walks).await;
    run(&owner, "select backfill.pause('m')").await;
    until_state(&cluster, "m", "paused", SOON).await;
    // Simulate a defect of the walk: the checkpoint passes rows that were not changed.
    cluster.sql("postgres", "app", "update backfill.checkpoint c set position = array['990'] from backfill.slice s where s.id = c.slice_id and s.kind = 'walk'").await;
    let left: i64 = value(&owner, "select count(*) from t where a is null and id <= 990").await;
    assert!(left > 1);
    run(&owner, "update t set a = null where id = 1; select backfill.tune('m', '{\"max_rows_per_second\": null}'), backfill.resume('m')").await;
    until_state(&cluster, "m", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where a is distinct from b").await, 0);
    let said: String = value(&owner, "select message from backfill.events where name = 'm' and kind = 'sweep'").await;
    let all = left + 1;
    assert_eq!(
        said,
        format!(
            "{all} rows match the filter after the walk (1 row written after planning, {left} missed): starting sweep 1 of 3"
        )
    );
    let missed: String =
        value(&owner, "select message from backfill.events where name = 'm' and kind = 'missed'").await;
    assert!(missed.starts_with(&format!("{left} rows still need work and have not been written since")), "{missed}");
}

/// `xmin` contains only the lower 32 bits of a transaction ID, which are ambiguous without the
/// upper bits.
#[tokio::test]
async fn a_row_is_as_old_as_its_transaction_even_after_a_wraparound() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    // The invalid, the bootstrap and the frozen transaction ID, two old IDs, and two IDs from the
    // previous cycle of the 32-bit counter.
    for xid in [0, 1, 2, 3, 500, u32::MAX, 3_000_000_000] {
        let since = format!("select backfill._written_since('{xid}', pg_current_snapshot())");
        assert!(!value::<bool>(&owner, &since).await, "{xid}");
    }
    run(&owner, "create table t (id int primary key)").await;
    run(&owner, "insert into t values (1)").await;
    let planned: String = value(&owner, "select pg_current_snapshot()::text").await;
    run(&owner, "insert into t values (2)").await;
    run(&owner, "vacuum freeze t").await;
    let read =
        "select string_agg(id || ' ' || backfill._written_since(xmin, $1::text::pg_snapshot), ', ' order by id) from t";
    let found: String = owner.query_one(read, &[&planned]).await.unwrap().get(0);
    assert_eq!(found, "1 false, 2 true");
}

#[tokio::test]
async fn rows_that_still_match_are_explained_with_their_count() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, n int); insert into t select i, i from generate_series(1, 10) i;
        select backfill.enqueue('u', 't', 'n = n - 1', 'n > 4')",
    )
    .await;
    let _daemon = daemon(&cluster).await;
    until_state(&cluster, "u", "succeeded", SOON).await;
    let hint: String = value(&owner, "select rows_unresolved || ': ' || hint from backfill.jobs").await;
    assert!(
        hint.starts_with("5: 5 rows still match the filter") && hint.contains("select * from public.t where (n > 4)"),
        "{hint}"
    );
}

#[tokio::test]
async fn columns_of_types_without_equality_are_filled_swept_and_verified() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, j json, p point, a json[], v varchar(9), x xml, c char(3)); insert into t select generate_series(1, 500);
         create type pair as (n int, j json); alter table t add b pair;
         select backfill.enqueue('t', 't', $$j = json_build_object('id', id), p = point(id, 1), a = array['{}'::json], v = id, c = 'x', b = row(id, '1')$$, 'j is null and v is null');
         create table u (id int primary key, v varchar(9), m text, d date); insert into u select generate_series(1, 500);
         select backfill.enqueue('number', 'u', 'v = id, d = ''2026-01-01 12:30''::timestamp', 'v is null');
         select backfill.enqueue('several', 'u', '(m, d) = (id, now())', 'm is null');
         select backfill.enqueue('plain', 't', $$v = id, c = 'y'$$, options => '{\"verify\": \"expression\"}', priority => 9);
         select backfill.enqueue('asked', 't', $$a = array['{}'::json]$$, options => '{\"verify\": \"expression\"}', priority => 10)",
    )
    .await;
    // Row 100 is inserted again after the first run. Its key is below the upper bound of the walk.
    run(&owner, "delete from t where id = 100").await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select bool_and(state in ('succeeded', 'failed')) from backfill.jobs").await;
    until_state(&cluster, "t", "succeeded", SOON).await;
    until_state(&cluster, "plain", "succeeded", SOON).await;
    assert_eq!(
        value::<i64>(&owner, "select count(*) from t where j ->> 'id' <> v or p[0] <> id or (b).n <> id").await,
        0
    );
    run(&owner, "insert into t values (100); select backfill.rerun('t')").await;
    until_true(&owner, SOON, "select state = 'succeeded' and rows_changed = 1 from backfill.jobs where name = 't'")
        .await;
    let said: String = value(&owner, "select error from backfill.jobs where name = 'asked' and state = 'failed'").await;
    assert!(said.contains("Values of type json cannot be compared"), "{said}");
}

/// An alert notifies an operator if a job makes no progress, so a long verification must report its
/// progress while it runs.
#[tokio::test]
async fn a_proof_reports_its_progress() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create function slowly(i int) returns int language plpgsql immutable as $$ begin perform pg_sleep(0.002); return i; end $$;
         create table t (id int primary key, a int); insert into t select generate_series(1, 1500)",
    )
    .await;
    let daemon = daemon(&cluster).await;
    run(&owner, r#"select backfill.enqueue('j', 't', 'a = slowly(id)', options => '{"verify": "expression", "throttle": "off"}')"#).await;
    let mut seen = std::collections::BTreeSet::new();
    while value::<bool>(&owner, "select state not in ('succeeded', 'failed') from backfill.jobs").await {
        let (_, page) = daemon.get("/metrics").await.unwrap();
        let of = |name: &str| page.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        if of("backfilld_job_info{").is_some_and(|line| line.contains("state=\"verifying\"")) {
            seen.extend(of("backfilld_job_last_progress_timestamp_seconds{"));
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert!(seen.len() > 2, "{seen:?}");
}

#[tokio::test]
async fn a_sweep_changes_no_row_twice_if_the_expression_reads_the_whole_row() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table w (id int primary key, n int not null default 0); insert into w select generate_series(1, 1000);
        create function inc(w) returns int language sql immutable as 'select $1.n + 1';
        create function look(i int) returns int language sql stable as 'select n + 1 from w where id = i';
        create view v as select * from w;
        create table w2 (like w including all); insert into w2 select * from w;
        create table w3 (like w including all); insert into w3 select * from w;
        create table w4 (like w including all); insert into w4 select * from w",
    )
    .await;
    run(
        &owner,
        "select backfill.enqueue('whole', 'w', 'n = inc(w)', 'n < 3');
        select backfill.enqueue('json', 'w2', $$n = (to_jsonb(w2) ->> 'n')::int + 1$$, 'n < 3');
        select backfill.enqueue('function', 'w3', 'n = look(id) * 0 + n + 1', 'n < 3');
        select backfill.enqueue('subquery', 'w4', 'n = (select x.n + 1 from w4 x where x.id = w4.id)', 'n < 3')",
    )
    .await;
    let _daemon = daemon(&cluster).await;
    for (name, table) in [("whole", "w"), ("json", "w2"), ("function", "w3"), ("subquery", "w4")] {
        until_state(&cluster, name, "succeeded", SOON).await;
        assert_eq!(value::<i64>(&owner, &format!("select count(*) from {table} where n <> 1")).await, 0, "{name}");
        let swept = format!("select count(*) from backfill.events where name = '{name}' and kind = 'sweep'");
        assert_eq!(value::<i64>(&owner, &swept).await, 0, "{name}");
    }
}

/// Starts a daemon that verifies on the standby.
async fn daemon_with_standby(cluster: &Cluster, standby: &Standby) -> Daemon {
    let config = format!(
        "lease: {{poll_ms: 50}}\nlog: {{level: debug}}\ndatabases:\n  - name: main\n    url: '{}'\n    verify_on: ['127.0.0.1:1', '127.0.0.1:{}']\n",
        cluster.owner_url(),
        standby.port()
    );
    let daemon = Daemon::builder(BACKFILLD, &cluster.owner_url()).config(config).arg("--no-migrate").start();
    daemon.wait_ready(SOON).await;
    daemon
}

/// Returns how many rows of a table were read on this server.
async fn rows_read(server: &Client, table: &str) -> i64 {
    value(server, &format!("select coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::int8 from pg_stat_user_tables where relname = '{table}'")).await
}

/// The first standby in the configuration cannot be reached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rows_of_a_verification_are_read_on_a_standby() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int); insert into t select generate_series(1, 3000); create table u (id int primary key, a int); insert into u select generate_series(1, 3000)").await;
    let standby = Standby::of(&cluster).await;
    let there = standby.superuser("app").await;
    let daemon = daemon_with_standby(&cluster, &standby).await;
    run(&owner, r#"select backfill.enqueue('t', 't', 'a = id * 2', options => '{"verify": "expression"}')"#).await;
    until_state(&cluster, "t", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where a = id * 2").await, 3000);
    backfilld_testbed::wait::until(SOON, "the standby has counted the rows", async || {
        rows_read(&there, "t").await >= 3000
    })
    .await;

    // A standby that does not replay is not used.
    run(&there, "select pg_wal_replay_pause()").await;
    let before = rows_read(&there, "u").await;
    run(
        &owner,
        r#"select backfill.enqueue('u', 'u', 'a = id * 2', options => '{"throttle": "off", "verify": "expression"}')"#,
    )
    .await;
    until_state(&cluster, "u", "succeeded", SOON).await;
    assert!(daemon.output().contains("has not replayed the WAL up to"), "{}", daemon.output());
    run(&there, "select pg_wal_replay_resume()").await;
    assert_eq!(rows_read(&there, "u").await, before);

    // A standby that is no longer running is not used either.
    drop(standby);
    run(&owner, "select backfill.rerun('t')").await;
    until_true(
        &owner,
        SOON,
        "select state = 'succeeded' and verified_at > started_at from backfill.jobs where name = 't'",
    )
    .await;
}

/// A row that differs is found on the standby.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_comparison_of_a_rollout_reads_on_a_standby() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let standby = Standby::of(&cluster).await;
    let there = standby.superuser("app").await;
    let _daemon = daemon_with_standby(&cluster, &standby).await;
    start(&owner, &spec("constrained").replacen('{', r#"{"on_difference": "report", "#, 1)).await;
    until_rollout(&owner, "cents", "stage = 'constrained' and state = 'waiting'").await;
    // The rows are read twice: in the verification of the backfill job, and in the comparison of
    // all rows.
    backfilld_testbed::wait::until(SOON, "the standby has counted the rows", async || {
        rows_read(&there, "orders").await >= 10_000
    })
    .await;
    let superuser = cluster.superuser("app").await;
    run(&superuser, "set session_replication_role = replica; update orders set total_cents = 1 where id = 12").await;
    run(&owner, "select backfill.rollout_advance('cents')").await;
    until_rollout(&owner, "cents", "state = 'failed' and error like '%1 row differs%'").await;
}
