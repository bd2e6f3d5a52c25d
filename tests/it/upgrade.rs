//! Tests upgrades from one version of the schema to the next. `Release::next` stands for the
//! release after this one. It adds a column to table `backfill.job` and to view `backfill.jobs`. It
//! also changes the body of one function and the signature of another.

use backfilld::pg::schema::release::{FIRST_VERSION, PLAY_NEXT, VERSION};
use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::wait;

use crate::migrate::CATALOG;
use crate::proof::{PLUS_ONE, enqueue, exact, quick, table, until_more_batches};
use crate::support::{BACKFILLD, SOON, installed, migrate, refused, run, sql, until_state, until_true, value};

const NEXT: i32 = VERSION + 1;

/// Runs `backfilld migrate` of the next release.
async fn migrate_to_next(cluster: &Cluster, database: &str) -> std::process::Output {
    let mut command = tokio::process::Command::new(BACKFILLD);
    command.arg("migrate").env("BACKFILLD_DATABASE_URL", cluster.url("owner", database)).env(PLAY_NEXT, "1");
    command.output().await.unwrap()
}

async fn upgrade(cluster: &Cluster) {
    let output = migrate_to_next(cluster, "app").await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(&format!("upgraded to version {NEXT}")), "{text}");
}

#[tokio::test]
async fn a_schema_from_before_the_baseline_is_refused_with_the_remedy() {
    let cluster = installed(Options::default()).await;
    let old = FIRST_VERSION - 1;
    let sql = format!(
        "delete from backfill.schema_version where version > {FIRST_VERSION}; update backfill.schema_version set version = {old}"
    );
    cluster.sql("owner", "app", &sql).await;
    let before: String = cluster.value("owner", "app", CATALOG).await;
    let output = migrate(&cluster, "owner", "app").await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("schema backfill is at version {old}, which cannot be upgraded")), "{text}");
    assert!(text.contains("hint: Finish the jobs") && text.contains("backfilld uninstall"), "{text}");
    let daemon = quick(&cluster.owner_url()).start();
    assert!(!daemon.wait_exit(SOON).await.success());
    assert!(daemon.output().contains("cannot be upgraded"), "{}", daemon.output());
    assert_eq!(cluster.value::<String>("owner", "app", CATALOG).await, before);
}

#[tokio::test]
async fn an_upgrade_produces_the_schema_of_an_installation_and_grants_nothing_more() {
    let cluster = installed(Options::default()).await;
    upgrade(&cluster).await;
    cluster.create_database("fresh", "owner").await;
    assert!(migrate_to_next(&cluster, "fresh").await.status.success());
    let fresh: String = cluster.value("owner", "fresh", CATALOG).await;
    assert_eq!(cluster.value::<String>("owner", "app", CATALOG).await, fresh);
    let open = "select coalesce(string_agg(p.oid::regprocedure::text, ', '), '') from pg_proc p
        where p.pronamespace = 'backfill'::regnamespace and (p.proacl is null or exists (select from aclexplode(p.proacl) a where a.grantee = 0))";
    assert_eq!(cluster.value::<String>("owner", "app", open).await, "", "functions that PUBLIC may execute");
    let tables = "select coalesce(string_agg(c.relname, ', '), '') from pg_class c, aclexplode(c.relacl) a where c.relnamespace = 'backfill'::regnamespace and a.grantee = 0";
    assert_eq!(cluster.value::<String>("owner", "app", tables).await, "", "tables that PUBLIC may use");
}

#[tokio::test]
async fn an_upgrade_keeps_objects_of_users_and_grants() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    cluster.create_role("auditor", "login").await;
    cluster.create_role("boss", "login").await;
    run(
        &owner,
        "create view public.failed_jobs as select name, error from backfill.jobs where state = 'failed';
         create function public.states() returns setof text language sql begin atomic select state from backfill.jobs; end;
         grant usage on schema backfill to auditor, boss;
         grant execute on function backfill._state_of(text) to auditor; grant execute on function backfill._state_of(text) to boss with grant option;
         grant execute on function backfill._register_executor(name, name, boolean, boolean) to auditor",
    )
    .await;
    cluster.create_role("e", "nologin").await;
    cluster.create_role("x_e", "login in role e").await;
    run(&owner, "select backfill._register_executor('x_e', 'e', false)").await;
    let written = "select string_agg(xmin::text, ' ' order by name) from backfill.schema_text where name not in ('functions/commands', 'functions/daemon', 'functions/rights', 'views')";
    let before: String = value(&owner, written).await;
    let executors = "select string_agg(p.proname, ' ' order by p.proname) from pg_proc p where p.pronamespace = 'backfill'::regnamespace and has_function_privilege('e', p.oid, 'execute')";
    let executed: String = value(&owner, executors).await;
    assert!(executed.contains("advance"), "{executed}");

    upgrade(&cluster).await;
    run(&owner, "select * from public.failed_jobs; select * from public.states(); select note from backfill.jobs")
        .await;
    let text: String =
        value(&owner, "select prosrc from pg_proc where oid = 'backfill._run_housekeeping'::regproc").await;
    assert!(text.contains("limit 999"), "the changed function was not installed");
    assert_eq!(value::<String>(&owner, written).await, before, "an unchanged file of the schema was installed again");
    let signatures = "select string_agg(oid::regprocedure::text, ' ') from pg_proc where proname = '_state_of'";
    assert_eq!(value::<String>(&owner, signatures).await, "backfill._state_of(text,boolean)");
    let granted = "select string_agg(format('%s %s', r.rolname, a.is_grantable), ', ' order by r.rolname) from pg_proc p, aclexplode(p.proacl) a join pg_roles r on r.oid = a.grantee
        where p.oid = 'backfill._state_of'::regproc and r.rolname in ('auditor', 'boss', 'backfill_reader')";
    assert_eq!(value::<String>(&owner, granted).await, "auditor f, backfill_reader f, boss t");
    let other = "select has_function_privilege('auditor', 'backfill._register_executor(name, name, boolean, boolean)', 'execute')";
    assert!(value::<bool>(&owner, other).await);
    assert_eq!(value::<String>(&owner, executors).await, executed);
}

