//! Some rows are locked, and other rows cannot be changed until they are fixed. The walk defers or
//! quarantines these rows and continues. No row is lost. Each row is changed exactly once, when its
//! change becomes possible.

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::Daemon;

use crate::support::{BACKFILLD, SOON, daemon, installed, run, sql, until_state, until_true, value};

/// Returns the number of rows of `table` with an `n` other than `expected`.
async fn not(cluster: &Cluster, table: &str, expected: i64) -> i64 {
    value(&cluster.owner().await, &format!("select count(*) from {table} where n <> {expected}")).await
}

/// Creates a table of `rows` rows with `n = 0`.
async fn table(cluster: &Cluster, name: &str, rows: i64) {
    let made = format!(
        "create table {name} (id int primary key, n int not null default 0, note text);
         insert into {name} (id, note) select i, 'row ' || i from generate_series(1, {rows}) i"
    );
    sql(cluster, &made).await;
}

#[tokio::test]
async fn a_locked_row_delays_only_itself_and_not_the_walk() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    table(&cluster, "plain", 20_000).await;
    table(&cluster, "filtered", 20_000).await;
    table(&cluster, "reading", 20_000).await;
    run(
        &owner,
        r#"create table "Odd ""Key" (b text collate "C", a bool, n int not null default 0, primary key (b, a));
        insert into "Odd ""Key" select 'b''' || i, i % 2 = 0 from generate_series(1, 20000) i"#,
    )
    .await;
    let application = cluster.owner().await;
    run(&application, r#"begin; select from plain where id in (1, 777, 20000) for update; update filtered set note = 'mine' where id between 500 and 520;
        select from reading where id = 9999 for no key update; select from "Odd ""Key" where b = 'b''1' for share"#).await;
    run(&owner, r#"select backfill.enqueue('plain', 'plain', 'n = n + 1', options => '{"throttle": "off"}'); select backfill.enqueue('filtered', 'filtered', 'n = 1', 'n = 0', options => '{"throttle": "off"}');
        select backfill.enqueue('reading', 'reading', 'n = (select 1 + x.n from reading x where x.id = reading.id)', options => '{"throttle": "off"}');
        select backfill.enqueue('odd', '"Odd ""Key"', 'n = n + 1', options => '{"throttle": "off"}')"#).await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select bool_and(waiting_reason is not distinct from 'locked_rows') from backfill.jobs")
        .await;
    for (name, left) in [("plain", 3), ("filtered", 21), ("reading", 1), ("\"Odd \"\"Key\"", 1)] {
        assert_eq!(not(&cluster, name, 1).await, left, "{name}");
    }
    run(&application, "commit").await;
    for (job, name) in
        [("plain", "plain"), ("filtered", "filtered"), ("reading", "reading"), ("odd", "\"Odd \"\"Key\"")]
    {
        until_state(&cluster, job, "succeeded", SOON).await;
        assert_eq!(not(&cluster, name, 1).await, 0, "{job}");
    }
    let totals = "select string_agg(rows_changed || ' of ' || rows_scanned || ', ' || rows_quarantined, '; ') from backfill.jobs";
    assert_eq!(value::<String>(&owner, totals).await, ["20000 of 20000, 0"; 4].join("; "));
    assert_eq!(
        value::<i64>(&owner, "select count(*) from filtered where note = 'mine'").await,
        21,
        "an update was lost"
    );
}

/// A trigger locks a row of another table, and another session already holds a lock on that row. No
/// row of the target table is locked.
#[tokio::test]
async fn a_row_that_waits_for_another_tables_row_is_deferred_alone() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    table(&cluster, "t", 3000).await;
    run(
        &owner,
        "create table stock (id int primary key); insert into stock values (7);
        create function take() returns trigger language plpgsql as $$ begin
          if new.id = 1234 then perform from stock where id = 7 for update; end if; return new; end $$;
        create trigger take before update on t for each row execute function take()",
    )
    .await;
    let application = cluster.owner().await;
    run(&application, "begin; select from stock for update").await;
    run(&owner, "select backfill.enqueue('j', 't', 'n = n + 1')").await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select waiting_reason is not distinct from 'locked_rows' from backfill.jobs").await;
    assert_eq!(value::<i64>(&owner, "select sum(id) from t where n = 0").await, 1234);
    run(&application, "commit").await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert_eq!(not(&cluster, "t", 1).await, 0);
}

