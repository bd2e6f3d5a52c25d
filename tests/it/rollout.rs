//! Tests of rollouts on a real server: a new column from plan to contract, with live traffic, and
//! the way back from each stage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::{Builder, Daemon};
use backfilld_testbed::server::Mode;
use backfilld_testbed::wait;
use tokio_postgres::Client;

use crate::support::{BACKFILLD, SOON, installed, refused, run, until_true, value};

const STAGES: [&str; 8] =
    ["planned", "expanded", "syncing", "backfilled", "verified", "constrained", "switched", "contracted"];

const TABLE: &str = "
create table customers (id int primary key);
insert into customers select generate_series(0, 9);
create table orders (id bigint generated always as identity primary key, total numeric(10, 2), note text, customer int);
insert into orders (total, note, customer) select g / 100.0, 'n' || g, g % 10 from generate_series(1, 5000) g;
create function touch() returns trigger language plpgsql as $$ begin new.total := round(new.total, 1); return new; end $$;
create trigger a_touch before update of note on orders for each row execute function touch();";

fn spec(until: &str) -> String {
    format!(
        r#"{{"rollout": "cents", "table": "public.orders",
            "add_column": {{"name": "total_cents", "type": "bigint", "using": "round(total * 100)::bigint", "not_null": true,
                            "check": "total_cents >= 0", "index": {{"method": "btree"}}}},
            "backfill": {{"slices": 2}}, "until": "{until}"}}"#
    )
}

async fn start(owner: &Client, spec: &str) -> i64 {
    owner.query_one("select backfill.rollout_start($1::text::jsonb)", &[&spec]).await.unwrap().get(0)
}

fn daemon(cluster: &Cluster) -> Builder {
    Daemon::builder(BACKFILLD, &cluster.owner_url())
        .config("lease: {ttl_seconds: 2, heartbeat_seconds: 0.5, poll_ms: 50}")
        .arg("--no-migrate")
}

async fn until_rollout(owner: &Client, name: &str, condition: &str) {
    wait::until(SOON * 2, format!("rollout {name}: {condition}"), async || {
        let told: String = value(
            owner,
            &format!(
                "select format('%s %s %s %s', stage, state, error, hint) from backfill.rollouts where name = '{name}'"
            ),
        )
        .await;
        assert!(!told.contains(" failed ") || condition.contains("failed"), "{told}");
        value::<bool>(
            owner,
            &format!("select coalesce({condition}, false) from backfill.rollouts where name = '{name}'"),
        )
        .await
    })
    .await;
}

/// Returns the schema of the table without OIDs.
async fn fingerprint(owner: &Client) -> String {
    value(owner, "select backfill._rollout_fingerprint('orders'::regclass)").await
}

const DIFFERENT: &str = "select count(*) from orders where total_cents is distinct from round(total * 100)::bigint";