/// A user's object depends on a function that the upgrade drops. The upgrade fails and changes
/// nothing.
#[tokio::test]
async fn an_upgrade_never_drops_an_object_that_depends_on_a_dropped_function() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create view public.mine as select backfill._state_of('x') as state").await;
    let before: String = value(&owner, CATALOG).await;
    let output = migrate_to_next(&cluster, "app").await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        text.contains("_state_of")
            && text.contains("view public.mine")
            && text.contains("hint: Drop the dependent object")
            && !text.contains("CASCADE"),
        "{text}"
    );
    assert_eq!(value::<String>(&owner, CATALOG).await, before);
    run(&owner, "select * from public.mine").await;
}

/// The server cancels an autovacuum only for a session that has waited for `deadlock_timeout`, 1 s
/// by default. An upgrade with a shorter lock timeout would fail while the autovacuum runs (P18).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_succeeds_behind_an_autovacuum() {
    let cluster = installed(Options::default().set("autovacuum", "on").set("autovacuum_naptime", "1s")).await;
    let owner = cluster.owner().await;
    // The upgrade adds a column to backfill.job. With the settings below, an autovacuum of this
    // table takes minutes. Up to PostgreSQL 14, an idle session does not report its last counters,
    // and autovacuum depends on these counters. These statements therefore run in a separate
    // session, which reports its counters when it ends.
    sql(
        &cluster,
        "alter table backfill.job set (autovacuum_enabled = off);
         create table t (id int primary key, n int not null default 0);
         select count(backfill.enqueue('j' || i, 't', 'n = n + 1')) from generate_series(1, 1000) i;
         select count(backfill.cancel('j' || i)) from generate_series(1, 1000) i",
    )
    .await;
    run(&owner, "alter table backfill.job set (autovacuum_enabled = on, autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1, autovacuum_analyze_threshold = 1000000000)").await;
    let superuser = cluster.superuser("app").await;
    let vacuumed = "select exists (select from pg_stat_progress_vacuum where relid = 'backfill.job'::regclass)";
    until_true(&superuser, SOON, vacuumed).await;
    upgrade(&cluster).await;
    run(&owner, "select note from backfill.jobs").await;
    let log = cluster.log();
    assert!(log.contains("canceling autovacuum task"), "no autovacuum was cancelled: {log}");
}

#[tokio::test]
async fn no_binary_touches_a_schema_of_a_higher_version() {
    let cluster = installed(Options::default()).await;
    upgrade(&cluster).await;
    let before: String = cluster.value("owner", "app", CATALOG).await;
    let output = migrate(&cluster, "owner", "app").await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(&format!("version {NEXT}")), "{text}");
    let daemon = crate::support::daemon(&cluster).await;
    daemon.sigterm();
    daemon.wait_exit(SOON).await;
    assert_eq!(cluster.value::<String>("owner", "app", CATALOG).await, before);
    // A binary refuses a schema whose min_compatible_version is higher than the binary's version.
    cluster
        .sql(
            "owner",
            "app",
            &format!("update backfill.schema_version set min_compatible_version = {NEXT} where version = {NEXT}"),
        )
        .await;
    assert!(!migrate(&cluster, "owner", "app").await.status.success());
}

