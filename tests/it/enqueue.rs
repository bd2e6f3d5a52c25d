//! Tests of `backfill.enqueue`: repeated calls, captured settings, keys and common mistakes. Most
//! functions must have the signatures that docs/contract.md lists, and the views must have the
//! columns that it lists. Module `messages` tests the texts of the refusals.

use backfilld_testbed::cluster::Options;

use crate::messages::PAIR;
use crate::support::{installed, not_before, refused, run, value};

#[tokio::test]
async fn the_signature_is_exactly_that_of_the_contract() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    let arguments = |name: &str| format!("select pg_get_function_arguments('backfill.{name}'::regproc)");
    let enqueue = "name text, target regclass, set text, filter text DEFAULT NULL::text, key name[] DEFAULT NULL::name[], \
                   priority integer DEFAULT 0, run_at timestamp with time zone DEFAULT now(), run_as name DEFAULT NULL::name, \
                   needs_approval boolean DEFAULT false, options jsonb DEFAULT '{}'::jsonb";
    for (name, expected) in [
        ("enqueue", enqueue),
        ("pause", "name text, reason text DEFAULT NULL::text"),
        ("resume", "name text"),
        ("cancel", "name text, reason text DEFAULT NULL::text"),
        ("approve", "name text"),
        ("retry", "name text"),
        ("rerun", "name text"),
        ("tune", "name text, options jsonb"),
        ("forget", "name text"),
        ("pause_all", "reason text DEFAULT NULL::text"),
        ("resume_all", ""),
        ("assert_complete", "name text, whole_table boolean DEFAULT false"),
    ] {
        assert_eq!(value::<String>(&owner, &arguments(name)).await, expected, "{name}");
    }
    let wait: String = value(&owner, &arguments("wait")).await;
    assert!(wait.contains("name text") && wait.contains("timeout interval"), "{wait}");
    assert_eq!(value::<String>(&owner, "select pg_get_function_result('backfill.enqueue'::regproc)").await, "bigint");

    run(&owner, "create table t (id int primary key, a int, b int)").await;
    let all_named = "select backfill.enqueue(name => 'named', target => 'public.t', set => 'a = 1', filter => 'a is null', key => null,
        priority => 3, run_at => now(), run_as => null, needs_approval => false, options => '{}')";
    let all_placed =
        "select backfill.enqueue('placed', 't', 'a = 1', 'a is null', '{id}', 3, now(), null, false, '{}')";
    assert!(value::<i64>(&owner, all_named).await > 0);
    assert!(value::<i64>(&owner, all_placed).await > 0);

    // Each view has at least these columns.
    for (view, columns) in [
        ("jobs", "id, name, kind, state, desired_state, waiting_reason, target, run_as, enqueued_by, rows_scanned, rows_changed, rows_unresolved,
            rows_quarantined, rows_estimated, percent_done, rows_per_second, eta, deadline, error, hint, enqueued_at, started_at, finished_at, verified_at"),
        ("slices", "job_id, name, slice, relation, state, lower, upper, position, rows_scanned, rows_changed, holder, lease_expires_at"),
        ("events", "at, job_id, name, kind, actor, message, detail"),
        ("row_errors", "job_id, name, relation, key, sqlstate, message, attempts, first_at, last_at, resolved_at"),
        ("workers", "id, host, pid, version, started_at, heartbeat_at, slices"),
        ("signals", "signal, source, kind, value, \"limit\", utilization, age, holding, reason"),
    ] {
        run(&owner, &format!("select {columns} from backfill.{view}")).await;
    }
}