/// The application: old code knows nothing of the new column. Each statement must succeed.
async fn traffic(client: Client, stop: Arc<AtomicBool>) -> (u64, f64) {
    run(&client, "set statement_timeout = '10s'").await;
    let (mut statements, mut slowest) = (0, 0.0_f64);
    let mut n = 0_i64;
    while !stop.load(Ordering::SeqCst) {
        n += 1;
        let sql = match n % 4 {
            0 => format!("insert into orders (total, note, customer) values ({n} / 100.0, 'new', {n} % 10)"),
            1 => format!("update orders set total = total + 1 where id = {n} * 7 % 5000 + 1"),
            // The trigger changes `total`, which is not assigned.
            2 => format!("update orders set note = 'touched' where id = {n} * 13 % 5000 + 1"),
            _ => "delete from orders where id = (select max(id) from orders where note = 'new')".to_owned(),
        };
        let started = tokio::time::Instant::now();
        client.batch_execute(&sql).await.unwrap();
        slowest = slowest.max(started.elapsed().as_secs_f64());
        statements += 1;
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    (statements, slowest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_goes_from_plan_to_contract_under_traffic() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let stop = Arc::new(AtomicBool::new(false));
    let application = tokio::spawn(traffic(cluster.owner().await, stop.clone()));
    let _daemons = (daemon(&cluster).start(), daemon(&cluster).start());
    start(&owner, &spec("constrained")).await;
    until_rollout(&owner, "cents", "stage in ('syncing', 'backfilled', 'verified', 'constrained')").await;
    // From now on, each row that the application writes is right.
    until_rollout(&owner, "cents", "stage in ('backfilled', 'verified', 'constrained')").await;
    for _ in 0..20 {
        assert_eq!(value::<i64>(&owner, DIFFERENT).await, 0);
    }
    until_rollout(&owner, "cents", "stage = 'constrained' and state = 'waiting' and waiting_reason = 'advance'").await;
    assert_eq!(value::<i64>(&owner, DIFFERENT).await, 0);
    let made = "select string_agg(conname || ' ' || convalidated, ', ' order by conname) from pg_constraint where conrelid = 'orders'::regclass and contype = 'c'";
    assert_eq!(value::<String>(&owner, made).await, "orders_total_cents_check true");
    assert!(
        value::<bool>(
            &owner,
            "select attnotnull from pg_attribute where attrelid = 'orders'::regclass and attname = 'total_cents'"
        )
        .await
    );
    assert!(
        value::<bool>(&owner, "select indisvalid from pg_index where indexrelid = 'orders_total_cents_idx'::regclass")
            .await
    );
    // The application reads the new column, and writes it too.
    run(&owner, "select backfill.rollout_advance('cents')").await;
    until_rollout(&owner, "cents", "stage = 'switched' and state = 'waiting'").await;
    stop.store(true, Ordering::SeqCst);
    let (statements, slowest) = application.await.unwrap();
    assert!(statements > 100, "{statements} statements");
    assert!(slowest < 10.0, "a statement of the application took {slowest} s");
    run(
        &owner,
        "update orders set total_cents = 7 where id = 1; insert into orders (total_cents, note) values (8, 'new code')",
    )
    .await;
    assert_eq!(
        value::<i64>(&owner, "select sum(total_cents)::int8 from orders where id = 1 or note = 'new code'").await,
        15
    );
    // Old code still runs.
    run(&owner, "update orders set total = 3 where id = 2; insert into orders (total, note) values (4, 'old code')")
        .await;
    assert_eq!(
        value::<i64>(&owner, "select sum(total_cents)::int8 from orders where id = 2 or note = 'old code'").await,
        700
    );
    run(&owner, "select backfill.rollout_advance('cents')").await;
    until_rollout(&owner, "cents", "stage = 'contracted' and state = 'done'").await;
    assert_eq!(value::<i64>(&owner, "select count(*) from pg_trigger where tgname like 'zzz%'").await, 0);
    assert_eq!(value::<i64>(&owner, "select count(*) from pg_proc where proname like 'zzz%'").await, 0);
    let error = refused(&owner, "select backfill.rollout_rollback('cents')").await;
    assert!(error.message.contains("has ended"));
    let held = "select coalesce(max(extract(epoch from held)), 9)::float8 from backfill.rollout_statements where lock = 'ACCESS EXCLUSIVE'";
    assert!(value::<f64>(&owner, held).await < 2.0);
}

/// From each stage, a rollback leaves the schema and the rows as they were before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_from_each_stage_restores_the_schema() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let before = fingerprint(&owner).await;
    let stop = Arc::new(AtomicBool::new(false));
    let application = tokio::spawn(traffic(cluster.owner().await, stop.clone()));
    let _daemon = daemon(&cluster).start();
    for stage in &STAGES[1..7] {
        start(&owner, &spec(stage)).await;
        until_rollout(&owner, "cents", &format!("stage = '{stage}' and state = 'waiting'")).await;
        run(&owner, "select backfill.rollout_rollback('cents')").await;
        until_rollout(&owner, "cents", "state = 'rolled_back'").await;
        assert_eq!(value::<Option<String>>(&owner, "select hint from backfill.rollouts").await, None);
        assert_eq!(fingerprint(&owner).await, before, "{stage}");
    }
    stop.store(true, Ordering::SeqCst);
    application.await.unwrap();
    assert_eq!(value::<i64>(&owner, "select count(*) from pg_proc where proname like 'zzz%'").await, 0);
}

/// A daemon is killed before and after each statement. The next daemon goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_goes_on_after_a_kill_at_each_statement() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let before = fingerprint(&owner).await;
    start(&owner, &spec("switched")).await;
    let mut kills = 0;
    loop {
        // Only the creation of an index reaches the third failpoint.
        let creates_index = value::<bool>(&owner, "select stage = 'verified' from backfill.rollouts").await;
        let points = ["rollout_claimed", "rollout_statement_ended", "rollout_before_record"];
        let point = points[kills % if creates_index { 3 } else { 2 }];
        let killed = daemon(&cluster).env("BACKFILLD_FAILPOINT", format!("{point}=abort")).start();
        wait::until(SOON * 2, "the daemon is killed, or the rollout waits", async || {
            killed.ended().is_some() || value::<bool>(&owner, "select state = 'waiting' from backfill.rollouts").await
        })
        .await;
        if killed.ended().is_none() {
            break;
        }
        kills += 1;
        // The lease of the killed daemon ends now, as it would after half a minute.
        run(&owner, "update backfill.rollout set expires_at = now() - interval '1 s' where expires_at is not null")
            .await;
        assert_ne!(value::<String>(&owner, "select state from backfill.rollouts").await, "failed");
    }
    assert!(kills > 8, "{kills} kills");
    assert_eq!(value::<String>(&owner, "select stage from backfill.rollouts").await, "switched");
    assert_eq!(value::<i64>(&owner, DIFFERENT).await, 0);
    run(&owner, "select backfill.rollout_rollback('cents')").await;
    let mut points = ["rollout_statement_ended", "rollout_claimed"].iter().cycle();
    loop {
        let killed = daemon(&cluster).env("BACKFILLD_FAILPOINT", format!("{}=abort", points.next().unwrap())).start();
        wait::until(SOON * 2, "the daemon is killed, or the rollout is rolled back", async || {
            killed.ended().is_some()
                || value::<bool>(&owner, "select state = 'rolled_back' from backfill.rollouts").await
        })
        .await;
        if killed.ended().is_none() {
            break;
        }
        run(&owner, "update backfill.rollout set expires_at = now() - interval '1 s' where expires_at is not null")
            .await;
    }
    assert_eq!(fingerprint(&owner).await, before);
}