#[tokio::test]
async fn every_public_object_has_a_comment() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    let silent = "select coalesce(string_agg(what, ', '), '') from (
        select p.oid::regprocedure::text as what from pg_proc p where p.pronamespace = 'backfill'::regnamespace and p.proname !~ '^_' and obj_description(p.oid, 'pg_proc') is null
        union all select c.relname from pg_class c where c.relnamespace = 'backfill'::regnamespace and (c.relkind = 'v' or c.relname = 'quota') and c.relname !~ '^_' and obj_description(c.oid, 'pg_class') is null
        union all select format('%s.%s', c.relname, a.attname) from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
          where c.relnamespace = 'backfill'::regnamespace and (c.relkind = 'v' or c.relname = 'quota') and c.relname !~ '^_' and col_description(c.oid, a.attnum) is null) x";
    assert_eq!(value::<String>(&owner, silent).await, "");
    // Shows that the assertion above can fail: the query finds an object without a comment.
    run(&owner, "comment on column backfill.jobs.name is null").await;
    assert_eq!(value::<String>(&owner, silent).await, "jobs.name");
}

/// An upgrade needs short locks on the tables that daemons use. While another session blocks the
/// upgrade, each attempt ends after a lock timeout of 2 s, so that batches run before the next
/// attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_that_has_to_wait_lets_batches_run_and_succeeds() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    table(&cluster, "t", 60_000).await;
    enqueue(&cluster, "t", PLUS_ONE, r#"{"max_rows_per_second": 2000, "max_batch_rows": 50}"#).await;
    let _daemon = quick(&cluster.owner_url()).start();
    until_more_batches(&owner, "t", 5).await;
    // A migration of the application has enqueued a job, and the migration's transaction is still
    // open.
    let application = cluster.owner().await;
    run(
        &application,
        "create table later (id int primary key, a int); begin; select backfill.enqueue('later', 'later', 'a = 1')",
    )
    .await;
    let upgrading = migrate_to_next(&cluster, "app");
    let walking = async {
        // The upgrade waits for the lock, then leaves the lock queue for some time. During this
        // time, batches run.
        let waits = "select exists (select from pg_locks where not granted and mode = 'AccessExclusiveLock' and relation = 'backfill.job'::regclass)";
        for _ in 0..2 {
            until_true(&owner, SOON, waits).await;
            until_more_batches(&owner, "t", 3).await;
        }
        run(&application, "commit").await;
    };
    let (output, ()) = tokio::join!(upgrading, walking);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    run(&owner, r#"select backfill.tune('t', '{"max_rows_per_second": 1000000}')"#).await;
    until_state(&cluster, "t", "succeeded", SOON).await;
    exact(&cluster, "t", 60_000).await.unwrap();
}

/// Claims, heartbeats and releases run at full speed during the upgrade, and none of them fails
/// permanently. A call that fails with a deadlock, a lock timeout or a serialization failure is
/// repeated, as in the daemon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_under_full_traffic_succeeds() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "select backfill._register_executor('owner', 'owner', true); create table t (id int primary key, n int not null default 0);
        insert into t values (1)").await;
    for job in 0..8 {
        run(&owner, &format!("select backfill.enqueue('j{job}', 't', 'n = n + 1')")).await;
    }
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut workers = Vec::new();
    for _ in 0..6 {
        let (client, stop) = (cluster.owner().await, stop.clone());
        workers.push(tokio::spawn(async move {
            client.batch_execute("set lock_timeout = '5s'").await.unwrap();
            let turn = "do $$ declare c jsonb; begin
                  c := backfill._claim(gen_random_uuid(), array['owner']::name[], interval '1 minute', 1);
                  if c is null then perform backfill._run_housekeeping(); return; end if;
                  perform * from backfill._heartbeat(gen_random_uuid(), interval '1 minute', jsonb_build_array(jsonb_build_object('slice', c -> 'slice', 'token', c -> 'token')));
                  perform * from backfill._poll_claim((c ->> 'slice')::bigint, (c ->> 'token')::uuid);
                  perform backfill._release((c ->> 'slice')::bigint, (c ->> 'token')::uuid);
                  perform state from backfill.jobs; end $$";
            let (mut done, mut lost) = (0_u32, 0_u32);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                match client.batch_execute(turn).await {
                    Ok(()) => done += 1,
                    Err(error) => {
                        let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
                        assert!(["40P01", "55P03", "40001"].contains(&code.as_str()), "{}", backfilld_testbed::server::describe(&error));
                        lost += 1;
                    }
                }
            }
            (done, lost)
        }));
    }
    let busy = "select coalesce(sum(attempts), 0) > 50 from backfill.slice";
    until_true(&owner, SOON, busy).await;
    upgrade(&cluster).await;
    let before: i64 = value(&owner, "select sum(attempts)::int8 from backfill.slice").await;
    wait::until(SOON, "the traffic continues", async || {
        value::<i64>(&owner, "select sum(attempts)::int8 from backfill.slice").await > before + 50
    })
    .await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for worker in workers {
        let (done, lost) = worker.await.unwrap();
        println!("{done} turns, {lost} repeated");
        assert!(done > lost);
    }
    assert_eq!(refused(&owner, "select backfill.approve('nope')").await.sqlstate, "BF003");
}
