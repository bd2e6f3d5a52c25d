//! Tests the privileges of each role on jobs, and the role that a job runs as.

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::wait;

use crate::support::{
    BACKFILLD, SOON, daemon, installed, make_roles, migrate, refused, run, until_state, until_true, value,
};

#[tokio::test]
async fn each_role_sees_and_controls_only_its_own_jobs() {
    let cluster = installed(Options::default()).await;
    cluster.sql("postgres", "app", "create role nobody_here login; create role ann login in role backfill_submitter; create role ben login in role backfill_submitter;
        create role team nologin in role backfill_submitter; grant team to ann; create role eve login in role backfill_reader; create role olga login in role backfill_operator;
        create table ta (id int primary key, a int); alter table ta owner to ann; create table tb (id int primary key, a int); alter table tb owner to ben").await;
    let [nobody, ann, ben, eve, olga] = [
        cluster.client("nobody_here", "app").await,
        cluster.client("ann", "app").await,
        cluster.client("ben", "app").await,
        cluster.client("eve", "app").await,
        cluster.client("olga", "app").await,
    ];
    run(&ann, "select backfill.enqueue('of_ann', 'ta', 'a = 1', needs_approval => true)").await;
    run(&ben, "select backfill.enqueue('of_ben', 'tb', 'a = 1')").await;

    for attempt in [
        "select * from backfill.jobs",
        "select backfill.enqueue('x', 'ta', 'a = 1')",
        "select backfill.enqueue_delete('x', 'ta', 'a = 1')",
        "select * from backfill.preview('ta', 'a = 1')",
        "select backfill._prune_history('1 day', 5)",
        "select backfill.pause_all()",
        "select backfill.assert_complete('of_ann')",
        "call backfill.wait('of_ann')",
    ] {
        assert_eq!(refused(&nobody, attempt).await.sqlstate, "42501", "{attempt}");
    }
    let names = "select string_agg(name, ' ' order by name) from backfill.jobs";
    assert_eq!(value::<String>(&ann, names).await, "of_ann");
    assert_eq!(value::<String>(&ben, names).await, "of_ben");
    assert_eq!(value::<String>(&eve, names).await, "of_ann of_ben");
    assert_eq!(value::<String>(&olga, names).await, "of_ann of_ben");
    assert_eq!(
        value::<i64>(&ann, "select count(*) from backfill.events where name is distinct from 'of_ann'").await,
        0
    );

    for verb in ["pause('of_ann')", "cancel('of_ann')", "tune('of_ann', '{}')", "approve('of_ann')"] {
        for (who, client) in [("ben", &ben), ("eve", &eve)] {
            assert_eq!(refused(client, &format!("select backfill.{verb}")).await.sqlstate, "42501", "{who}: {verb}");
        }
    }
    // A role without grants can execute no function of the schema. This also covers functions that
    // a later migration adds.
    let open = "select count(*) from pg_proc where pronamespace = 'backfill'::regnamespace and has_function_privilege('nobody_here', oid, 'execute')";
    assert_eq!(cluster.value::<i64>("postgres", "app", open).await, 0);
    for attempt in
        ["select * from backfill.preview('tb', 'a = 1')", "select backfill.enqueue_delete('x', 'tb', 'a = 1')"]
    {
        assert_eq!(refused(&ann, attempt).await.sqlstate, "BF001", "{attempt}");
    }
    for attempt in [
        "select backfill.enqueue('x', 'ta', 'a = 1')",
        "select backfill.enqueue_delete('x', 'ta', 'a = 1')",
        "select * from backfill.preview('ta', 'a = 1')",
        "select backfill._prune_history('1 day', 5)",
        "insert into backfill.command (verb, job_name) values ('cancel', 'of_ann')",
        "select backfill.pause_all()",
    ] {
        assert_eq!(refused(&eve, attempt).await.sqlstate, "42501", "{attempt}");
    }
    run(&ann, "select backfill.pause('of_ann'); select backfill.resume('of_ann')").await;
    run(&olga, "select backfill.pause('of_ann', 'olga says'); select backfill.approve('of_ann'); select backfill.pause_all(); select backfill.resume_all()").await;
    assert_eq!(value::<String>(&olga, "select actor::text from backfill.events where kind = 'approve'").await, "olga");
    // If a login is a member of a role, its session can act as this role and then return to the
    // login role.
    run(&ann, "set role team; create temp table x (); reset role").await;

    // These attempts forge jobs, commands and events, read or change the private tables, call
    // functions of the daemon, and enqueue a job for another role.
    for attempt in [
        "insert into backfill.job (name, relation, target, set_sql, run_as, enqueued_by) values ('f', 'ta'::regclass, 'ta', 'a = 1', 'ann', 'ben')",
        "insert into backfill.job (name, relation, target, set_sql, run_as, approved_at) values ('f', 'ta'::regclass, 'ta', 'a = 1', 'ann', now())",
        "insert into backfill.job (name, relation, target, set_sql, run_as, state) values ('f', 'ta'::regclass, 'ta', 'a = 1', 'ann', 'succeeded')",
        "insert into backfill.job (name, relation, target, set_sql, run_as) values ('f', 'ta'::regclass, 'ta', 'a = 1', 'owner')",
        "insert into backfill.job (name, relation, target, set_sql, run_as) values ('f', 'ta'::regclass, 'ta', 'a = 1', 'ben')",
        "insert into backfill.job (name, relation, target, set_sql, run_as, options) values ('f', 'ta'::regclass, 'ta', 'a = 1', 'ann', '{\"throttle\": \"off\"}')",
        "insert into backfill.job (name, relation, target, set_sql, run_as, options) values ('f', 'ta'::regclass, 'ta', 'a = 1', 'ann', '{\"deadline\": \"x\"}')",
        "insert into backfill.job (name, relation, target, set_sql, run_as, filter_sql) values ('f', 'ta'::regclass, 'ta', 'a = 1', 'ann', 'true) or (true')",
        "insert into backfill.job (name, relation, target, set_sql, run_as) values ('f', 'pg_authid'::regclass, 'ta', 'a = 1', 'ann')",
        "insert into backfill.command (verb, job_name, actor) values ('cancel', 'of_ben', 'ben')",
        "insert into backfill.command (verb, job_name) values ('cancel', 'of_ben')",
        "insert into backfill.job (name, kind, relation, target, run_as) values ('f', 'delete', 'ta'::regclass, 'ta', 'ann')",
        "insert into backfill.job (name, kind, relation, target, filter_sql, run_as) values ('f', 'delete', 'ta'::regclass, 'ta', 'true; drop table ta', 'ann')",
        "insert into backfill.event (kind, message) values ('x', 'y')",
        "update backfill.job set state = 'succeeded'",
        "delete from backfill.job",
        "select * from backfill.job",
        "select * from backfill.executor",
        "select * from backfill.checkpoint",
        "select backfill._register_executor('ann', 'owner', true)",
        "select backfill._claim(gen_random_uuid(), array['ben']::name[], '1 h')",
        "select backfill._fail(1, gen_random_uuid(), '', '')",
        "select backfill._settle(1)",
        "select backfill._record_event(1, 'x', 'y')",
        "select backfill.enqueue('f', 'ta', 'a = 1', run_as => 'ben')",
        "select backfill.enqueue('f', 'ta', 'a = 1', run_as => 'owner')",
    ] {
        let refusal = refused(&ann, attempt).await;
        assert!(["42501", "BF001", "23514"].contains(&refusal.sqlstate.as_str()), "{attempt}: {refusal:?}");
    }
    run(&ann, "set role team").await;
    assert!(
        refused(&ann, "select backfill.cancel('of_ben')").await.message.contains("role \"team\" is not allowed to")
    );
    run(&ann, "reset role").await;
    assert_eq!(value::<i64>(&olga, "select count(*) from backfill.jobs").await, 2);
}

/// Creates three logins: `ctl`, the control login, which owns only schema backfill; `x_e`, the
/// login of the executor; and `app_login`, the login of the application. The last two are members
/// of role `e`, which owns the tables of the tests.
async fn two_logins() -> Cluster {
    let cluster = Cluster::start(Options::default()).await;
    make_roles(&cluster).await;
    cluster.sql("postgres", "postgres", "create role e nologin in role backfill_submitter; create role x_e login in role e; create role app_login login in role e, backfill_submitter;
        create role ctl login in role pg_read_all_stats").await;
    cluster.create_database("app", "postgres").await;
    cluster.sql("postgres", "app", "grant create on database app to ctl; revoke all on schema public from public; grant usage, create on schema public to e; alter role x_e in database app set role = 'e'").await;
    assert!(migrate(&cluster, "ctl", "app").await.status.success());
    cluster
}

fn with_executor(cluster: &Cluster) -> Daemon {
    let (control, executor) = (cluster.url("ctl", "app"), cluster.url("x_e", "app"));
    let yaml = format!(
        "lease: {{poll_ms: 100}}\ndatabases:\n  - name: main\n    url: {control}\n    executors:\n      - {{run_as: e, url: \"{executor}\"}}\n"
    );
    Daemon::builder(BACKFILLD, &control).config(yaml).start()
}

#[tokio::test]
async fn a_job_runs_on_its_executor_and_the_control_login_never_evaluates_its_expressions() {
    let cluster = two_logins().await;
    let app = cluster.client("app_login", "app").await;
    run(
        &app,
        "set role e;
        create table t (id int primary key, a int, b text);
        insert into t select generate_series(1, 700);
        create table witness (who text, as_whom text);
        create function seen(n int) returns int language plpgsql volatile as $$ begin
          insert into public.witness values (session_user, current_user);
          if session_user not in ('x_e', 'app_login') then raise exception 'evaluated by %', session_user; end if;
          return n; end $$;
        create function pure(n int) returns int language plpgsql immutable as $$ begin
          if session_user not in ('x_e', 'app_login') then raise exception 'evaluated by %', session_user; end if;
          return n; end $$;
        create domain picky as int check (public.pure(value) > 0);
        create table d (id picky primary key, a int);
        insert into d select generate_series(1, 50);
        alter table t owner to e",
    )
    .await;
    assert!(!cluster.value::<bool>("postgres", "app", "select has_table_privilege('ctl', 'public.t', 'select')").await);
    run(&app, "select backfill.enqueue('j', 't', 'a = seen(id), b = pure(7)::text', 'a is null and pure(1) = 1', options => '{\"slices\": 3}');
        select backfill.enqueue('own', 't', '\"b\" = pure(8)::text', 'pure(id) > 690', priority => 1);
        select backfill.enqueue('domain', 'd', 'a = pure(id)', priority => 2)").await;
    assert_eq!(
        value::<String>(&app, "select string_agg(distinct run_as || ' ' || waiting_reason, ',') from backfill.jobs")
            .await,
        "e daemon"
    );
    let daemon = with_executor(&cluster);
    daemon.wait_ready(SOON).await;
    let watch = cluster.client("ctl", "app").await;
    for name in ["j", "own", "domain"] {
        until_true(
            &watch,
            SOON,
            &format!("select state in ('succeeded', 'failed') from backfill.jobs where name = '{name}'"),
        )
        .await;
        let end: String = value(
            &watch,
            &format!("select state || coalesce(': ' || error, '') from backfill.jobs where name = '{name}'"),
        )
        .await;
        assert_eq!(end, "succeeded", "{name}");
    }
    assert_eq!(
        value::<String>(&app, "select string_agg(distinct who || ' as ' || as_whom, ', ') from witness").await,
        "x_e as e"
    );
    assert_eq!(value::<i64>(&app, "select count(*) from t where a = id").await, 700);
    assert_eq!(value::<i64>(&app, "select count(*) from d where a = id").await, 50);

    // Like the executor, the application acts as role `e`. Only its session user differs, so
    // `advance` refuses its call although the token is valid.
    run(&app, "select backfill.enqueue('slow', 't', 'b = null', options => '{\"max_rows_per_second\": 1}')").await;
    until_true(
        &watch,
        SOON,
        "select exists (select from backfill.slices where name = 'slow' and state = 'leased' and rows_scanned > 0)",
    )
    .await;
    let row = watch.query_one("select l.slice_id, l.token::text, c.position from backfill.lease l join backfill.checkpoint c using (slice_id)", &[]).await.unwrap();
    let (slice, token): (i64, String) = (row.get(0), row.get(1));
    let refusal =
        refused(&app, &format!("select backfill.advance({slice}, '{token}', '(0,1)', null, '{{9}}', 0, 0, 0, true)"))
            .await;
    assert_eq!(refusal.sqlstate, "BF006", "{refusal:?}");
    assert!(refusal.message.contains("app_login"), "{refusal:?}");
}

#[tokio::test]
async fn a_job_for_a_role_without_an_executor_waits_until_there_is_one() {
    let cluster = installed(Options::default()).await;
    cluster.sql("postgres", "app", "create role e nologin in role backfill_submitter; create role x_e login in role e; create role dev login in role backfill_submitter; grant owner to dev;
        alter role x_e in database app set role = 'e'; create table te (id int primary key, a int); alter table te owner to e; insert into te values (1); grant e to dev").await;
    let dev = cluster.client("dev", "app").await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int); insert into t values (1)").await;
    // Before the first daemon starts, `dev` enqueues three jobs. The first is enqueued as `owner`,
    // the daemon's login. The second is enqueued as `dev` itself, and runs as `owner`. The third is
    // enqueued as `e`, which has no executor.
    run(&dev, "set role owner; select backfill.enqueue('as_owner', 't', 'a = 1'); grant update, select on t to dev; reset role").await;
    run(&dev, "select backfill.enqueue('of_dev', 't', 'a = 2', 'id > 0')").await;
    run(&dev, "set role e; select backfill.enqueue('for_e', 'te', 'a = 1')").await;
    let first = daemon(&cluster).await;
    until_state(&cluster, "as_owner", "succeeded", SOON).await;
    until_state(&cluster, "of_dev", "succeeded", SOON).await;
    assert_eq!(
        value::<String>(&owner, "select run_as || ' for ' || enqueued_by from backfill.jobs where name = 'of_dev'")
            .await,
        "owner for dev"
    );
    until_true(
        &owner,
        SOON,
        "select state = 'queued' and waiting_reason = 'executor' from backfill.jobs where name = 'for_e'",
    )
    .await;
    first.sigterm();
    assert!(first.wait_exit(SOON).await.success());
    let (control, executor) = (cluster.owner_url(), cluster.url("x_e", "app"));
    let yaml = format!(
        "databases:\n  - name: main\n    url: {control}\n    executors:\n      - {{run_as: e, url: \"{executor}\"}}\n"
    );
    let second = Daemon::builder(BACKFILLD, &control).config(yaml).start();
    second.wait_ready(SOON).await;
    until_state(&cluster, "for_e", "succeeded", SOON).await;
}

/// During a failover, the URL of an executor may temporarily lead to a different server than the
/// URL of the queue (P1).
#[tokio::test]
async fn an_executor_on_another_server_than_the_queue_changes_nothing_and_the_job_waits() {
    let (cluster, other) = (two_logins().await, two_logins().await);
    for one in [&cluster, &other] {
        one.sql("postgres", "app", "create table t (id int primary key, a int); insert into t select generate_series(1, 50); alter table t owner to e").await;
    }
    // Register the executor on the other server, as a daemon with that server's URL would do.
    other.sql("postgres", "app", "select backfill._register_executor('x_e', 'e', false)").await;
    let (control, executor) = (cluster.url("ctl", "app"), other.url("x_e", "app"));
    let yaml = format!(
        "lease: {{poll_ms: 100}}\ndatabases:\n  - name: main\n    url: {control}\n    executors:\n      - {{run_as: e, url: \"{executor}\"}}\n"
    );
    let daemon = Daemon::builder(BACKFILLD, &control).config(yaml).start();
    daemon.wait_ready(SOON).await;
    let app = cluster.client("app_login", "app").await;
    run(&app, "set role e; select backfill.enqueue('j', 't', 'a = id')").await;
    wait::until(SOON, "the log contains the reason", async || {
        daemon.output().contains("is not connected to the server of the queue")
    })
    .await;
    let watch = cluster.client("ctl", "app").await;
    assert_ne!(value::<String>(&watch, "select state from backfill.jobs").await, "failed");
    for one in [&cluster, &other] {
        assert_eq!(one.value::<i64>("postgres", "app", "select count(*) from t where a is not null").await, 0);
    }
}
