//! The code of a job raises errors that falsely report a condition of the server: its disk is full,
//! it is read-only, it has no free connection, or a row is locked. The daemon treats these errors
//! as errors of the rows. It quarantines the rows, and serves the jobs of other roles meanwhile.

use backfilld::error::Kind;
use backfilld::worker::error_policy::action;

use super::Scene;
use crate::support::{SOON, run, until_true, value};

/// SQLSTATEs that usually mean that neither a row nor the statement is at fault.
const INVENTED: &[&str] = &[
    "53000", "53100", "53200", "53300", "53400", "58000", "58030", "58P01", "25006", "57P03", "57014", "28000",
    "28P01", "40001", "40P01", "55P03", "72000", "BF001", "BF002", "BF005", "BF006", "BF007", "BF008",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_that_a_job_invents_are_errors_of_its_rows() {
    let scene = Scene::set().await;
    let made = format!(
        "set role e; create table t (id int primary key, code text, a int);
         insert into t (id, code) select i, case when i % 10 = 0 then (array['{codes}'])[i / 10] end from generate_series(1, {rows}) i;
         create function invent() returns trigger language plpgsql as $$ begin
           if new.code is not null then raise exception 'invented %', new.code using errcode = new.code; end if; return new; end $$;
         create trigger invent before update on t for each row execute function invent()",
        codes = INVENTED.join("', '"),
        rows = 10 * INVENTED.len() + 9,
    );
    scene.cluster.sql("mallory", "app", &made).await;
    let other =
        "set role f; create table other (id int primary key, a int); insert into other select generate_series(1, 1000)";
    scene.cluster.sql("alice", "app", other).await;
    let daemon = scene.start_daemon().await;
    let options = r#"{"max_batch_rows": 50, "max_row_errors": 100, "slices": 1}"#;
    run(
        &scene.client("mallory").await,
        &format!("select backfill.enqueue('t', 't', 'a = 1', run_as => 'e', options => '{options}')"),
    )
    .await;
    run(&scene.client("alice").await, "select backfill.enqueue('other', 'other', 'a = 1', run_as => 'f')").await;
    let olga = scene.client("olga").await;
    until_true(&olga, SOON, "select state = 'succeeded' from backfill.jobs where name = 'other'").await;
    until_true(&olga, SOON * 2, "select state in ('failed', 'succeeded') from backfill.jobs where name = 't'").await;
    let found = "select string_agg(sqlstate, ' ' order by (key ->> 'id')::int) from backfill.row_errors where resolved_at is null";
    assert_eq!(value::<String>(&olga, found).await, INVENTED.join(" "), "{}", daemon.output());
    let wrong = "select count(*) from t where (a is null) <> (code is not null)";
    assert_eq!(value::<i64>(&scene.as_e().await, wrong).await, 0);
    for kind in
        [Kind::ServerResources, Kind::ReadOnly, Kind::TooManyConnections, Kind::ServerUnavailable, Kind::Authentication]
    {
        assert!(!daemon.output().contains(action(kind).1), "{kind:?}: {}", daemon.output());
    }
}

/// An immutable function raises the error while the job is planned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_that_is_invented_while_a_job_is_planned_fails_the_job() {
    let scene = Scene::set().await;
    scene.table("t", 10).await;
    let code = "set role e; create table armed (); create function full_disk() returns int language plpgsql immutable as $$ begin
      if to_regclass('public.armed') is null then raise exception 'no' using errcode = '53100'; end if; return 1; end $$";
    scene.cluster.sql("mallory", "app", code).await;
    run(&scene.client("mallory").await, "select backfill.enqueue('t', 't', 'a = full_disk()', run_as => 'e')").await;
    scene.cluster.sql("mallory", "app", "set role e; drop table armed").await;
    let daemon = scene.start_daemon().await;
    let olga = scene.client("olga").await;
    until_true(&olga, SOON * 2, "select state = 'failed' from backfill.jobs where name = 't'").await;
    assert!(!daemon.output().contains(action(Kind::ServerResources).1), "{}", daemon.output());
}

/// The code of a job calls functions of schema `backfill` that raise errors about the job. These
/// errors, too, are treated as errors of the rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_our_functions_that_a_job_calls_are_errors_of_its_rows() {
    let scene = Scene::set().await;
    scene.table("t", 30).await;
    let code = "set role e; create function call(n int) returns int language plpgsql as $$ begin
      if n = 10 then perform backfill.unchanged(0, 'pg_catalog.\"secret 4711\"', '{}', '{}', ''); end if;
      if n = 20 then perform backfill.advance(0, gen_random_uuid(), '(0,0)', null, array['1'], 0, 0, 0, false); end if;
      return n; end $$";
    scene.cluster.sql("mallory", "app", code).await;
    let enqueue =
        r#"select backfill.enqueue('t', 't', 'a = call(id)', run_as => 'e', options => '{"max_row_errors": 10}')"#;
    run(&scene.client("mallory").await, enqueue).await;
    let _daemon = scene.start_daemon().await;
    let olga = scene.client("olga").await;
    until_true(&olga, SOON, "select state = 'failed' from backfill.jobs").await;
    let found = "select string_agg(key ->> 'id', ' ' order by (key ->> 'id')::int) from backfill.row_errors";
    assert_eq!(value::<String>(&olga, found).await, "10 20");
}

/// An immutable function raises a temporary error while the job is planned. The text that all
/// readers can see does not contain the error's message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_message_of_an_error_that_planning_retries_is_not_shown() {
    let scene = Scene::set().await;
    scene.table("t", 10).await;
    let code = "set role e; create table calm (); create function spy() returns int language plpgsql immutable as $$ begin
      if to_regclass('public.calm') is null then raise exception 'secret 4711' using errcode = '40001'; end if; return 1; end $$";
    scene.cluster.sql("mallory", "app", code).await;
    run(&scene.client("mallory").await, "select backfill.enqueue('t', 't', 'a = spy()', run_as => 'e')").await;
    scene.cluster.sql("mallory", "app", "set role e; drop table calm").await;
    let daemon = scene.start_daemon().await;
    let eve = scene.client("eve").await;
    until_true(&eve, SOON, "select waiting_text is not null from backfill.jobs").await;
    until_true(&eve, SOON * 2, "select state = 'failed' from backfill.jobs").await;
    let shown = daemon.get("/status.json").await.unwrap().1;
    assert!(shown.contains("\"t\"") && !shown.contains("4711"), "{shown}");
}