#[tokio::test]
async fn a_repeated_call_finds_its_job_and_another_spec_is_refused() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int, b int)").await;
    let call = |more: &str| format!("select backfill.enqueue('j', 't', 'a = b', 'a is null'{more})");
    let id: i64 = value(&owner, &call("")).await;
    for uncompared in [
        "",
        ", priority => -5",
        ", run_at => now() + interval '1 day'",
        ", needs_approval => true",
        ", options => '{\"slices\": 3, \"deadline\": \"2030-01-01\"}'",
    ] {
        assert_eq!(value::<i64>(&owner, &call(uncompared)).await, id, "{uncompared}");
    }
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.jobs").await, 1);
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.events where kind = 'enqueued'").await, 1);
    let refusal = refused(&owner, "select backfill.enqueue('j', 't', 'a = b + 1', 'a is null')").await;
    assert_eq!(refusal.sqlstate, "BF002");
    assert_eq!(
        refusal.detail.as_deref(),
        Some(
            "Assignments (set) of the existing job: a = b. Assignments (set) of this call: a = b + 1. The existing job is queued."
        )
    );

    // Enqueue a job in the same transaction as the migration that creates its table.
    run(&owner, "begin; create table fresh (id int primary key, c int); select backfill.enqueue('with_it', 'fresh', 'c = 1'); rollback").await;
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.jobs where name = 'with_it'").await, 0);
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.slice").await, 1);
    run(&owner, "begin; create table fresh (id int primary key, c int); select backfill.enqueue('with_it', 'fresh', 'c = 1'); commit").await;
    assert_eq!(value::<String>(&owner, "select state from backfill.jobs where name = 'with_it'").await, "queued");

    // Cancel the job and drop a column that the call names. Then repeat the call.
    run(&owner, "select backfill.cancel('j'); alter table t drop column b").await;
    let (client, notices) = notices(&cluster.owner_url()).await;
    assert_eq!(value::<i64>(&client, &call("")).await, id);
    assert_eq!(
        notices.lock().unwrap().as_slice(),
        ["WARNING: job \"j\" already exists and has been cancelled; enqueueing it again does not start it"]
    );
    run(&owner, "alter table t add b int; drop table t; create table t (id int primary key, a int, b int)").await;
    let refusal = refused(&owner, &call("")).await;
    assert_eq!(
        refusal.detail.as_deref(),
        Some(
            "The existing job is for an earlier table named public.t, which has since been replaced. The existing job is cancelled."
        )
    );
}

pub type Notices = std::sync::Arc<std::sync::Mutex<Vec<String>>>;

/// Opens a session that records its notices.
pub async fn notices(url: &str) -> (tokio_postgres::Client, Notices) {
    let (client, mut connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    let received = Notices::default();
    let recorder = received.clone();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let tokio_postgres::AsyncMessage::Notice(notice) = message {
                recorder.lock().unwrap().push(format!("{}: {}", notice.severity(), notice.message()));
            }
        }
    });
    (client, received)
}

