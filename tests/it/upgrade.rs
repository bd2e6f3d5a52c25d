//! A database that the first release (0.1.0, schema version 6) left in the middle of its work: its schema, its plans,
//! and the very statements of its daemon, which may go on working beside this release's. `release_0_1_0/` holds plans
//! and statements as that release wrote them. With the release's own binary: `previous.rs`.

use std::collections::HashMap;
use std::time::Duration;

use backfilld::pg;
use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::wait;
use serde_json::{Value, json};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};
use uuid::Uuid;

use crate::proof::{PLUS_ONE, PLUS_ONE_OF_ANOTHER_ROW, enqueue, exact, quick, table};
use crate::support::{SOON, installed, make_roles, migrate, run, until_state, until_true, value};

const ROWS: i64 = 3000;
const PLAN_T: &str = include_str!("release_0_1_0/plan_t.json");
const PLAN_U: &str = include_str!("release_0_1_0/plan_u.json");
const PLAN_C: &str = include_str!("release_0_1_0/plan_c.json");
const FIRST: &str = include_str!("release_0_1_0/batch_first.sql");
const AFTER: &str = include_str!("release_0_1_0/batch_after.sql");

const REGISTER: &str = "select backfill._register_executor($1::text::name, $2::text::name, $3)";
const HELLO: &str = "select backfill._hello($1, $2, $3, $4, $5::text[]::name[], make_interval(secs => $6))";
const CLAIM: &str = "select backfill._claim($1, $2::text[]::name[], make_interval(secs => $3))";
const SEAT: &str = "select backfill._seat($1, $2, $3, $4::text::timestamptz, $5)";
const SAVE_PLAN: &str = "select backfill._save_plan($1, $2, $3, $4, $5, $6)";
const HEARTBEAT: &str =
    "select slice, desired, revision, live from backfill._heartbeat($1, make_interval(secs => $2), $3)";
const LOOK: &str = "select desired, revision from backfill._look($1, $2)";
const OPTIONS: &str = "select backfill._options($1)";
const RELEASE: &str = "select backfill._release($1, $2)";
const FINISH: &str = "select backfill._finish($1, $2)";
const FAIL: &str = "select backfill._fail($1, $2, $3, $4)";
const TICK: &str = "select backfill._tick()";
const PUBLISH: &str =
    "select pg_catalog.set_config('synchronous_commit', 'local', true), backfill._publish_signals($1)";
const BYE: &str = "select backfill._bye($1)";

/// A slice that the first release's daemon holds.
#[derive(Debug, Clone)]
struct Held {
    slice: i64,
    job: i64,
    kind: String,
    name: String,
    token: Uuid,
    position: Option<Vec<String>>,
    upper: Vec<String>,
    place: String,
}

/// A daemon of the first release, by its statements. Each is prepared once and kept, as it does.
struct Old {
    client: Client,
    worker: Uuid,
    prepared: HashMap<&'static str, Statement>,
}

impl Old {
    async fn join(cluster: &Cluster) -> Self {
        let client = cluster.owner().await;
        let mut prepared = HashMap::new();
        for sql in [
            REGISTER, HELLO, CLAIM, SEAT, SAVE_PLAN, HEARTBEAT, LOOK, OPTIONS, RELEASE, FINISH, FAIL, TICK, PUBLISH,
            BYE,
        ] {
            prepared.insert(sql, client.prepare(sql).await.unwrap());
        }
        let old = Self { client, worker: Uuid::new_v4(), prepared };
        old.call(REGISTER, &[&"owner", &"owner", &true]).await;
        old.hello().await;
        old
    }

    async fn call(&self, sql: &'static str, values: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        let answer = self.client.query(&self.prepared[sql], values).await;
        answer.unwrap_or_else(|error| panic!("{sql}: {}", backfilld_testbed::server::describe(&error)))
    }

    async fn hello(&self) {
        self.call(HELLO, &[&self.worker, &"old-host", &4711, &"0.1.0", &vec!["owner"], &60.0]).await;
    }