/// Another session locks the whole table, as DDL does, so the walk must not defer single rows.
#[tokio::test]
async fn the_walk_waits_for_a_locked_table_and_defers_no_row() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    table(&cluster, "t", 3000).await;
    let application = cluster.owner().await;
    run(&owner, r#"select backfill.enqueue('j', 't', 'n = n + 1', options => '{"max_rows_per_second": 300, "max_batch_rows": 10}')"#).await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select rows_scanned > 20 from backfill.jobs").await;
    run(&application, "begin; lock table t in share mode").await;
    until_true(&owner, SOON, "select waiting_reason is not distinct from 'locked_rows' from backfill.jobs").await;
    run(&owner, "select pg_sleep(1)").await;
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.deferred_row").await, 0);
    run(&application, "commit").await;
    sql(&cluster, r#"select backfill.tune('j', '{"max_rows_per_second": null}')"#).await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert_eq!(not(&cluster, "t", 1).await, 0);
}

#[tokio::test]
async fn bad_rows_are_quarantined_with_their_error_and_a_retry_processes_only_those() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    for name in ["plain", "filtered", "reading", "late"] {
        table(&cluster, name, 5000).await;
        run(&owner, &format!("alter table {name} add constraint sound check (n = 0 or note not like 'bad%') not valid; update {name} set note = 'bad ' || id where id in (1, 2, 3, 2500, 5000)")).await;
    }
    run(&owner, "alter table late drop constraint sound;
        create function late() returns trigger language plpgsql as $$ begin if new.note like 'bad%' and new.n <> 0 then raise exception 'not this one' using errcode = '23514'; end if; return null; end $$;
        create constraint trigger late after update on late deferrable initially deferred for each row execute function late();
        select backfill.enqueue('plain', 'plain', 'n = n + 1', options => '{\"slices\": 3}'); select backfill.enqueue('filtered', 'filtered', 'n = 1', 'n = 0');
        select backfill.enqueue('reading', 'reading', 'n = (select 1 + x.n from reading x where x.id = reading.id)');
        select backfill.enqueue('late', 'late', 'n = n + 1')").await;
    let daemon = daemon(&cluster).await;
    for job in ["plain", "filtered", "reading", "late"] {
        until_true(&owner, SOON, &format!("select state = 'failed' from backfill.jobs where name = '{job}'")).await;
        let left = format!("select string_agg(id::text, ',' order by id) from {job} where n = 0");
        assert_eq!(value::<String>(&owner, &left).await, "1,2,3,2500,5000", "{job}");
        let kept = format!(
            "select string_agg(key ->> 'id', ',' order by key) from backfill.row_errors where name = '{job}' and sqlstate = '23514' and resolved_at is null and relation = 'public.{job}'"
        );
        assert_eq!(value::<String>(&owner, &kept).await, "1,2,3,2500,5000", "{job}");
        let said = format!(
            "select error || ' ' || hint || ' ' || rows_quarantined || ' ' || rows_scanned || ' ' || rows_changed from backfill.jobs where name = '{job}'"
        );
        let said: String = value(&owner, &said).await;
        assert!(
            said.starts_with("5 rows could not be changed")
                && said.contains("backfill.row_errors")
                && said.ends_with(" 5 5000 4995"),
            "{said}"
        );
    }
    let counted = daemon.get("/metrics").await.unwrap().1;
    assert!(counted.contains(r#"backfilld_rows_quarantined_total{database="main",job_name="plain"} 5"#), "{counted}");
    // Two rows are fixed, one row is deleted, and two rows stay bad.
    for job in ["plain", "filtered", "reading", "late"] {
        run(&owner, &format!("update {job} set note = 'good' where id in (1, 2500); delete from {job} where id = 2; select backfill.retry('{job}')")).await;
        until_true(
            &owner,
            SOON,
            &format!("select state = 'failed' and rows_quarantined = 2 from backfill.jobs where name = '{job}'"),
        )
        .await;
        let tried = format!(
            "select string_agg((key ->> 'id') || ' ' || attempts || ' ' || (resolved_at is null), ', ' order by key) from backfill.row_errors where name = '{job}'"
        );
        assert_eq!(
            value::<String>(&owner, &tried).await,
            "1 1 false, 2 1 false, 3 2 true, 2500 1 false, 5000 2 true",
            "{job}"
        );
        run(&owner, &format!("update {job} set note = 'good' where id in (3, 5000); select backfill.retry('{job}')"))
            .await;
        until_state(&cluster, job, "succeeded", SOON).await;
        assert_eq!(not(&cluster, job, 1).await, 0, "{job}");
        assert_eq!(
            value::<String>(
                &owner,
                &format!("select rows_quarantined || ' ' || rows_changed from backfill.jobs where name = '{job}'")
            )
            .await,
            "0 4999",
            "{job}"
        );
    }
}

#[tokio::test]
async fn more_bad_rows_than_allowed_fail_the_job_and_name_the_last_one() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    table(&cluster, "t", 3000).await;
    table(&cluster, "u", 3000).await;
    run(
        &owner,
        r#"alter table t add check (n = 0 or id % 100 <> 50); alter table u add check (n = 0 or id <> 1500);
        select backfill.enqueue('many', 't', 'n = n + 1', options => '{"max_row_errors": 4}');
        select backfill.enqueue('none', 'u', 'n = n + 1', options => '{"max_row_errors": 0}')"#,
    )
    .await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select bool_and(state = 'failed') from backfill.jobs").await;
    let said: String = value(&owner, "select error from backfill.jobs where name = 'many'").await;
    assert!(
        said.contains(r#"more than 4 rows could not be changed; the last is row {"id": 450} of public.t"#)
            && said.contains("max_row_errors is 4"),
        "{said}"
    );
    assert_eq!(value::<String>(&owner, "select rows_quarantined || ' ' || (select count(*) from t where n = 1) from backfill.jobs where name = 'many'").await, "4 445");
    let said: String = value(&owner, "select error from backfill.jobs where name = 'none'").await;
    assert!(said.starts_with(r#"row {"id": 1500} of public.u could not be changed: "#), "{said}");
    assert_eq!(value::<String>(&owner, "select rows_quarantined || ' ' || (select count(*) from u where n = 1) from backfill.jobs where name = 'none'").await, "0 1499");
    run(&owner, r#"alter table t drop constraint t_check; alter table u drop constraint u_check; select backfill.retry(name) from backfill.jobs"#).await;
    for (job, name) in [("many", "t"), ("none", "u")] {
        until_state(&cluster, job, "succeeded", SOON).await;
        assert_eq!(not(&cluster, name, 1).await, 0, "{job}");
    }
}

/// An operator raises `max_row_errors` after the job has failed because of this limit. The retry
/// first tries the quarantined rows again, and then continues the walk.
#[tokio::test]
async fn tune_raises_the_limit_of_bad_rows_and_the_walk_resumes() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    table(&cluster, "t", 3000).await;
    run(
        &owner,
        r#"alter table t add check (n = 0 or id % 100 <> 50);
        select backfill.enqueue('j', 't', 'n = n + 1', options => '{"max_row_errors": 4}')"#,
    )
    .await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select state = 'failed' from backfill.jobs").await;
    assert_eq!(not(&cluster, "t", 0).await, 445);
    run(&owner, r#"select backfill.tune('j', '{"max_row_errors": 100}'); select backfill.retry('j')"#).await;
    until_true(&owner, SOON, "select state = 'failed' and rows_scanned = 3000 from backfill.jobs").await;
    let ended = "select rows_quarantined || ' ' || rows_changed || ' ' || error from backfill.jobs";
    let ended: String = value(&owner, ended).await;
    assert!(ended.starts_with("30 2970 30 rows could not be changed"), "{ended}");
    assert_eq!(not(&cluster, "t", 1).await, 30);
    // The new limit is lower than the number of quarantined rows. A quarantined row no longer
    // counts if the application has changed its key after it was quarantined.
    run(&owner, r#"select backfill.tune('j', '{"max_row_errors": 5}'); update t set id = id + 100001 where id > 350 and n = 0; select backfill.retry('j')"#).await;
    until_true(&owner, SOON, "select state = 'failed' and rows_quarantined < 30 from backfill.jobs").await;
    assert_eq!(value::<i64>(&owner, "select rows_quarantined from backfill.jobs").await, 4);
}

/// The application updates many rows in one transaction. The walk of a slice defers at most 10,000
/// rows plus one batch, then it waits.
#[tokio::test]
async fn the_walk_waits_if_too_many_rows_are_locked_and_changes_all_of_them() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    table(&cluster, "t", 30_000).await;
    let application = cluster.owner().await;
    run(&application, "begin; update t set note = 'mine' where id > 8000").await;
    run(&owner, "select backfill.enqueue('j', 't', 'n = n + 1')").await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select waiting_reason is not distinct from 'locked_rows' from backfill.jobs").await;
    until_true(&owner, SOON, "select count(*) >= 10000 from backfill.deferred_row").await;
    run(&owner, "select pg_sleep(1)").await;
    let aside: i64 = value(&owner, "select count(*) from backfill.deferred_row").await;
    assert!(aside <= 15_000, "{aside}");
    let state = "select state || ' ' || waiting_reason from backfill.jobs";
    assert_eq!(value::<String>(&owner, state).await, "running locked_rows");
    assert_eq!(not(&cluster, "t", 0).await, 8000);
    run(&application, "commit").await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert_eq!(not(&cluster, "t", 1).await, 0);
    assert_eq!(value::<i64>(&owner, "select count(*) from t where note = 'mine'").await, 22_000, "an update was lost");
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.deferred_row").await, 0);
}

#[tokio::test]
async fn a_row_that_a_trigger_leaves_unchanged_is_reported() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    for name in ["plain", "filtered", "reading", "several", "later"] {
        table(&cluster, name, 5000).await;
    }
    let divided = "create table divided (id int primary key, n int not null default 0) partition by hash (id);
        create table divided_0 partition of divided for values with (modulus 2, remainder 0);
        create table divided_1 partition of divided for values with (modulus 2, remainder 1);
        insert into divided select i from generate_series(1, 5000) i";
    run(&owner, divided).await;
    run(&owner, "create function keep() returns trigger language plpgsql as $$ begin if new.id % 1000 = 7 then return null; elsif new.id % 1000 = 8 then return old; end if; return new; end $$").await;
    for name in ["plain", "filtered", "reading", "several", "divided"] {
        run(&owner, &format!("create trigger keep before update on {name} for each row execute function keep()")).await;
    }
    run(&owner, r#"select backfill.enqueue('plain', 'plain', 'n = n + 1'); select backfill.enqueue('filtered', 'filtered', 'n = 1', 'n = 0');
        select backfill.enqueue('divided', 'divided', 'n = n + 1');
        select backfill.enqueue('several', 'several', '(n, note) = (select 1, note)');
        select backfill.enqueue('reading', 'reading', 'n = (select 1 + x.n from reading x where x.id = reading.id)');
        select backfill.enqueue('later', 'later', 'n = n + 1', options => '{"max_rows_per_second": 500, "max_batch_rows": 10}')"#).await;
    let _daemon = daemon(&cluster).await;
    // The trigger on table `later` is created in the middle of the walk.
    until_true(&owner, SOON, "select rows_scanned > 20 from backfill.jobs where name = 'later'").await;
    run(&owner, "create trigger keep before update on later for each row execute function keep()").await;
    run(&owner, r#"select backfill.tune('later', '{"max_rows_per_second": null}')"#).await;
    for job in ["plain", "filtered", "reading", "several", "divided", "later"] {
        until_true(&owner, SOON, &format!("select state = 'failed' from backfill.jobs where name = '{job}'")).await;
        let kept = format!(
            "select string_agg(key ->> 'id', ',' order by key) from backfill.row_errors where name = '{job}' and message like '%trigger%suppressed the change%'"
        );
        let same = format!("select string_agg(id::text, ',' order by id) from {job} where n = 0");
        assert_eq!(value::<String>(&owner, &kept).await, value::<String>(&owner, &same).await, "{job}");
        let left = not(&cluster, job, 1).await;
        assert!(if job == "later" { (1..=10).contains(&left) } else { left == 10 }, "{job}: {left}");
    }
    run(&owner, "drop function keep cascade; select backfill.retry(name) from backfill.jobs").await;
    for job in ["plain", "filtered", "reading", "several", "divided", "later"] {
        until_state(&cluster, job, "succeeded", SOON).await;
        assert_eq!(not(&cluster, job, 1).await, 0, "{job}");
    }
}

/// If a row already has its new value, or if a trigger assigns another value, the job does not
/// quarantine the row. If a trigger suppresses a change that a row needs, the row is quarantined.
/// Both rules also apply to columns whose type has no equality operator.
#[tokio::test]
async fn a_row_that_already_has_its_value_is_not_reported_as_unchanged() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    let made = "create table t (id int primary key, n int not null, d date, v varchar(10), c char(5), j json, p point, x numeric(6, 2), a int[] not null, updated_at timestamptz);
        insert into t select i, 1, '2026-01-01', 'v', 'c', '{}', '(1,2)', 1.5, '{1}' from generate_series(1, 500) i;
        create function touch() returns trigger language plpgsql as $$ begin new.updated_at := now(); if new.n % 7 = 0 then new.n := new.n + 1; end if; return new; end $$;
        create trigger touch before update on t for each row execute function touch();
        create function refuse() returns trigger language plpgsql as $$ begin return old; end $$";
    run(&owner, made).await;
    let set = "n = id, d = '2026-01-01 12:30'::timestamp, v = 'v  ', c = 'c', j = '{ }'::jsonb, p = '(1,2)', x = 1.501::float8, (a) = (select array[1])";
    let _daemon = daemon(&cluster).await;
    run(&owner, &format!("select backfill.enqueue('t', 't', $${set}$$, options => '{{\"max_row_errors\": 0}}')")).await;
    for _ in 0..2 {
        until_state(&cluster, "t", "succeeded", SOON).await;
        assert_eq!(value::<i64>(&owner, "select count(*) from t where updated_at is null").await, 0);
        run(&owner, "select backfill.rerun('t')").await;
    }
    until_state(&cluster, "t", "succeeded", SOON).await;
    run(&owner, "create trigger urefuse before update on t for each row execute function refuse(); update t set n = 0")
        .await;
    run(&owner, "select backfill.enqueue('u', 't', $$j = '{\"a\": 1}'$$, 'id = 77')").await;
    until_true(&owner, SOON, "select state = 'failed' and rows_quarantined = 1 from backfill.jobs where name = 'u'")
        .await;
    assert_eq!(
        value::<String>(&owner, "select key::text || sqlstate from backfill.row_errors").await,
        r#"{"id": 77}09000"#
    );
}

/// Row 100 is locked, and a trigger makes row 222 wait for row 100. The daemon aborts between two
/// adjacent durable steps, and the next daemon is killed while rows are deferred. The deferred rows
/// are neither lost nor changed twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deferred_rows_survive_a_daemon_that_dies_at_any_failpoint() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    for (set, kind) in [("n = n + 1", "rc"), ("n = (select 1 + x.n from {} x where x.id = {}.id)", "rr")] {
        let points =
            ["after_skip_row", "after_retry_deferred", "before_skip_row", "before_retry_deferred", "after_finish"];
        // A batch at REPEATABLE READ sends different statements, but its steps have the same order.
        // For such a batch, two failpoints are therefore enough.
        for point in points.into_iter().take(if kind == "rc" { 5 } else { 2 }) {
            let name = format!("{kind}_{point}");
            table(&cluster, &name, 300).await;
            run(
                &owner,
                &format!(
                    "create function {name}() returns trigger language plpgsql as $$ begin
                  if new.id = 222 then perform from {name} x where x.id = 100 for update; end if; return new; end $$;
                create trigger waits before update on {name} for each row execute function {name}()"
                ),
            )
            .await;
            let application = cluster.owner().await;
            run(&application, &format!("begin; select from {name} where id = 100 for update")).await;
            run(
                &owner,
                &format!(
                    "select backfill.enqueue('{name}', '{name}', '{}', options => '{{\"max_batch_rows\": 40}}')",
                    set.replace("{}", &name)
                ),
            )
            .await;
            let start = || {
                Daemon::builder(BACKFILLD, &cluster.owner_url())
                    .config("lease: {ttl_seconds: 1, heartbeat_seconds: 0.2}")
            };
            let dying = start().env("BACKFILLD_FAILPOINT", format!("{point}:1=abort")).start();
            let status = dying.wait_exit(SOON).await;
            assert!(!status.success(), "{name}: ended with {status}:\n{}", dying.output());
            let mut next = start().start();
            until_true(
                &owner,
                SOON,
                &format!(
                    "select waiting_reason is not distinct from 'locked_rows' from backfill.jobs where name = '{name}'"
                ),
            )
            .await;
            assert_eq!(
                value::<String>(
                    &owner,
                    &format!("select string_agg(id::text, ',' order by id) from {name} where n <> 1")
                )
                .await,
                "100,222",
                "{name}"
            );
            next.sigkill();
            run(&application, "commit").await;
            next = start().start();
            until_state(&cluster, &name, "succeeded", SOON).await;
            assert_eq!(not(&cluster, &name, 1).await, 0, "{name}");
            next.sigterm();
            next.wait_exit(SOON).await;
        }
    }
}

/// Quarantined rows of a dropped or detached partition no longer count as errors of the job.
#[tokio::test]
async fn quarantined_rows_of_a_dropped_partition_are_forgotten() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table p (id int primary key, n int not null default 0) partition by range (id);
        create table p1 partition of p for values from (0) to (1000); create table p2 partition of p for values from (1000) to (2000);
        create table p3 partition of p for values from (2000) to (3000);
        insert into p select generate_series(0, 2999); alter table p add check (n = 0 or id not in (5, 1500, 2500));
        select backfill.enqueue('j', 'p', 'n = n + 1')",
    )
    .await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select state = 'failed' and rows_quarantined = 3 from backfill.jobs").await;
    run(&owner, "drop table p2; alter table p detach partition p3; select backfill.retry('j')").await;
    until_true(&owner, SOON, "select state = 'failed' and rows_quarantined = 1 from backfill.jobs").await;
    let said: String = value(&owner, "select error from backfill.jobs").await;
    assert!(said.starts_with("1 row could not be changed: new row for relation"), "{said}");
    run(&owner, "alter table p drop constraint p_check; select backfill.retry('j')").await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from p where n <> 1").await, 0);
    assert_eq!(
        value::<String>(
            &owner,
            "select rows_quarantined || ' ' || (select count(*) from p3 where n = 0) from backfill.jobs"
        )
        .await,
        "0 1"
    );
}

/// A deferred row is tried again later. If its change then takes too long, the row is quarantined,
/// as in the walk.
#[tokio::test]
async fn a_row_that_takes_too_long_again_is_quarantined_again() {
    let cluster = installed(Options::default().set("deadlock_timeout", "100ms")).await;
    let owner = cluster.owner().await;
    table(&cluster, "t", 10).await;
    run(
        &owner,
        "create function slow() returns trigger language plpgsql as $$ begin if new.note = 'row 7' then perform pg_sleep(0.5); end if; return new; end $$;
        create trigger slow before update on t for each row execute function slow()",
    )
    .await;
    let application = cluster.owner().await;
    run(&application, "begin; select from t where id = 7 for update").await;
    run(&owner, "select backfill.enqueue('j', 't', 'n = n + 1', options => '{\"max_row_ms\": 250}')").await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select count(*) = 1 from backfill.deferred_row").await;
    run(&application, "commit").await;
    until_true(&owner, SOON, "select state = 'failed' from backfill.jobs").await;
    let said: String = value(&owner, "select key || message from backfill.row_errors").await;
    assert!(said.contains(r#"{"id": 7}the statement for this row takes longer than max_row_ms (250 ms)"#), "{said}");
    run(&owner, "drop trigger slow on t; select backfill.retry('j')").await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert_eq!(not(&cluster, "t", 1).await, 0);
}

/// All 20 rows of the table wait for one row of another table. Each attempt takes some time, and a
/// pause must take effect before all rows have been tried.
#[tokio::test]
async fn a_pause_takes_effect_while_deferred_rows_are_retried_one_by_one() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    table(&cluster, "t", 20).await;
    run(
        &owner,
        "create table stock (id int primary key); insert into stock values (7);
        create function take() returns trigger language plpgsql as $$ begin perform from stock where id = 7 for update; return new; end $$;
        create trigger take before update on t for each row execute function take()",
    )
    .await;
    let application = cluster.owner().await;
    run(&application, "begin; select from stock for update").await;
    run(&owner, "select backfill.enqueue('j', 't', 'n = n + 1')").await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON * 2, "select count(*) = 20 from backfill.deferred_row").await;
    until_true(&owner, SOON, "select count(*) = 1 from backfill.slice where state = 'leased' and attempts > 2").await;
    run(&owner, "select backfill.pause('j')").await;
    until_true(&owner, SOON, "select state = 'paused' from backfill.jobs").await;
    run(&application, "commit").await;
    run(&owner, "select backfill.resume('j')").await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert_eq!(not(&cluster, "t", 1).await, 0);
}
