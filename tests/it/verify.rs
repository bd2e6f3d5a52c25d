//! The closing proof.

use backfilld_testbed::cluster::Options;

use crate::support::{SOON, daemon, daemon_with, installed, refused, run, until_state, until_true, value};

#[tokio::test]
async fn rows_written_behind_the_walk_are_swept_and_a_gap_in_the_coverage_fails_the_job() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int, b int); insert into t select i, null, i from generate_series(1, 3000) i;
        create table u (id int primary key, a int); insert into u select generate_series(1, 3000)").await;
    let _daemon = daemon(&cluster).await;

    // The application rewrites a row that the walk has passed.
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
    assert_eq!(said, "sweep: 2 rows match the filter after the walk: sweep 1 of 3");
    assert_eq!(value::<String>(&owner, "select concat_ws(' ', rows_scanned, rows_changed, rows_unresolved, verified_at is not null) from backfill.jobs where name = 'swept'").await, "3000 3002 0 t");

    // An application that never stops: three sweeps, then the truth.
    run(&owner, "update t set a = null; create function spoil() returns trigger language plpgsql as $$ begin if new.id = 5 then new.a := null; end if; return new; end $$;
        create trigger spoil before update on t for each row execute function spoil();
        select backfill.enqueue('stubborn', 't', 'a = b', 'a is null and id > 0')").await;
    until_true(&owner, SOON, "select state in ('failed', 'succeeded') from backfill.jobs where name = 'stubborn'")
        .await;
    let row = owner.query_one("select state, error, hint, finished_at is not null, verified_at is null from backfill.jobs where name = 'stubborn'", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "failed");
    assert_eq!(row.get::<_, String>(1), "1 rows still need work after 3 sweeps");
    assert!(row.get::<_, String>(2).contains("backfill.retry") && row.get(3) && row.get(4));
    run(&owner, "drop trigger spoil on t; select backfill.retry('stubborn')").await;
    until_state(&cluster, "stubborn", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where a is null and id > 0").await, 0);

    // A gap made by hand: a slice that says it is done and stands short of its end.
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
        error.starts_with("failed: the walk has a gap: slice 0 stopped at") && error.contains("before its end"),
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
        select backfill.enqueue('none', 't', 'n = n + 1', options => '{\"verify\": \"none\"}', priority => 2);
        select backfill.enqueue('expression', 't', 'n = n + 1', options => '{\"verify\": \"expression\"}', priority => 3)").await;
    // One after the other, with an application that adds rows which match.
    run(&owner, "create function late() returns trigger language plpgsql as $$ begin
        if new.state = 'verifying' then insert into public.t values (-new.id, 0) on conflict do nothing; end if; return new; end $$;
        create trigger late before update on backfill.job for each row execute function late()").await;
    let _daemon = daemon_with(&cluster, "databases: [{name: main, url: x, workers: 1}]\n").await;
    until_true(&owner, SOON, "select bool_and(state in ('failed', 'succeeded')) from backfill.jobs").await;
    let ends: String = value(&owner, "select string_agg(concat_ws(' ', name, state, rows_changed, verified_at is not null), ', ' order by id) from backfill.jobs").await;
    assert_eq!(ends, "auto succeeded 500 t, filter succeeded 500 t, none succeeded 500 f, expression succeeded 500 t");
    assert_eq!(value::<i64>(&owner, "select count(*) from t where id > 0 and n = 4").await, 500);
}