    async fn claim(&self, ttl_seconds: f64) -> Option<Held> {
        let rows = self.call(CLAIM, &[&self.worker, &vec!["owner"], &ttl_seconds]).await;
        let claim = rows[0].get::<_, Option<Value>>(0)?;
        let key = |name: &str| {
            claim[name].as_array().map(|key| key.iter().map(|part| part.as_str().unwrap().to_owned()).collect())
        };
        // Everything that the first release reads without a default.
        for name in ["done", "takeover", "relation", "target", "ordinal", "run_as", "options", "settings", "revision"] {
            assert!(!claim[name].is_null(), "a claim without {name}: {claim}");
        }
        Some(Held {
            slice: claim["slice"].as_i64().unwrap(),
            job: claim["job"].as_i64().unwrap(),
            kind: claim["kind"].as_str().unwrap().to_owned(),
            name: claim["name"].as_str().unwrap().to_owned(),
            token: claim["token"].as_str().unwrap().parse().unwrap(),
            position: key("position"),
            upper: key("upper").unwrap_or_default(),
            place: claim["tid"].as_str().unwrap().to_owned(),
        })
    }

    async fn seat(&self, held: &Held) {
        let who = "select pg_backend_pid(), backfill._server()";
        let row = self.client.query_one(who, &[]).await.unwrap();
        let (pid, server): (i32, String) = (row.get(0), row.get(1));
        self.call(SEAT, &[&held.slice, &held.token, &pid, &None::<String>, &server]).await;
    }

    /// Stores a plan as the first release would: slices up to `bounds`.
    async fn save_plan(&self, held: &Held, plan: &str, bounds: &[&[&str]]) {
        let oids = "select $1::text::regclass::oid::int8, 'step'::regclass::oid::int8";
        let row = self.client.query_one(oids, &[&held.name]).await.unwrap();
        let plan = plan.replace("{relation}", &row.get::<_, i64>(0).to_string());
        let plan: Value = serde_json::from_str(&plan.replace("{step}", &row.get::<_, i64>(1).to_string())).unwrap();
        let mut lower: Option<&[&str]> = None;
        let mut slices = Vec::new();
        for (ordinal, upper) in bounds.iter().enumerate() {
            slices.push(json!({"ordinal": ordinal, "lower": lower, "upper": upper}));
            lower = Some(upper);
        }
        let snapshot: String = value(&self.client, "select pg_current_snapshot()::text").await;
        self.call(SAVE_PLAN, &[&held.slice, &held.token, &plan, &Value::Array(slices), &ROWS, &snapshot]).await;
    }

    /// One batch of the first release on table `t`; true at the end of the slice.
    async fn batch(&self, held: &mut Held, rows: i64) -> bool {
        let relation: i64 = value(&self.client, "select 't'::regclass::oid::int8").await;
        let sql = if held.position.is_none() { FIRST } else { AFTER };
        let sql = sql.replace("{relation}", &relation.to_string());
        let values: [&(dyn ToSql + Sync); 6] =
            [&held.slice, &held.token, &held.place, &held.position, &rows, &held.upper];
        let row = self.client.query_one(&sql, &values).await.unwrap();
        held.position = row.get("key");
        held.place = row.get("at_place");
        assert_eq!(row.get::<_, String>("desired"), "running");
        row.get("done")
    }

    async fn pass(&self, mut held: Held) {
        while !self.batch(&mut held, 200).await {}
        self.call(FINISH, &[&held.slice, &held.token]).await;
    }
}

/// Database `app` as the first release installed it.
async fn first_release() -> Cluster {
    let cluster = Cluster::with_owner(Options::default()).await;
    make_roles(&cluster).await;
    cluster.sql("owner", "app", &pg::migrate::through(6)).await;
    cluster
}

async fn upgrade(cluster: &Cluster) {
    let output = migrate(cluster, "owner", "app").await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(&format!("upgraded to version {}", pg::migrate::VERSION)), "{text}");
}