#[tokio::test]
async fn a_submitter_without_other_rights_enqueues_before_any_daemon_and_under_odd_names() {
    let cluster = installed(Options::default()).await;
    cluster.sql("postgres", "app", r#"create role "odd ""clerk" login in role backfill_submitter; create schema "we ""ird" authorization "odd ""clerk""#).await;
    let (clerk, received) = notices(&cluster.url("odd%20%22clerk", "app")).await;
    run(&clerk, r#"create table "we ""ird"."Ta""ble" ("I""d" int primary key, "Se""t" text, "from" int)"#).await;
    let id: i64 = value(&clerk, r#"select backfill.enqueue('a/b:c.d-E_1', '"we ""ird"."Ta""ble"', '"Se""t" = ''x;'' || $q$ ( $q$ || E''\'''' -- why; not
        , "from" = (select count(*) from "we ""ird"."Ta""ble" o where o."I""d" > 0) /* a ) b */', '"Se""t" is null -- or not')"#).await;
    assert_eq!(
        received.lock().unwrap().as_slice(),
        ["WARNING: no daemon is running on this database; the job stays queued until one starts"]
    );
    let row = clerk
        .query_one("select id, target, run_as::text, enqueued_by::text, waiting_reason from backfill.jobs", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), id);
    assert_eq!(row.get::<_, String>(1), r#""we ""ird"."Ta""ble""#);
    assert_eq!(row.get::<_, String>(2), "odd \"clerk");
    assert_eq!(row.get::<_, String>(3), "odd \"clerk");
    assert_eq!(row.get::<_, String>(4), "daemon");
    assert!(refused(&clerk, "select * from backfill.job").await.message.contains("permission denied"));
    // These fragments look dangerous but are valid.
    for set in [
        "\"from\" = 1",
        "\"Se\"\"t\" = 'it''s; -- fine'",
        "\"Se\"\"t\" = $a$ $b$ ; $b$ $a$",
        "\"Se\"\"t\" = U&'\\0041'",
        "(\"Se\"\"t\", \"from\") = ('a', 2)",
        "\"Se\"\"t\" = (array['a', 'b'])[1]",
        "\"from\" = case when \"I\"\"d\" <> 1 then 2 end",
    ] {
        run(&clerk, "begin").await;
        let call = "select backfill.enqueue('x', '\"we \"\"ird\".\"Ta\"\"ble\"'::text::regclass, $1)";
        clerk.query_one(call, &[&set]).await.unwrap_or_else(|error| panic!("{set}: {error:?}"));
        run(&clerk, "rollback").await;
    }
}

#[tokio::test]
async fn the_callers_settings_are_captured_and_the_deadline_is_read_in_the_callers_time_zone() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create schema s; create table s.t (id int primary key, a text); set search_path = s, public; set DateStyle = 'SQL, DMY';
        set TimeZone = 'Europe/Berlin'; set IntervalStyle = sql_standard;
        select backfill.enqueue('j', 't', 'a = 1', options => '{\"deadline\": \"2030-01-02 12:00\"}')").await;
    let other = cluster.owner().await;
    assert_eq!(value::<String>(&other, "select settings ->> 'DateStyle' from backfill.job").await, "SQL, DMY");
    assert_eq!(value::<String>(&other, "select settings ->> 'TimeZone' from backfill.job").await, "Europe/Berlin");
    assert_eq!(value::<String>(&other, "select settings ->> 'IntervalStyle' from backfill.job").await, "sql_standard");
    assert_eq!(value::<String>(&other, "select settings ->> 'search_path' from backfill.job").await, "s, public");
    run(&other, "set DateStyle = 'ISO, MDY'; set TimeZone = 'UTC'").await;
    assert_eq!(value::<String>(&other, "select deadline::text from backfill.jobs").await, "2030-01-02 11:00:00+00");
    // The server would interpret this deadline according to the caller's DateStyle. A tool that
    // sets a different DateStyle would store a different day.
    for deadline in ["02/01/2030 12:00", "2.1.2030", "02-01-30"] {
        let refusal = refused(
            &owner,
            &format!("select backfill.enqueue('k', 's.t', 'a = 1', options => '{{\"deadline\": \"{deadline}\"}}')"),
        )
        .await;
        assert_eq!(refusal.detail.as_deref(), Some("The order of day, month and year is ambiguous."), "{deadline}");
    }
    // After the call, the session has its previous settings.
    assert_eq!(value::<String>(&owner, "show search_path").await, "s, public");
    assert_eq!(value::<String>(&owner, "show role").await, "none");
}

#[tokio::test]
async fn unsuitable_keys_of_newer_servers_are_refused() {
    let cluster = installed(Options::default()).await;
    if not_before(18, &cluster, "key WITHOUT OVERLAPS and no not-null constraint that is NOT VALID") {
        return;
    }
    cluster.sql("postgres", "app", "create extension btree_gist").await;
    let owner = cluster.owner().await;
    run(&owner, "create table late (id int, a int); create unique index late_id on late (id); alter table late add constraint filled not null id not valid;
        create table spans (id int, during daterange, a int, primary key (id, during without overlaps))").await;
    let refusal = refused(&owner, "select backfill.enqueue('j', 'late', 'a = 1', key => '{id}')").await;
    assert_eq!(
        (refusal.sqlstate.as_str(), refusal.detail.as_deref()),
        ("BF001", Some("Index public.late_id has a nullable column."))
    );
    let refusal = refused(&owner, "select backfill.enqueue('j', 'spans', 'a = 1')").await;
    assert_eq!(
        (refusal.sqlstate.as_str(), refusal.detail.as_deref()),
        ("BF001", Some("Index public.spans_pkey is a gist index, not a btree."))
    );
    // After the constraint is validated, the column can be used as the key.
    run(
        &owner,
        "alter table late validate constraint filled; select backfill.enqueue('j', 'late', 'a = 1', key => '{id}')",
    )
    .await;
}

#[tokio::test]
async fn blanks_and_comments_do_not_change_the_spec_and_words_do() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int, b text)").await;
    let id: i64 = value(&owner, "select backfill.enqueue('j', 't', 'a = id*2, b = ''x y''', 'a is null')").await;
    let again =
        "select backfill.enqueue('j', 't', E'a  =  ID * 2, -- cents\\n  b = ''x y''', E' A is /* still */ null\\n')";
    assert_eq!(value::<i64>(&owner, again).await, id);
    for set in ["a = id*2, b = ''x  y''", "a = id*3, b = ''x y''", "a = \"id\"*2, b = ''x y''"] {
        let refusal = refused(&owner, &format!("select backfill.enqueue('j', 't', '{set}', 'a is null')")).await;
        assert_eq!(refusal.sqlstate, "BF002", "{set}");
    }
}

#[tokio::test]
async fn keys_with_unusual_operators_or_collations_are_refused() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    let superuser = cluster.superuser("app").await;
    run(&superuser, PAIR).await;
    run(
        &superuser,
        "create collation loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        create type named as (id int, name text collate loose);
        create domain known as named check (value is not null);
        create type names as range (subtype = text, collation = loose)",
    )
    .await;
    run(
        &owner,
        "create table paired (k pair primary key, n int); create table composed (k named primary key, n int);
        create table known_composed (k known primary key, n int); create table ranged (k names primary key, n int)",
    )
    .await;
    for (table, reason) in [
        ("paired", "comparison operators with names other than"),
        ("composed", "nondeterministic collation"),
        ("known_composed", "nondeterministic collation"),
        ("ranged", "nondeterministic collation"),
    ] {
        let refusal = refused(&owner, &format!("select backfill.enqueue('j', '{table}', 'n = 1')")).await;
        assert!(
            refusal.sqlstate == "BF001" && refusal.detail.as_ref().is_some_and(|d| d.contains(reason)),
            "{table}: {refusal:?}"
        );
    }
}

#[tokio::test]
async fn common_mistakes_are_reported_at_enqueue() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, n int);
        create table p (id int primary key, n int, h text) partition by range (id); create table p_all partition of p default",
    )
    .await;
    for call in ["backfill.enqueue('j', 't', 'n = 1', ' ')", "backfill.preview('t', 'n = 1', E' \n')"] {
        let refusal = refused(&owner, &format!("select {call}")).await;
        assert_eq!((refusal.sqlstate.as_str(), refusal.message.as_str()), ("BF001", "filter is blank"), "{call}");
    }
    let refusal = refused(&owner, "select backfill.enqueue('j', 'p', 'n = public.p.id')").await;
    assert!(refusal.hint.as_ref().is_some_and(|hint| hint.contains("write p.column")), "{refusal:?}");
    let (client, notices) = notices(&cluster.owner_url()).await;
    let late = "select backfill.enqueue('j', 't', 'n = 1', options => '{\"deadline\": \"2020-01-01\"}')";
    run(&client, late).await;
    let received = notices.lock().unwrap();
    assert!(
        received.iter().any(|line| line.starts_with("WARNING") && line.contains("has already passed")),
        "{received:?}"
    );
}
