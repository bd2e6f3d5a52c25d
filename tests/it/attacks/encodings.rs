//! Texts that the server cannot convert to UTF-8. The daemon reads all texts in UTF-8, so a single
//! such text in the queue must not stop the jobs of other roles.

use super::Scene;
use crate::support::{SOON, refused, run, until_true, value};

/// Each encoding, with a byte that has no equivalent in UTF-8. The byte is written as an escape for
/// a string constant.
const ENCODINGS: [(&str, &str); 2] = [("WIN1252", r"\x81"), ("SQL_ASCII", r"\xff")];

/// Creates a table that role `f` owns. Jobs of alice change this table.
async fn table_of_f(scene: &Scene) {
    let made = "set role f; create table ft (id int primary key, a int); insert into ft select generate_series(1, 10)";
    scene.cluster.sql("alice", "app", made).await;
}

/// Each statement makes the queue store a text that the caller controls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_utf8_lacks_is_refused_and_stops_no_job() {
    for (encoding, byte) in ENCODINGS {
        let scene = Scene::set_in(encoding).await;
        scene.table("t", 10).await;
        table_of_f(&scene).await;
        let _daemon = scene.start_daemon().await;
        let (mallory, alice) = (scene.client("mallory").await, scene.client("alice").await);
        run(&mallory, "select backfill.enqueue('mine', 't', 'a = 1', run_as => 'e', needs_approval => true)").await;
        scene.cluster.sql("mallory", "app", &format!(
            "set role e; do $$ begin execute E'create table t2 (\"k{byte}\" int primary key, a int)'; execute E'create table \"t{byte}\" (id int primary key, a int)'; end $$"
        )).await;
        scene.cluster.sql("postgres", "app", &format!("do $$ begin execute E'create schema \"s{byte}\"'; execute E'grant usage on schema \"s{byte}\" to public'; end $$")).await;
        let direct = "insert into backfill.job (name, relation, target, set_sql, filter_sql, run_as, settings)";
        for (named, statement) in [
            ("set", format!("select backfill.enqueue('p', 't', E'a = ''{byte}''::text::int', run_as => 'e')")),
            ("filter", format!("select backfill.enqueue('p', 't', 'a = 1', E'''{byte}'' <> ''''', run_as => 'e')")),
            ("filter", format!("select backfill.enqueue_delete('p', 't', E'''{byte}'' <> ''''', run_as => 'e')")),
            ("name", format!("select backfill.enqueue(E'p{byte}', 't', 'a = 1', run_as => 'e')")),
            ("key", format!("select backfill.enqueue('p', 't2', 'a = 1', key => array[E'k{byte}'], run_as => 'e')")),
            ("run_as", format!("select backfill.enqueue('p', 't', 'a = 1', run_as => E'e{byte}')")),
            (
                "options",
                format!(
                    r#"select backfill.enqueue('p', 't', 'a = 1', run_as => 'e', options => E'{{"verify": "{byte}"}}')"#
                ),
            ),
            (
                "target",
                format!("do $$ begin perform backfill.enqueue('p', E'\"t{byte}\"', 'a = 1', run_as => 'e'); end $$"),
            ),
            (
                "settings",
                format!(
                    "do $$ begin perform set_config('search_path', E'public, \"s{byte}\"', true); perform backfill.enqueue('p', 't', 'a = 1', run_as => 'e'); end $$"
                ),
            ),
            ("set", format!("{direct} values ('p', 't'::regclass, 't', E'a = length(''{byte}'')', null, 'e', '{{}}')")),
            (
                "filter",
                format!("{direct} values ('p', 't'::regclass, 't', 'a = 1', E'''{byte}'' <> ''''', 'e', '{{}}')"),
            ),
            (
                "settings",
                format!(
                    r#"{direct} values ('p', 't'::regclass, 't', 'a = 1', null, 'e', E'{{"search_path": "{byte}"}}')"#
                ),
            ),
            ("reason", format!("select backfill.pause('mine', E'{byte}')")),
            ("reason", format!("select backfill.cancel('mine', E'{byte}')")),
            ("name", format!("select backfill.pause(E'{byte}')")),
            ("options", format!(r#"select backfill.tune('mine', E'{{"verify": "{byte}"}}')"#)),
            (
                "reason",
                format!("insert into backfill.command (verb, job_name, reason) values ('pause', 'mine', E'{byte}')"),
            ),
        ] {
            let refusal = refused(&mallory, &statement).await;
            run(&mallory, "rollback").await;
            assert_eq!(
                (refusal.sqlstate.as_str(), refusal.message.as_str()),
                ("BF001", format!("{named} cannot be converted to UTF-8").as_str()),
                "{encoding}: {statement}"
            );
            let detail = refusal.detail.unwrap();
            assert!(detail.contains(encoding) && refusal.hint.is_some(), "{detail}");
        }
        run(&alice, "select backfill.enqueue('of_f', 'ft', 'a = 1', run_as => 'f')").await;
        let ctl = scene.client("ctl").await;
        until_true(&ctl, SOON, "select state = 'succeeded' from backfill.jobs where name = 'of_f'").await;
    }
}

/// The catalog changes after the enqueue, or a superuser writes to the queue. In each case only the
/// job itself fails, and all queries of the views and of the status page still work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_cannot_be_read_fails_alone() {
    for (encoding, byte) in ENCODINGS {
        let scene = Scene::set_in(encoding).await;
        for table in ["t", "renamed", "column_renamed", "raises", "written"] {
            scene.table(table, 10).await;
        }
        table_of_f(&scene).await;
        let (mallory, alice, ctl) =
            (scene.client("mallory").await, scene.client("alice").await, scene.client("ctl").await);
        run(&mallory, &format!("begin; set local role e; create function fails() returns int language plpgsql as $f$ begin raise exception E'no {byte}'; end $f$;
             create table parted (id int primary key, a int) partition by range (id); create table part1 partition of parted for values from (0) to (10); insert into parted values (1); commit")).await;
        for (name, table, set) in [
            ("renamed", "renamed", "a = 1"),
            ("column_renamed", "column_renamed", "a = 1"),
            ("raises", "raises", "a = fails()"),
            ("written", "written", "a = 1"),
            ("parted", "parted", "a = 1"),
        ] {
            run(
                &mallory,
                &format!("select backfill.enqueue('{name}', '{table}', '{set}', run_as => 'e', priority => -9)"),
            )
            .await;
        }
        scene.cluster.sql("mallory", "app", &format!(
            "set role e; do $$ begin execute E'alter table renamed rename to \"r{byte}\"'; execute E'alter table column_renamed rename column id to \"i{byte}\"';
               execute E'create table \"p{byte}\" partition of parted for values from (10) to (20)'; insert into parted values (11); end $$"
        )).await;
        scene.cluster.sql("postgres", "app", &format!("update backfill.job set settings = jsonb_build_object('search_path', E'{byte}') where name = 'written'")).await;
        run(&alice, "select backfill.enqueue('of_f', 'ft', 'a = 1', run_as => 'f')").await;
        let daemon = scene.start_daemon().await;
        until_true(&ctl, SOON, "select state = 'succeeded' from backfill.jobs where name = 'of_f'").await;
        until_true(&ctl, SOON, "select bool_and(finished_at is not null) from backfill.jobs").await;
        let failed = "select coalesce(string_agg(name, ' ' order by name), '') from backfill.jobs where state = 'failed' and error <> ''";
        let failed: String = value(&ctl, failed).await;
        assert!(
            ["column_renamed", "raises", "written"].iter().all(|name| failed.contains(name)),
            "{encoding}: {failed}"
        );
        let error: String = value(&ctl, "select error from backfill.jobs where name = 'written'").await;
        let id: i64 = value(&ctl, "select id from backfill.jobs where name = 'written'").await;
        assert_eq!(error, format!("the definition of job {id} cannot be converted to UTF-8"));
        for query in ["jobs", "slices", "events", "row_errors", "workers", "signals", "_gauges"] {
            let rows = ctl.simple_query(&format!("select * from backfill.{query}")).await;
            assert!(rows.is_ok(), "{encoding}: {query}: {rows:?}");
        }
        let page: String = value(&ctl, "select backfill._status(backfill._status_jobs())").await;
        assert!(page.contains("of_f"));
        drop(daemon);
    }
}

/// If a text of the catalog is refused, the refusal shows each byte that has no equivalent in UTF-8
/// as a number.
#[tokio::test]
async fn a_refusal_shows_the_bytes_that_utf8_lacks_as_numbers() {
    for (encoding, byte, shown) in [("WIN1252", r"\x81", r"\201"), ("SQL_ASCII", r"\xff", r"\377")] {
        let scene = Scene::set_in(encoding).await;
        let readable = async |text: &str| -> String {
            scene.cluster.value("ctl", "app", &format!("select backfill._readable({text})")).await
        };
        assert_eq!(readable(&format!(r"E'a\\b{byte}c'")).await, format!(r"a\\b{shown}c"), "{encoding}");
        assert_eq!(readable(r"E'a\\b'").await, r"a\b");
        assert_eq!(readable("'é'").await, "é", "{encoding}");
    }
}

/// All databases of a server share the role names. If a role is created in a database with another
/// encoding, its name may not be valid UTF-8 in a database with encoding UTF8.
#[tokio::test]
async fn a_role_whose_name_is_not_utf8_cannot_enqueue() {
    let scene = Scene::set().await;
    scene.cluster.create_database_in("other", "postgres", "WIN1252").await;
    scene
        .cluster
        .sql(
            "postgres",
            "other",
            r"do $$ begin execute E'create role \x22r\xe9\x22 in role backfill_submitter, e'; end $$",
        )
        .await;
    scene.table("t", 1).await;
    let postgres = scene.client("postgres").await;
    let role = r"(select rolname from pg_roles where rolname not in ('r') and octet_length(rolname::text) = 2 and rolname like 'r%')";
    let enqueue = format!(
        "do $$ begin perform set_config('role', {role}, false); perform backfill.enqueue('p', 't', 'a = 1', run_as => 'e'); end $$"
    );
    let refusal = refused(&postgres, &enqueue).await;
    assert_eq!(
        (refusal.sqlstate.as_str(), refusal.message.as_str()),
        ("BF001", "enqueued_by cannot be converted to UTF-8")
    );
}

#[tokio::test]
async fn doctor_warns_of_a_database_in_sql_ascii() {
    for (encoding, warned) in [("SQL_ASCII", true), ("WIN1252", false)] {
        let scene = Scene::set_in(encoding).await;
        let findings = scene.doctor_of("server").await;
        let found =
            findings.iter().any(|finding| finding.starts_with("warn the encoding of the database is SQL_ASCII"));
        assert_eq!(found, warned, "{encoding}: {findings:?}");
    }
}