/// A job of two slices on `t`, planned by the first release.
async fn planned(cluster: &Cluster, old: &Old) {
    table(cluster, "t", ROWS).await;
    enqueue(cluster, "t", PLUS_ONE, r#"{"slices": 2, "throttle": "off"}"#).await;
    let plan = old.claim(60.0).await.unwrap();
    assert_eq!((plan.kind.as_str(), plan.name.as_str()), ("plan", "t"));
    old.seat(&plan).await;
    old.save_plan(&plan, PLAN_T, &[&["4500"], &["9000"]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_first_release_planned_and_began_is_ended_by_this_one_exactly_once() {
    let cluster = first_release().await;
    let owner = cluster.owner().await;
    let old = Old::join(&cluster).await;
    planned(&cluster, &old).await;
    // Its walk: one slice in the middle and its holder gone, the other in the middle and given back.
    let mut lost = old.claim(1.0).await.unwrap();
    old.seat(&lost).await;
    for _ in 0..4 {
        assert!(!old.batch(&mut lost, 77).await);
    }
    let mut back = old.claim(60.0).await.unwrap();
    for _ in 0..3 {
        assert!(!old.batch(&mut back, 55).await);
    }
    old.call(RELEASE, &[&back.slice, &back.token]).await;

    // And plans that nobody has begun: REPEATABLE READ with a filter and its proof, and a key of two columns.
    run(&owner, "select backfill.pause('t')").await;
    table(&cluster, "u", ROWS).await;
    run(
        &owner,
        "create table c (a int, b text, n int not null default 0, primary key (a, b));
        insert into c select i % 5, 't' || i from generate_series(1, 3000) i;
        select backfill.enqueue('c', 'c', 'n = n + 1', options => '{\"max_batch_rows\": 100}')",
    )
    .await;
    let plan = old.claim(60.0).await.unwrap();
    old.save_plan(&plan, PLAN_C, &[&["4", "t999"]]).await;
    run(&owner, "select backfill.pause('c')").await;
    let enqueued = format!("select backfill.enqueue('u', 'u', '{PLUS_ONE_OF_ANOTHER_ROW}', 'n = 0')");
    run(&owner, &enqueued).await;
    let plan = old.claim(60.0).await.unwrap();
    old.save_plan(&plan, PLAN_U, &[&["4500"], &["9000"]]).await;
    // One more whose planner is gone.
    run(
        &owner,
        "create table v (id int primary key, n int not null default 0); insert into v select generate_series(1, 500);
        select backfill.enqueue('v', 'v', 'n = n + 1', priority => -1)",
    )
    .await;
    assert_eq!(old.claim(1.0).await.unwrap().name, "v");
    drop(old);

    upgrade(&cluster).await;
    run(&owner, "select backfill.resume('t'); select backfill.resume('c')").await;
    let _daemon = quick(&cluster.owner_url()).start();
    for job in ["t", "c", "u", "v"] {
        until_state(&cluster, job, "succeeded", SOON).await;
    }
    exact(&cluster, "t", ROWS).await.unwrap();
    exact(&cluster, "u", ROWS).await.unwrap();
    for (job, rows) in [("c", ROWS), ("v", 500)] {
        assert_eq!(value::<i64>(&owner, &format!("select count(*) from {job} where n = 1")).await, rows, "{job}");
    }
    assert!(value::<bool>(&owner, "select bool_and(verified_at is not null) from backfill.jobs").await);
    // Its batches are a part of the count, and were not made again.
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.events where kind = 'takeover'").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_of_the_first_release_works_on_through_the_upgrade_and_beside_this_one() {
    let cluster = first_release().await;
    let owner = cluster.owner().await;
    let old = Old::join(&cluster).await;
    planned(&cluster, &old).await;
    let mut held = old.claim(60.0).await.unwrap();
    old.seat(&held).await;
    assert!(!old.batch(&mut held, 100).await);

    upgrade(&cluster).await;
    // The same session, its statements prepared before the upgrade.
    assert!(!old.batch(&mut held, 100).await);
    let beat = json!([{"slice": held.slice, "token": held.token, "rate": 5.0, "reason": null, "text": null}]);
    let rows = old.call(HEARTBEAT, &[&old.worker, &60.0, &beat]).await;
    assert_eq!((rows.len(), rows[0].get::<_, i64>(0), rows[0].get::<_, &str>(1)), (1, held.slice, "running"));
    assert_eq!(old.call(LOOK, &[&held.slice, &held.token]).await.len(), 1);
    assert!(old.call(OPTIONS, &[&held.job]).await[0].get::<_, Value>(0).is_object());
    let signals = json!([{"signal": "replica_lag", "source": "s", "kind": "budget", "value": 0.1, "limit": 1.0, "utilization": 0.1, "holding": false, "reason": null}]);
    old.call(PUBLISH, &[&signals]).await;
    old.call(TICK, &[]).await;
    old.hello().await;
    // What it reads of the tables themselves, for its gauges.
    run(&old.client, "select state, count(*) from backfill.job group by state; select version, min_compatible_version from backfill.schema_version").await;

    // Beside it a daemon of this release takes the other slice, and leaves this one alone.
    let new = quick(&cluster.owner_url()).start();
    until_true(&owner, SOON, "select count(*) = 1 from backfill.slices where state = 'done'").await;
    assert!(!old.batch(&mut held, 100).await);
    old.call(RELEASE, &[&held.slice, &held.token]).await;
    until_state(&cluster, "t", "succeeded", SOON).await;
    exact(&cluster, "t", ROWS).await.unwrap();
    assert!(value::<bool>(&owner, "select count(distinct version) = 2 from backfill.workers where alive").await);
    new.sigterm();
    new.wait_exit(SOON).await;

    // A whole job of the first release on the new schema: as after a rollback. Failures too.
    run(&owner, "drop table t; select backfill.forget('t')").await;
    planned(&cluster, &old).await;
    let failing = old.claim(60.0).await.unwrap();
    old.call(FAIL, &[&failing.slice, &failing.token, &"on purpose", &"none"]).await;
    assert_eq!(value::<String>(&owner, "select state || error from backfill.jobs").await, "failedon purpose");
    run(&owner, "select backfill.retry('t')").await;
    for _ in 0..2 {
        let slice = old.claim(60.0).await.expect("a slice");
        assert_eq!(slice.kind, "walk");
        old.seat(&slice).await;
        old.pass(slice).await;
    }
    assert!(old.claim(60.0).await.is_none());
    exact(&cluster, "t", ROWS).await.unwrap();
    old.call(BYE, &[&old.worker]).await;
}

/// Slices that need more are invisible to it, and stay somebody's: a takeover is an offer too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_release_is_never_offered_what_it_does_not_understand() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    let old = Old::join(&cluster).await;
    planned(&cluster, &old).await;
    // What this release plans for an ordinary job is for both.
    run(&owner, "update backfill.slice set needs = 2 where ordinal = 1").await;
    let first = old.claim(60.0).await.expect("the slice that needs nothing");
    assert!(old.claim(60.0).await.is_none(), "it was offered a slice that needs 2");
    // As if a daemon of this release had it and was gone.
    let taken = "select backfill._claim(gen_random_uuid(), array['owner']::name[], '1 ms', 2) ->> 'ordinal'";
    assert_eq!(value::<String>(&owner, taken).await, "1");
    tokio::time::sleep(Duration::from_millis(20)).await;
    old.call(TICK, &[]).await;
    assert!(old.claim(60.0).await.is_none(), "it was offered the takeover of a slice that needs 2");
    old.pass(first).await;
    assert!(old.claim(60.0).await.is_none());
    assert_eq!(value::<String>(&owner, "select state from backfill.jobs").await, "running");
    let _daemon = quick(&cluster.owner_url()).start();
    until_state(&cluster, "t", "succeeded", SOON).await;
    exact(&cluster, "t", ROWS).await.unwrap();
}

/// Rows that this release had set aside when it was gone: the first release passes what is left, and does not end the
/// slice without them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_set_aside_are_not_lost_when_the_first_release_takes_over() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    for (rest, rate) in [("in the middle", 500), ("at the end", 1_000_000)] {
        table(&cluster, "t", ROWS).await;
        run(&owner, "alter table t add constraint sound check (n = 0 or id <> 30)").await;
        let application = cluster.owner().await;
        run(&application, "begin; select from t where id in (9, 12, 60) for update").await;
        enqueue(&cluster, "t", PLUS_ONE, &format!(r#"{{"max_rows_per_second": {rate}, "max_batch_rows": 50}}"#)).await;
        let daemon = quick(&cluster.owner_url()).env("BACKFILLD_FAULT", "before_return:1=sleep:60000").start();
        until_true(&owner, SOON, "select count(*) = 3 from backfill.set_aside").await;
        until_true(&owner, SOON, "select count(*) = 1 from backfill.row_errors").await;
        if rate > 500 {
            until_true(&owner, SOON, "select bool_or(c.done) from backfill.checkpoint c join backfill.slice s on s.id = c.slice_id where s.kind = 'walk'").await;
        }
        daemon.sigkill();
        let old = Old::join(&cluster).await;
        let mut held = None;
        wait::until(SOON, "the first release takes the slice over", async || {
            held = old.claim(60.0).await;
            held.is_some()
        })
        .await;
        let held = held.unwrap();
        old.seat(&held).await;
        if rate > 500 {
            old.call(FINISH, &[&held.slice, &held.token]).await;
        } else {
            old.pass(held).await;
        }
        old.call(TICK, &[]).await;
        assert!(old.claim(60.0).await.is_none(), "{rest}: it was offered rows that were set aside");
        let left = "select (select state from backfill.jobs) || ' ' || (select string_agg(id::text, ',' order by id) from t where n = 0) || ' ' || (select count(*) from backfill.set_aside)";
        assert_eq!(value::<String>(&owner, left).await, "running 9,12,30,60 3", "{rest}");
        run(&application, "commit").await;
        let daemon = quick(&cluster.owner_url()).start();
        until_true(&owner, SOON, "select state = 'failed' from backfill.jobs").await;
        assert_eq!(
            value::<String>(&owner, "select string_agg(id::text, ',') from t where n = 0").await,
            "30",
            "{rest}"
        );
        run(&owner, "alter table t drop constraint sound; select backfill.retry('t')").await;
        until_state(&cluster, "t", "succeeded", SOON).await;
        assert_eq!(value::<i64>(&owner, "select count(*) from t where n <> 1").await, 0, "{rest}");
        drop(daemon);
        run(&owner, "drop table t; select backfill.forget('t')").await;
    }
}

/// After a rollback the first release goes on with this release's plans: it must be able to read them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_of_this_release_for_an_ordinary_job_is_one_that_the_first_release_reads() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    for (name, set, filter) in [("t", PLUS_ONE, "null"), ("u", PLUS_ONE_OF_ANOTHER_ROW, "'n = 0'")] {
        table(&cluster, name, ROWS).await;
        let slow = r#"{"slices": 2, "max_rows_per_second": 10, "max_batch_rows": 1}"#;
        run(&owner, &format!("select backfill.enqueue('{name}', '{name}', '{set}', {filter}, options => '{slow}')"))
            .await;
    }
    let daemon = quick(&cluster.owner_url()).start();
    until_true(&owner, SOON, "select bool_and(plan is not null) from backfill.job").await;
    daemon.sigterm();
    daemon.wait_exit(SOON).await;
    let like = |theirs: &Value, ours: &Value| std::mem::discriminant(theirs) == std::mem::discriminant(ours);
    for (name, theirs) in [("t", PLAN_T), ("u", PLAN_U)] {
        let theirs: Value = serde_json::from_str(&theirs.replace("{relation}", "1").replace("{step}", "1")).unwrap();
        let mut ours: Value = value(&owner, &format!("select plan from backfill.job where name = '{name}'")).await;
        // What later releases added, and the first one passes over.
        for assignment in ours["assignments"].as_array_mut().unwrap() {
            assignment.as_object_mut().unwrap().remove("types").unwrap();
        }
        for (field, theirs) in theirs.as_object().unwrap() {
            assert!(like(theirs, &ours[field]), "{name}.{field}: {} was {theirs}", ours[field]);
        }
        for (field, theirs) in theirs["key"][0].as_object().unwrap() {
            assert!(like(theirs, &ours["key"][0][field]), "{name}.key.{field}: {ours}");
        }
        for field in ["version", "strategy", "isolation", "assignments", "fingerprint", "upper", "comparable", "filter"]
        {
            assert_eq!(ours[field], theirs[field], "{name}.{field}");
        }
    }
    assert_eq!(value::<i32>(&owner, "select max(needs) from backfill.slice").await, 1);
    // And goes on with them.
    let old = Old::join(&cluster).await;
    run(&owner, "select backfill.pause('u')").await;
    until_true(&owner, SOON, "select state = 'paused' from backfill.jobs where name = 'u'").await;
    for _ in 0..2 {
        let slice = old.claim(60.0).await.expect("a slice");
        assert_eq!((slice.name.as_str(), slice.kind.as_str()), ("t", "walk"));
        old.pass(slice).await;
    }
    exact(&cluster, "t", ROWS).await.unwrap();
}

#[tokio::test]
async fn an_upgrade_ends_where_an_installation_ends_and_opens_nothing() {
    let cluster = first_release().await;
    upgrade(&cluster).await;
    cluster.create_database("fresh", "owner").await;
    assert!(migrate(&cluster, "owner", "fresh").await.status.success());
    let fresh: String = cluster.value("owner", "fresh", crate::migrate::CATALOG).await;
    assert_eq!(cluster.value::<String>("owner", "app", crate::migrate::CATALOG).await, fresh);
    let open = "select coalesce(string_agg(p.oid::regprocedure::text, ', '), '') from pg_proc p
        where p.pronamespace = 'backfill'::regnamespace and (p.proacl is null or exists (select from aclexplode(p.proacl) a where a.grantee = 0))";
    assert_eq!(cluster.value::<String>("owner", "app", open).await, "", "open to everybody");
    let tables = "select coalesce(string_agg(c.relname, ', '), '') from pg_class c, aclexplode(c.relacl) a where c.relnamespace = 'backfill'::regnamespace and a.grantee = 0";
    assert_eq!(cluster.value::<String>("owner", "app", tables).await, "", "open to everybody");
}

/// An upgrade needs short locks on the tables that daemons work with. While somebody keeps it from them it must not
/// keep the daemons from their work, and it must not be the one who dies in a deadlock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_that_has_to_wait_lets_the_work_through_and_gets_there() {
    let cluster = first_release().await;
    let owner = cluster.owner().await;
    let old = Old::join(&cluster).await;
    planned(&cluster, &old).await;
    let mut held = old.claim(600.0).await.unwrap();
    old.seat(&held).await;
    // An application's migration that enqueued and is not committed yet.
    let application = cluster.owner().await;
    run(
        &application,
        "create table later (id int primary key, a int); begin; select backfill.enqueue('later', 'later', 'a = 1')",
    )
    .await;
    let upgrading = migrate(&cluster, "owner", "app");
    let walking = async {
        // It waits, then lets go; batches pass in between, and each waits no longer than the upgrade's turn.
        until_true(&owner, SOON, "select exists (select from pg_locks where not granted and mode = 'AccessExclusiveLock' and relation = 'backfill.slice'::regclass)").await;
        for _ in 0..3 {
            let started = tokio::time::Instant::now();
            old.batch(&mut held, 10).await;
            let took = started.elapsed();
            assert!(took < Duration::from_secs(8), "a batch waited {took:?} behind the upgrade");
        }
        run(&application, "commit").await;
    };
    let (output, ()) = tokio::join!(upgrading, walking);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    old.pass(held).await;
    old.pass(old.claim(60.0).await.unwrap()).await;
    exact(&cluster, "t", ROWS).await.unwrap();
}

/// Claims, heartbeats, batches and releases of the first release at full speed while the upgrade comes: nobody fails for
/// good. A call may lose a deadlock or run into its timeout; then it is made again, as the daemon does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_under_full_traffic_of_the_first_release_goes_through() {
    let cluster = first_release().await;
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
                  c := backfill._claim(gen_random_uuid(), array['owner']::name[], interval '1 minute');
                  if c is null then perform backfill._tick(); return; end if;
                  perform * from backfill._heartbeat(gen_random_uuid(), interval '1 minute', jsonb_build_array(jsonb_build_object('slice', c -> 'slice', 'token', c -> 'token')));
                  perform * from backfill._look((c ->> 'slice')::bigint, (c ->> 'token')::uuid);
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
    wait::until(SOON, "the traffic goes on", async || {
        value::<i64>(&owner, "select sum(attempts)::int8 from backfill.slice").await > before + 50
    })
    .await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for worker in workers {
        let (done, lost) = worker.await.unwrap();
        println!("{done} turns, {lost} to be made again");
        assert!(done > lost);
    }
}
