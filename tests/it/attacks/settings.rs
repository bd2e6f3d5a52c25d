//! The code of a job changes the settings of its session: within a statement, after the statement's
//! result was sent (in a deferred trigger), or while a statement is planned (in an immutable
//! function). No setting stops the daemon, and no row is missed or changed twice.

use super::Scene;
use crate::support::{SOON, run, until_true, value};

/// Settings with unusual values. The list contains each setting that a role may change (`context =
/// 'user'`). It contains the opposite of each boolean's current value, all values of each enum, the
/// limits of each number, and an empty value for each string. The list also contains some values
/// that are known to matter.
const VALUES: &str = r"
create table hostile (n serial, name text, setting text);
insert into hostile (name, setting)
select s.name, v.setting from pg_settings s
cross join lateral (
  select case s.setting when 'on' then 'off' else 'on' end where s.vartype = 'bool'
  union select unnest(s.enumvals) where s.vartype = 'enum'
  union select s.min_val where s.vartype in ('integer', 'real')
  union select s.max_val where s.vartype in ('integer', 'real')
  union select '' where s.vartype = 'string') v(setting)
 where s.context = 'user' and s.name not in ('transaction_read_only', 'transaction_isolation', 'transaction_deferrable')
union all values ('client_encoding', 'LATIN1'), ('client_encoding', 'SJIS'), ('client_encoding', 'SQL_ASCII'), ('client_encoding', 'EUC_JP'),
  ('DateStyle', 'SQL, DMY'), ('IntervalStyle', 'sql_standard'), ('TimeZone', 'Asia/Kathmandu'), ('search_path', 'nowhere'), ('search_path', 'pg_temp, nowhere, pg_catalog'),
  ('role', 'none'), ('session_authorization', 'default'), ('extra_float_digits', '-15'), ('bytea_output', 'escape'), ('log_parameter_max_length_on_error', '-1'),
  ('standard_conforming_strings', 'off'), ('backslash_quote', 'on'), ('quote_all_identifiers', 'on'), ('default_transaction_isolation', 'serializable');
grant select on hostile to public;
alter table hostile owner to e";

const CODE: &str = "
set role e;
create function change(n int) returns int language plpgsql volatile as $$ begin
  perform set_config(h.name, h.setting, false) from public.hostile h where h.n = change.n;
  return 1;
exception when others then return 1;
end $$;
create function change_while_planned(n int) returns int language plpgsql immutable as $$ begin return public.change(n); end $$;
create function change_later() returns trigger language plpgsql as $$ begin perform public.change(old.i); return null; end $$";

/// Creates a table with one row for each hostile value. The key is a text that contains characters
/// outside ASCII.
async fn table(scene: &Scene, name: &str) {
    let made = format!(
        "set role e; create table {name} (id text primary key, i int, done int not null default 0);
         insert into {name} select 'é' || chr(946) || lpad(n::text, 4, '0'), n from hostile"
    );
    scene.cluster.sql("mallory", "app", &made).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_setting_that_a_job_changes_stops_the_daemon_or_misses_a_row() {
    let scene = Scene::set().await;
    scene.cluster.sql("postgres", "app", VALUES).await;
    scene.cluster.sql("mallory", "app", CODE).await;
    for name in ["at_once", "later", "planned"] {
        table(&scene, name).await;
    }
    let later = "set role e; create constraint trigger t after update on later deferrable initially deferred for each row execute function change_later()";
    scene.cluster.sql("mallory", "app", later).await;
    let rows: i64 = value(&scene.client("mallory").await, "select count(*) from hostile").await;
    assert!(rows > 200, "only {rows} values");
    let daemon = scene.start_daemon().await;
    let mallory = scene.client("mallory").await;
    let options = r#"{"max_batch_rows": 7, "slices": 1}"#;
    for (name, set) in [
        ("at_once", "done = done + public.change(i)"),
        ("later", "done = done + 1"),
        // The server may evaluate an immutable function while it plans the statement. The
        // function's argument is the number that the setting has in table `hostile`.
        (
            "planned",
            "done = done + public.change_while_planned((select min(n) from public.hostile where name = 'client_encoding' and setting = 'LATIN1'))",
        ),
    ] {
        run(&mallory, &format!("select backfill.enqueue('{name}', '{name}', '{set}', 'done = 0', run_as => 'e', options => '{options}')", set = set.replace('\'', "''"))).await;
    }
    let olga = scene.client("olga").await;
    for name in ["at_once", "later", "planned"] {
        until_true(
            &olga,
            SOON * 2,
            &format!("select state in ('succeeded', 'failed') from backfill.jobs where name = '{name}'"),
        )
        .await;
        let ended: String =
            value(&olga, &format!("select concat_ws(': ', state, error) from backfill.jobs where name = '{name}'"))
                .await;
        assert_eq!(ended, "succeeded", "{name}\n{}", daemon.output());
        let wrong: i64 = value(&mallory, &format!("select count(*) from {name} where done <> 1")).await;
        assert_eq!(wrong, 0, "{name}");
    }
    assert!(!daemon.output().contains("panic"), "{}", daemon.output());
}

/// An immutable function changes the encoding. The server may call the function when it plans one
/// of the job's statements. This can happen during enqueue, or while the daemon plans the job. The
/// keys contain characters outside ASCII.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encoding_that_changes_while_a_job_is_planned_changes_no_key() {
    let scene = Scene::set().await;
    let made = "set role e; create table k (id text primary key, a text); insert into k select 'é' || lpad(i::text, 4, '0'), null from generate_series(1, 600) i;
      create function enc() returns text language sql immutable as $$ select set_config('client_encoding', 'LATIN1', false) $$";
    scene.cluster.sql("mallory", "app", made).await;
    let daemon = scene.start_daemon().await;
    run(
        &scene.client("mallory").await,
        r#"select backfill.enqueue('x', 'k', 'a = enc()', run_as => 'e', options => '{"slices": 4}')"#,
    )
    .await;
    let olga = scene.client("olga").await;
    until_true(&olga, SOON, "select state in ('succeeded', 'failed') from backfill.jobs").await;
    let ended: String = value(&olga, "select concat_ws(': ', state, error) from backfill.jobs").await;
    assert_eq!(ended, "succeeded", "{}", daemon.output());
    assert_eq!(value::<i64>(&scene.as_e().await, "select count(*) from k where a = 'LATIN1'").await, 600);
}
