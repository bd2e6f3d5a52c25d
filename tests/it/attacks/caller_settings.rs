//! The settings of a caller's session decide how the server reads quotes, dates and arrays. These
//! settings must change neither which jobs are accepted nor what is stored. Even if a check during
//! enqueue misreads a fragment, the fragment must not reach beyond its parentheses.

use backfilld::pg::schema::release::PINS;
use tokio_postgres::Client;

use super::Scene;
use crate::support::{SOON, refused, run, until_true, value};

/// Correct assignments and filters. The server interprets each of them differently under at least
/// one setting.
const HONEST: &[(Option<&str>, Option<&str>)] = &[
    (Some("a = 'x'"), None),
    (Some(r"a = '\'"), Some(r"a is distinct from '\'")),
    (Some(r"a = 'c:\dir' || a -- '"), None),
    (Some(r"a = E'it\'s (' || e'\\'"), Some("a is null /* ' /* ; */ */")),
    (Some(r"a = u&'\0061(' || U&'!0061' uescape '!'"), None),
    (Some("a = 'b'\n 'c;'"), Some("a <> $q$;)'$q$")),
    (Some("a = '{1,null}'::int[]::text"), Some("a is null")),
    (Some("a = (a = null)::text"), None),
    (Some("a = (1.1::float8 / 3)::text, b = row_security_active('public.s')"), None),
    (Some("a = select max(x.id)::text from public.s x"), None),
    (Some("(a, b) = (select 'x', true)"), Some("\"id\" in (select 1 union select 2)")),
    (Some("a = default, b = null"), Some("id between 1 and 2 and a = any (array['(', ']'])")),
    (Some("a = date '2024-02-01'::text || interval '-1 day 2 hours'"), Some("at < '2024-02-01 12:00+00'")),
    (None, Some("id < 0")),
    // One string, with an escape for a quote.
    (None, Some(r"a = u&'\0027) or (true) or (a = '''")),
    (None, Some(r"a ~ '^\d+\(.*$' or a like '%\\%'")),
    (None, Some("a is null and at > now() - interval '1 day'")),
];

/// Filters for a delete. If a check misread one of these filters, the delete would delete every
/// row.
const HOSTILE: &[&str] = &[
    "id < 0) or (true -- */ /*\n-- */",
    "id < 0) or (true",
    "id < 0 /* /* */) or (true",
    r"a = '\') or (true) or (a = '",
    r"a = E'\') or (true) or (a = ''') or (true",
    "a = $q$ $Q$) or (true) or ($q$ = $q$",
    "id < 0); delete from public.s where (true",
    "id < 0 -- \r) or (true",
    "id = any (array[1)] or (true",
];

const STORED: &str = "
select pg_catalog.concat_ws(' | ', j.target, j.run_as, j.set, j.filter, extract(epoch from j.deadline), j.options operator(pg_catalog.-) 'deadline'::text) from backfill.jobs j";

/// Enqueues a job and returns what is stored for the job, or the error. Then rolls the enqueue
/// back.
async fn outcome(client: &Client, set: Option<&str>, filter: Option<&str>) -> String {
    run(client, "savepoint s").await;
    let enqueued = match set {
        Some(set) => {
            client
                .query("select backfill.enqueue('j', 'public.s'::regclass, $1, $2, run_as => 'e', options => '{\"max_rows_per_second\": 0.1, \"deadline\": \"2030-02-01 10:00+00\"}')", &[&set, &filter])
                .await
        }
        None => client.query("select backfill.enqueue_delete('j', 'public.s'::regclass, $1, run_as => 'e')", &[&filter]).await,
    };
    let outcome = match enqueued {
        Ok(_) => value::<String>(client, STORED).await,
        Err(error) => {
            let error = error.as_db_error().expect("an error of the server");
            format!("{}: {}", error.code().code(), error.message())
        }
    };
    run(client, "rollback to s").await;
    outcome
}

/// Returns each setting of type bool or enum that a user may change, with each value except the
/// current one. Also returns some other settings with unusual values.
const SETTINGS: &str = "
select s.name::text, v.v::text
  from pg_catalog.pg_settings s
  cross join lateral pg_catalog.unnest(case s.vartype when 'bool' then array['on', 'off'] else s.enumvals end) v(v)
 where s.context = 'user' and s.vartype in ('bool', 'enum') and v.v <> s.setting
   -- A read-only transaction cannot enqueue. exit_on_error ends the session at the first error.
   and s.name not in ('transaction_read_only', 'transaction_isolation', 'transaction_deferrable', 'exit_on_error')
union all
values ('DateStyle', 'SQL, DMY'), ('DateStyle', 'German'), ('DateStyle', 'Postgres, YMD'), ('TimeZone', 'Pacific/Apia'), ('extra_float_digits', '-15'), ('extra_float_digits', '3'),
       ('search_path', 'pg_catalog'), ('search_path', ''), ('search_path', 'public, pg_catalog'), ('default_text_search_config', 'pg_catalog.german'), ('lc_monetary', 'C'), ('lc_numeric', 'C')";

async fn with_table() -> Scene {
    let scene = Scene::set().await;
    let made = "set role e; create table public.s (id int primary key, a text, b bool, at timestamptz);
        insert into public.s select i, 'x', true, now() from generate_series(1, 100) i";
    scene.cluster.sql("mallory", "app", made).await;
    scene
}

#[tokio::test]
async fn each_setting_of_the_caller_accepts_the_same_jobs_and_stores_the_same_texts() {
    every_third_setting(0).await;
}

#[tokio::test]
async fn the_next_third_of_the_settings_accepts_the_same_jobs() {
    every_third_setting(1).await;
}