/// A report holds a lock on the table. The statement is tried in short attempts, and the rollout
/// names the session. The application is not blocked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_waits_for_its_lock_in_short_attempts() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let report = cluster.owner().await;
    let pid: i32 = value(&report, "select pg_backend_pid()").await;
    run(&report, "begin; select count(*) from orders").await;
    let _daemon = daemon(&cluster).start();
    start(&owner, &spec("expanded")).await;
    until_rollout(
        &owner,
        "cents",
        &format!("waiting_reason = 'lock' and waiting_text like '%process {pid} of role owner%'"),
    )
    .await;
    until_true(&owner, SOON, "select attempts > 2 from backfill.rollout_statements").await;
    run(&report, "commit").await;
    until_rollout(&owner, "cents", "stage = 'expanded'").await;
}

/// Each spec that is not possible is refused with the reason and the remedy, and nothing is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spec_that_is_not_possible_is_refused() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    run(
        &owner,
        "create domain positive as int check (value > 0); alter table orders add g numeric generated always as (total * 2) stored;
         create table parts (id int) partition by range (id)",
    )
    .await;
    let column =
        |rest: &str| format!(r#"{{"rollout": "x", "table": "orders", "add_column": {{"name": "c", {rest}}}}}"#);
    let wrong = [
        (r#"{"rollout": "x"}"#.to_owned(), "names no table"),
        (r#"{"rollout": "x", "table": "orders"}"#.to_owned(), "does not say what it changes"),
        (r#"{"rollout": "x", "table": "nowhere", "add_column": {"name": "c", "type": "int"}}"#.to_owned(), "table \"nowhere\" does not exist"),
        (r#"{"rollout": "x", "table": "parts", "add_column": {"name": "c", "type": "int"}}"#.to_owned(), "is partitioned"),
        (r#"{"rollout": "x", "table": "orders", "colum": {}}"#.to_owned(), "unknown key \"colum\""),
        (column(r#""type": "bigserial""#), "type \"bigserial\" does not exist"),
        (column(r#""type": "int, drop column note""#), "does not exist"),
        (column(r#""type": "positive""#), "is a domain with constraints"),
        (column(r#""type": "int", "using": "total; drop table orders""#), "contains a semicolon"),
        (column(r#""type": "int", "using": "(select 1)""#), "contains a subquery"),
        (column(r#""type": "int", "using": "nosuch""#), "column \"nosuch\" does not exist"),
        (column(r#""type": "timestamptz", "using": "now()""#), "not immutable"),
        (column(r#""type": "text", "using": "total::date::text""#), "the server rejects"),
        (column(r#""type": "numeric", "using": "g + 1""#), "generated column"),
        (column(r#""type": "int", "using": "total) , drop column note, add z int default (1""#), "unmatched"),
        (column(r#""type": "int", "default": "nosuch()""#), "nosuch()"),
        (column(r#""type": "int", "check": "nosuch > 1""#), "nosuch"),
        (column(r#""type": "int", "not_null": true"#), "without \"using\""),
        (column(r#""type": "int", "using": "1", "default": 2"#), "both \"using\" and \"default\""),
        (column(r#""type": "int -- x", "using": "1""#), "is not valid"),
        (column(r#""type": "date", "using": "'now'::date""#), "a string such as"),
        (column(r#""type": "int", "references": "nowhere (id)""#), "does not exist"),
        (column(r#""type": "int", "references": "orders (note)""#), "is not unique"),
        (r#"{"rollout": "x", "table": "orders", "add_column": {"name": "note", "type": "int"}}"#.to_owned(), "already has a column"),
        (r#"{"rollout": "x", "table": "orders", "sync": "magic", "add_column": {"name": "c", "type": "int"}}"#.to_owned(), "\"sync\" is \"magic\""),
        (r#"{"rollout": "x", "table": "orders", "until": "done", "add_column": {"name": "c", "type": "int"}}"#.to_owned(), "\"until\" is \"done\""),
        (r#"{"rollout": "x", "table": "orders", "backfill": {"slices": 0}, "add_column": {"name": "c", "type": "int", "using": "1"}}"#.to_owned(), "option \"slices\" is 0"),
    ];
    for (spec, told) in wrong {
        let error = owner.query("select backfill.rollout_start($1::text::jsonb)", &[&spec]).await.unwrap_err();
        let error = error.as_db_error().unwrap().clone();
        let text = format!("{} {}", error.message(), error.detail().unwrap_or_default());
        assert_eq!(error.code().code(), "BF001", "{spec}: {text}");
        assert!(text.contains(told), "{spec}: {text}");
        assert!(error.detail().is_some() && error.hint().is_some(), "{spec}: {error:?}");
    }
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.rollout").await, 0);
    // A repeated call with the same spec returns the same rollout.
    let id = start(&owner, &spec("planned")).await;
    assert_eq!(start(&owner, &spec("planned")).await, id);
    let error = refused(&owner, &format!("select backfill.rollout_start('{}')", spec("switched"))).await;
    assert_eq!(error.sqlstate, "BF002");
}

/// Another role can neither start a rollout on the table nor control one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_owner_of_a_table_starts_and_controls_a_rollout() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    cluster
        .sql(
            "postgres",
            "app",
            "create role clerk login; grant backfill_submitter to clerk; grant all on orders to clerk",
        )
        .await;
    let clerk = cluster.client("clerk", "app").await;
    let error = refused(&clerk, &format!("select backfill.rollout_start('{}')", spec("planned"))).await;
    assert_eq!(error.sqlstate, "BF001", "{}", error.message);
    start(&owner, &spec("planned")).await;
    for verb in ["advance", "rollback", "pause", "resume"] {
        let error = refused(&clerk, &format!("select backfill.rollout_{verb}('cents')")).await;
        assert_eq!(error.sqlstate, "42501", "{}", error.message);
    }
    assert_eq!(value::<i64>(&clerk, "select count(*) from backfill.rollouts").await, 0);
    for forged in [
        "insert into backfill.rollout (spec, settings, started_by) values ('{}', '{}', 'owner')",
        "insert into backfill.rollout_command (verb, rollout_name, actor) values ('rollback', 'cents', 'owner')",
        "update backfill.rollout set stage = 'contracted'",
        "select backfill._claim_rollout(gen_random_uuid(), array['owner']::name[], '1 h', '{}')",
        "select backfill.rollout_recorded(1, gen_random_uuid(), 1)",
    ] {
        assert_eq!(refused(&clerk, forged).await.sqlstate, "42501", "{forged}");
    }
}

/// Each statement takes exactly the lock that the plan names, and rewrites nothing. The document
/// docs/rollouts.md lists the same locks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_statement_takes_the_lock_that_the_plan_names() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let all = r#"{"rollout": "all", "table": "orders", "until": "planned",
        "add_column": {"name": "c", "type": "int", "using": "customer + 0", "not_null": true, "check": "c >= 0",
                       "references": "customers (id)", "index": true}}"#;
    let volatile = r#"{"rollout": "volatile", "table": "orders", "until": "planned",
        "add_column": {"name": "u", "type": "uuid", "default": "gen_random_uuid()", "unique": true}}"#;
    let mut seen = 0;
    for (name, spec) in [("all", all), ("volatile", volatile)] {
        start(&owner, spec).await;
        let steps = format!(
            "select s.sql, s.lock, s.alone, s.undo_sql, s.stage from backfill.rollout r, backfill._rollout_steps(r.spec, r.settings) s where r.name = '{name}'"
        );
        let steps = owner.query(&steps, &[]).await.unwrap();
        let mut undone = Vec::new();
        let mut filled = false;
        for step in &steps {
            let (sql, lock, alone, undo, stage): (String, String, bool, Option<String>, String) =
                (step.get(0), step.get(1), step.get(2), step.get(3), step.get(4));
            if stage == "constrained" && !filled {
                run(
                    &owner,
                    "do $$ begin update orders set c = coalesce(customer, 0); exception when undefined_column then null; end $$",
                )
                .await;
                filled = true;
            }
            assert_eq!(strongest(&cluster, &owner, &sql, alone).await, lock, "{sql}");
            undone.extend(undo.filter(|_| stage != "switched"));
            seen += 1;
        }
        if name == "volatile" {
            for undo in undone.iter().rev() {
                let lock = strongest(&cluster, &owner, undo, undo.contains("concurrently")).await;
                assert!(
                    ["ACCESS EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "none"].contains(&lock.as_str()),
                    "{undo}: {lock}"
                );
            }
        }
    }
    assert!(seen > 15, "{seen} statements");
    // A report that began before an index is created delays it, and sees the lock.
    let report = cluster.owner().await;
    run(&report, "begin isolation level repeatable read; select count(*) from orders").await;
    let creating = cluster.owner().await;
    let creating = tokio::spawn(async move { run(&creating, "create index concurrently late on orders (note)").await });
    let locks = "select coalesce(max(mode), '') = 'ShareUpdateExclusiveLock' from pg_locks l join pg_stat_activity a using (pid) where l.relation = 'orders'::regclass and a.query like 'create index concurrently%' and a.pid <> pg_backend_pid()";
    until_true(&owner, SOON, locks).await;
    run(&report, "commit").await;
    creating.await.unwrap();
}

/// Runs a statement, and returns its strongest lock on the two tables. Fails if a table was
/// rewritten.
async fn strongest(cluster: &Cluster, owner: &Client, sql: &str, alone: bool) -> String {
    const FILES: &str = "select pg_relation_filenode('orders') || ' ' || pg_relation_filenode('customers')";
    let before: String = value(owner, FILES).await;
    let client = cluster.owner().await;
    if alone {
        run(&client, sql).await;
        return "SHARE UPDATE EXCLUSIVE".to_owned();
    }
    run(&client, "begin").await;
    run(&client, sql).await;
    let modes = "select coalesce(array_agg(distinct mode), '{}') from pg_locks where pid = pg_backend_pid() and relation in ('orders'::regclass, 'customers'::regclass)";
    let modes: Vec<String> = value(&client, modes).await;
    let after: String = value(&client, FILES).await;
    assert_eq!(after, before, "{sql} rewrites a table");
    run(&client, "commit").await;
    let named = [
        ("AccessExclusiveLock", "ACCESS EXCLUSIVE"),
        ("ExclusiveLock", "EXCLUSIVE"),
        ("ShareRowExclusiveLock", "SHARE ROW EXCLUSIVE"),
        ("ShareLock", "SHARE"),
        ("ShareUpdateExclusiveLock", "SHARE UPDATE EXCLUSIVE"),
    ];
    let found = named.iter().find(|(mode, _)| modes.iter().any(|held| held == mode));
    found.map_or("none", |(_, name)| name).to_owned()
}

/// The number of kills. `make test-rollout-kills` sets a higher one.
fn kills() -> u32 {
    std::env::var("BACKFILLD_ROLLOUT_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(15)
}

/// Daemons are killed, and the server crashes, at random moments of a rollout and of its rollback.
/// Afterwards the rollout is complete, or the schema is what it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_survives_random_kills() {
    let cluster = installed(Options::default()).await;
    run(&cluster.owner().await, TABLE).await;
    let before = fingerprint(&cluster.owner().await).await;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let (mut killed, mut round) = (0, 0);
    while killed < kills() {
        round += 1;
        let owner = cluster.owner().await;
        let rolls_back = round % 3 == 0;
        start(&owner, &spec("switched")).await;
        let mut asked = false;
        loop {
            let running = daemon(&cluster).start();
            running.wait_ready(SOON).await;
            tokio::time::sleep(std::time::Duration::from_millis(next(1200))).await;
            running.sigkill();
            killed += 1;
            if next(8) == 0 {
                cluster.restart(Mode::Immediate).await;
            }
            let owner = cluster.owner().await;
            run(&owner, "update backfill.rollout set expires_at = now() - interval '1 s' where expires_at is not null")
                .await;
            run(&owner, "update backfill.lease set expires_at = now() - interval '1 s'").await;
            let (stage, state): (String, String) = {
                let row = owner.query_one("select stage, state from backfill.rollouts", &[]).await.unwrap();
                (row.get(0), row.get(1))
            };
            assert_ne!(
                state,
                "failed",
                "{}",
                value::<String>(&owner, "select error || ' ' || hint from backfill.rollouts").await
            );
            if rolls_back && !asked && stage != "planned" && next(3) == 0 {
                run(&owner, "select backfill.rollout_rollback('cents')").await;
                asked = true;
            }
            if ["waiting", "rolled_back"].contains(&state.as_str()) {
                break;
            }
        }
        let owner = cluster.owner().await;
        if value::<String>(&owner, "select state from backfill.rollouts").await == "waiting" {
            assert_eq!(value::<i64>(&owner, DIFFERENT).await, 0);
            let _daemon = daemon(&cluster).start();
            run(&owner, "select backfill.rollout_rollback('cents')").await;
            until_rollout(&owner, "cents", "state = 'rolled_back'").await;
        }
        assert_eq!(fingerprint(&owner).await, before, "round {round}");
        run(&owner, "select backfill.forget(name) from backfill.jobs where finished_at is not null").await;
    }
}

const EXAMPLES: &str = "
create table regions (id int primary key);
insert into regions select generate_series(1, 5);
create table customers (id int primary key);
insert into customers select generate_series(0, 9);
create table orders (id bigint generated always as identity primary key, total numeric(10, 2) not null, code text, customer int);
insert into orders (total, code, customer) select g / 100.0, case when g = 7 then 'unknown-7' else g % 5 + 1 || '-x' end, g % 10 from generate_series(1, 2000) g;";

/// Each example is planned, applied and advanced to its last stage with the command line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_run_to_their_last_stage() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, EXAMPLES).await;
    let _daemon = daemon(&cluster).start();
    let backfilld = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(BACKFILLD);
        let output = command.args(arguments).env("BACKFILLD_DATABASE_URL", cluster.owner_url()).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
        said
    };
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/rollouts");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let file = file.to_str().unwrap();
        let plan = backfilld(&["rollout", "plan", file]).await;
        assert!(
            plan.contains("\nexpanded\n  alter table public.") && plan.contains("lock: ACCESS EXCLUSIVE"),
            "{plan}"
        );
        assert!(
            !backfilld(&["rollout", "status"])
                .await
                .contains(file.rsplit('/').next().unwrap().trim_end_matches(".yaml"))
        );
        let said = backfilld(&["rollout", "apply", file]).await;
        let name = said.split('"').nth(1).unwrap();
        until_rollout(&owner, name, "stage = 'constrained' and state = 'waiting'").await;
        assert_eq!(backfilld(&["rollout", "pause", name, "--reason", "lunch"]).await, "waiting\n");
        assert!(backfilld(&["rollout", "status", name]).await.contains("reason: lunch"));
        backfilld(&["rollout", "resume", name]).await;
        for stage in ["switched", "contracted"] {
            assert_eq!(backfilld(&["rollout", "advance", name]).await, "running\n");
            until_rollout(&owner, name, &format!("stage = '{stage}' and state in ('waiting', 'done')")).await;
        }
        assert!(backfilld(&["rollout", "status", name]).await.contains("alter table"));
    }
    let right = "select count(*) from orders where total_cents = round(total * 100) and region_id is not distinct from case when code like 'unknown%' then null else id % 5 + 1 end";
    assert_eq!(value::<i64>(&owner, right).await, 2000);
    assert_eq!(value::<i64>(&owner, "select count(distinct public_id) from customers").await, 10);
}

/// An autovacuum of the table would hold the lock for minutes. The server cancels it for the wait
/// for SHARE UPDATE EXCLUSIVE, which blocks no writes (P18).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_gets_its_lock_behind_an_autovacuum() {
    let cluster = installed(Options::default().set("autovacuum", "on").set("autovacuum_naptime", "1s")).await;
    cluster.sql("owner", "app", TABLE).await;
    cluster.sql("owner", "app", "delete from orders where id % 2 = 0").await;
    let owner = cluster.owner().await;
    run(&owner, "alter table orders set (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1, autovacuum_analyze_threshold = 1000000000)").await;
    let superuser = cluster.superuser("app").await;
    let vacuumed = "select exists (select from pg_stat_progress_vacuum where relid = 'orders'::regclass)";
    until_true(&superuser, SOON, vacuumed).await;
    start(&owner, &spec("expanded")).await;
    let _daemon = daemon(&cluster).start();
    until_rollout(&owner, "cents", "stage = 'expanded'").await;
    assert!(cluster.log().contains("canceling autovacuum task"), "no autovacuum was cancelled");
}

/// The table is renamed, and a copy takes its name. No statement of the rollout runs on the copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_takes_the_name_is_not_changed() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let _daemon = daemon(&cluster).start();
    start(&owner, &spec("syncing")).await;
    until_rollout(&owner, "cents", "stage = 'syncing' and state = 'waiting'").await;
    run(&owner, "alter table orders rename to orders_old; create table orders (id bigint primary key, total numeric)")
        .await;
    run(&owner, "select backfill.rollout_advance('cents')").await;
    until_rollout(
        &owner,
        "cents",
        "state = 'failed' and error like '%is not the table%' and hint like '%rename it back%'",
    )
    .await;
    assert_eq!(value::<i64>(&owner, "select count(*) from pg_trigger where tgrelid = 'orders'::regclass").await, 0);
    run(&owner, "drop table orders; alter table orders_old rename to orders; select backfill.rollout_resume('cents')")
        .await;
    until_rollout(&owner, "cents", "stage = 'backfilled'").await;
    // The table is gone, so nothing is left to take back.
    run(&owner, "drop table orders; select backfill.rollout_rollback('cents')").await;
    until_rollout(&owner, "cents", "state = 'rolled_back'").await;
}

/// Rows that violate a constraint make the rollout fail. It continues after they were corrected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_rollout_continues_after_the_cause_was_fixed() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    run(&owner, "update orders set total = -1 where id = 7").await;
    let _daemon = daemon(&cluster).start();
    start(&owner, &spec("constrained")).await;
    until_rollout(
        &owner,
        "cents",
        "state = 'failed' and error like '%orders_total_cents_check%' and hint like '%rollout_resume%'",
    )
    .await;
    // The constraint would refuse rows that the application writes, so it was dropped.
    assert_eq!(
        value::<i64>(&owner, "select count(*) from pg_constraint where conname = 'orders_total_cents_check'").await,
        0
    );
    // The message contains no value of the row.
    assert!(!value::<String>(&owner, "select error from backfill.rollouts").await.contains("-100"));
    run(&owner, "update orders set total = 1 where id = 7; select backfill.rollout_resume('cents')").await;
    until_rollout(&owner, "cents", "stage = 'constrained'").await;
    // A unique index that cannot be created leaves no invalid index after a rollback.
    let unique = r#"{"rollout": "unique", "table": "orders", "add_column": {"name": "u", "type": "int", "using": "customer", "unique": true}}"#;
    start(&owner, unique).await;
    until_rollout(&owner, "unique", "state = 'failed' and error like '%could not create unique index%'").await;
    run(&owner, "select backfill.rollout_rollback('unique')").await;
    until_rollout(&owner, "unique", "state = 'rolled_back' and error is null").await;
    assert_eq!(value::<i64>(&owner, "select count(*) from pg_index where not indisvalid").await, 0);
}

/// Two tables have rollouts with the same column name, another has long names, and the expressions
/// read values that are equal although they differ.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollouts_do_not_disturb_each_other_and_miss_no_change() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    let long = "ö".repeat(31);
    run(
        &owner,
        &format!(
            "create table one (id int primary key, a int); insert into one values (1, 1);
             create table two (id int primary key, a int, b int); insert into two values (1, 2, 3);
             create table \"{long}\" (id int primary key, a int); insert into \"{long}\" values (1, 1);
             create table values_ (id int primary key, v numeric, i interval, j jsonb, f float8, t text);
             insert into values_ values (1, 1.0, '1 day', '{{\"a\": 1.0}}', 0, 'a')"
        ),
    )
    .await;
    let _daemon = daemon(&cluster).start();
    let add = |rollout: &str, table: &str, column: &str, ty: &str, using: &str, rest: &str| {
        format!(
            r#"{{"rollout": "{rollout}", "table": "{table}", "add_column": {{"name": "{column}", "type": "{ty}", "using": "{using}"{rest}}}}}"#
        )
    };
    let specs = [
        add("one", "one", "total", "int", "a + 1", ""),
        add("two", "two", "total", "int", "b + 100", ""),
        add(
            "long",
            &format!("\\\"{long}\\\""),
            &long,
            "int",
            "a",
            &format!(r#", "not_null": true, "unique": true, "check": "\"{long}\" > 0""#),
        ),
        add("v", "values_", "c1", "text", "v::text", ""),
        add("i", "values_", "c2", "int", "extract(hour from i)::int", ""),
        add("j", "values_", "c3", "jsonb", "j", ""),
        add("f", "values_", "c4", "float8", "atan2(f, -1)", ""),
        add("n", "values_", "c5", "numeric(10,2)", "v * 3.333", r#", "not_null": true"#),
    ];
    for spec in &specs {
        start(&owner, spec).await;
    }
    for name in ["one", "two", "long", "v", "i", "j", "f", "n"] {
        until_rollout(&owner, name, "stage = 'constrained' and state = 'waiting'").await;
    }
    run(&owner, "insert into one values (2, 5); insert into two values (2, 5, 6)").await;
    assert_eq!(value::<String>(&owner, "select string_agg(total::text, ' ' order by id) from one").await, "2 6");
    assert_eq!(value::<String>(&owner, "select string_agg(total::text, ' ' order by id) from two").await, "103 106");
    run(&owner, r#"update values_ set v = 1.00, i = '24 hours', j = '{"a": 1.00}', f = '-0'"#).await;
    let right = "select concat_ws(' ', c1, c2, c3, c4 < 0, c5) from values_";
    assert_eq!(value::<String>(&owner, right).await, r#"1.00 24 {"a": 1.00} t 3.33"#);
    for name in ["two", "v"] {
        run(&owner, &format!("select backfill.rollout_rollback('{name}')")).await;
        until_rollout(&owner, name, "state = 'rolled_back' and error is null").await;
    }
    run(&owner, "insert into one values (3, 7)").await;
    assert_eq!(value::<i32>(&owner, "select total from one where id = 3").await, 8);
    assert_eq!(value::<String>(&owner, "select string_agg(b::text, ' ') from two").await, "3 6");
}

/// An index of the application has the name that the rollout's index would have. It is neither used
/// nor dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_of_the_application_is_not_touched() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let _daemon = daemon(&cluster).start();
    start(&owner, &spec("verified")).await;
    until_rollout(&owner, "cents", "stage = 'verified' and state = 'waiting'").await;
    run(&owner, "create index orders_total_cents_idx on orders (note); select backfill.rollout_advance('cents')").await;
    until_rollout(&owner, "cents", "state = 'failed' and error like '%already exists%'").await;
    run(&owner, "select backfill.rollout_resume('cents')").await;
    until_rollout(&owner, "cents", "state = 'failed' and error like '%already exists%'").await;
    run(&owner, "select backfill.rollout_rollback('cents')").await;
    until_rollout(&owner, "cents", "state = 'rolled_back' and hint like '%+ index % (note) %'").await;
    assert_eq!(value::<i64>(&owner, "select count(*) from pg_class where relname = 'orders_total_cents_idx'").await, 1);
}

/// The trigger runs with the privileges of the role that writes. A role that lacks one is found
/// before its statements would fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_writes_needs_the_rights_of_the_expression() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    cluster.create_role("writer", "login").await;
    run(&owner, TABLE).await;
    run(
        &owner,
        "create schema private; create function private.twice(int) returns int language sql immutable as 'select $1 * 2';
         create type private.mood as enum ('a', 'b'); grant select, insert (total), update (total) on orders to writer",
    )
    .await;
    let add = |ty: &str, using: &str| {
        format!(
            r#"{{"rollout": "x", "table": "orders", "add_column": {{"name": "c", "type": "{ty}", "using": "{using}"}}}}"#
        )
    };
    let tell = async |spec: &str| refused(&owner, &format!("select backfill.rollout_start($spec${spec}$spec$)")).await;
    for spec in
        [add("int", "private.twice(customer)"), add("private.mood", "case when total > 1 then 'a'::private.mood end")]
    {
        let error = tell(&spec).await;
        assert!(
            error.message.contains("role \"writer\" may write") && error.message.contains("usage on schema private"),
            "{}",
            error.message
        );
        assert!(error.hint.unwrap().contains("grant usage on schema private to writer"));
    }
    run(&owner, "grant usage on schema private to writer; revoke execute on function private.twice from public").await;
    let error = tell(&add("int", "private.twice(customer)")).await;
    assert!(error.message.contains("execute on function private.twice(integer)"), "{}", error.message);
    run(&owner, "grant execute on function private.twice to writer").await;
    let _daemon = daemon(&cluster).start();
    start(&owner, &add("int", "private.twice(customer)")).await;
    until_rollout(&owner, "x", "stage = 'constrained'").await;
    let writer = cluster.client("writer", "app").await;
    run(&writer, "insert into orders (total) values (5); update orders set total = total + 1 where id < 5").await;
}