#[tokio::test]
async fn the_last_third_of_the_settings_accepts_the_same_jobs() {
    every_third_setting(2).await;
}

async fn every_third_setting(first: usize) {
    let scene = with_table().await;
    let client = scene.client("mallory").await;
    let fragments: Vec<(Option<&str>, Option<&str>)> =
        HONEST.iter().copied().chain(HOSTILE.iter().map(|filter| (None, Some(*filter)))).collect();
    let mut expected = Vec::new();
    run(&client, "set client_min_messages = error; begin").await;
    for (n, (set, filter)) in fragments.iter().enumerate() {
        let outcome = outcome(&client, *set, *filter).await;
        let hostile = n >= HONEST.len();
        assert_eq!(outcome.starts_with("BF001"), hostile, "{set:?}, {filter:?}: {outcome}");
        expected.push(outcome);
    }
    run(&client, "rollback").await;
    let settings = client.query(SETTINGS, &[]).await.unwrap();
    assert!(settings.len() > 60, "only {} settings were found", settings.len());
    let mut differ = Vec::new();
    for (at, row) in settings.iter().enumerate().skip(first).step_by(3) {
        let (name, setting): (String, String) = (row.get(0), row.get(1));
        // A session parses a function's SQL at the function's first call, and keeps the result even
        // if settings change later.
        let client = scene.client("mallory").await;
        run(&client, "set client_min_messages = error").await;
        run(&client, "begin").await;
        client.query("select pg_catalog.set_config($1, $2, true)", &[&name, &setting]).await.unwrap();
        // Many settings are not in `PINS`, and most of these choose query plans. Each of these
        // settings is tested with only a fifth of the fragments, and consecutive settings are
        // tested with different fifths.
        let sees_all = PINS.iter().any(|(pin, _)| pin.eq_ignore_ascii_case(&name));
        let seen = |n: usize| sees_all || n % 5 == at % 5;
        for (_, ((set, filter), expected)) in fragments.iter().zip(&expected).enumerate().filter(|(n, _)| seen(*n)) {
            let outcome = outcome(&client, *set, *filter).await;
            if outcome != *expected {
                differ.push(format!("{name} = {setting}: {set:?}, {filter:?}: {outcome} instead of {expected}"));
            }
        }
        run(&client, "rollback").await;
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

/// In this test, `_lex` accepts every text, as if it misread all of them. Only the server's parser
/// can then refuse a hostile filter.
#[tokio::test]
async fn a_filter_that_the_first_check_misreads_is_refused_by_the_parser_of_the_server() {
    let scene = with_table().await;
    let blind = "create or replace function backfill._lex(fragment text, what text) returns table (kind text, body text, depth integer)
        language plpgsql immutable set search_path = pg_catalog, pg_temp as $$ begin return; end $$";
    scene.cluster.sql("ctl", "app", blind).await;
    let mallory = scene.client("mallory").await;
    for filter in HOSTILE {
        let quoted = filter.replace('\\', "\\\\").replace('\'', "\\'");
        for statement in [
            format!("select backfill.enqueue_delete('d', 'public.s', E'{quoted}', run_as => 'e')"),
            format!(
                "insert into backfill.job (name, kind, relation, target, filter_sql, run_as) values ('d', 'delete', 'public.s'::regclass, '', E'{quoted}', 'e')"
            ),
        ] {
            let refusal = refused(&mallory, &statement).await;
            assert_eq!(refusal.sqlstate, "BF001", "{statement}: {refusal:?}");
        }
    }
    let message =
        refused(&mallory, "select backfill.enqueue_delete('d', 'public.s', 'id < 0) or (true', run_as => 'e')").await;
    assert_eq!(message.message, "filter is not a complete expression: syntax error at or near \")\"");
    run(&mallory, "select backfill.enqueue_delete('d', 'public.s', 'id < 0', run_as => 'e')").await;
}

#[tokio::test]
async fn a_filter_that_reached_the_queue_unchecked_deletes_no_row() {
    let scene = with_table().await;
    let (mallory, ctl) = (scene.client("mallory").await, scene.client("ctl").await);
    for (n, filter) in HOSTILE.iter().enumerate() {
        run(&mallory, &format!("select backfill.enqueue_delete('d{n}', 'public.s', 'id < 0', run_as => 'e')")).await;
        ctl.execute("update backfill.job set filter_sql = $1 where name = $2", &[filter, &format!("d{n}")])
            .await
            .unwrap();
    }
    run(&mallory, "select backfill.enqueue('set', 'public.s', 'a = 1', run_as => 'e')").await;
    run(&ctl, "update backfill.job set set_sql = 'a = 1) , b = (false' where name = 'set'").await;
    run(&mallory, "select backfill.enqueue_delete('honest', 'public.s', 'id = 1 -- one', run_as => 'e')").await;
    let daemon = scene.start_daemon().await;
    for n in 0..HOSTILE.len() {
        until_true(&ctl, SOON, &format!("select state = 'failed' from backfill.jobs where name = 'd{n}'")).await;
    }
    until_true(&ctl, SOON, "select state = 'failed' from backfill.jobs where name = 'set'").await;
    until_true(&ctl, SOON, "select state = 'succeeded' from backfill.jobs where name = 'honest'").await;
    assert_eq!(value::<i64>(&scene.as_e().await, "select count(*) from public.s where b").await, 99);
    let error: String = value(&ctl, "select error from backfill.jobs where name = 'd1'").await;
    assert!(error.contains("filter is not a complete expression: syntax error at or near \")\""), "{error}");
    drop(daemon);
}
