//! The code of a job, or the job's submitter, attacks other roles and the daemon. The attacker
//! tries three things: to use the token of a claim or the rights of another role; to read or
//! control the jobs of other roles; to disturb the daemon.

use backfilld_testbed::wait;

use super::Scene;
use crate::support::{SOON, ServerError, refused, run, until_true, value};

/// A function that records what its session can read in the places that might contain the token of
/// the claim.
const SPY: &str = "
set role e;
create table seen (what text);
create function spy() returns int language plpgsql volatile as $f$ declare said text; begin
  -- Ask the server to include the parameters of the statement in its errors.
  perform set_config('log_parameter_max_length_on_error', '-1', false);
  begin
    perform 1 / 0;
  exception when others then
    get stacked diagnostics said = pg_exception_context;
    insert into public.seen select 'context ' || said;
  end;
  insert into public.seen select current_query();
  insert into public.seen select to_jsonb(a)::text from pg_stat_activity a;
  insert into public.seen select to_jsonb(p)::text from pg_prepared_statements p;
  insert into public.seen select to_jsonb(c)::text from pg_cursors c;
  insert into public.seen select to_jsonb(s)::text from pg_settings s where s.name like '%.%' or s.source = 'session';
  perform pg_sleep(0.02);
  return 1;
end $f$";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jobs_code_cannot_learn_its_token_or_move_a_checkpoint_without_it() {
    let scene = Scene::set().await;
    scene.cluster.sql("mallory", "app", SPY).await;
    scene.table("t", 400).await;
    let daemon = scene.start_daemon().await;
    let (mallory, ctl) = (scene.client("mallory").await, scene.client("ctl").await);
    run(
        &mallory,
        r#"select backfill.enqueue('spy', 't', 'a = spy()', run_as => 'e', options => '{"max_batch_rows": 5}')"#,
    )
    .await;
    until_true(&ctl, SOON, "select exists (select from backfill.slices where rows_changed > 10)").await;
    let row = ctl.query_one("select l.slice_id, l.token::text from backfill.lease l", &[]).await.unwrap();
    let (slice, token): (i64, String) = (row.get(0), row.get(1));
    let e = scene.as_e().await;
    wait::until(SOON, "the spy has seen batches", async || {
        value::<i64>(&e, "select count(*) from seen where what like '%advance%'").await > 0
    })
    .await;
    until_true(&e, SOON, "select count(*) > 50 from seen where what like 'context %'").await;
    let found = format!("select count(*) from seen where what like '%{token}%'");
    assert_eq!(value::<i64>(&e, &found).await, 0);

    // Another login cannot use the token, and no login can use the slice without the token.
    let calls = |token: &str| {
        [
            format!("select backfill.advance({slice}, '{token}', '(0,1)', null, '{{400}}', 400, 400, 0, true)"),
            format!(
                "select backfill.advance_deferring({slice}, '{token}', '(0,1)', null, '{{400}}', 400, 400, 0, true, '[]', '[]')"
            ),
            format!("select backfill.retry_deferred({slice}, '{token}', '(0,1)', '{{}}', 0, 0, '{{}}', '[]')"),
        ]
    };
    for call in calls(&token) {
        let refusal: ServerError = refused(&e, &call).await;
        assert!(["BF006", "42501"].contains(&refusal.sqlstate.as_str()), "{call}: {refusal:?}");
    }
    let executor = scene.client("x_e").await;
    run(&executor, "set role e").await;
    for call in calls("00000000-0000-0000-0000-000000000000") {
        assert_eq!(refused(&executor, &call).await.sqlstate, "BF006", "{call}");
    }
    let other = scene.client("x_f").await;
    run(&other, "set role f").await;
    for call in calls(&token) {
        let refusal = refused(&other, &call).await;
        assert!(refusal.sqlstate == "BF006" && refusal.message.contains("x_f"), "{call}: {refusal:?}");
    }
    // Login `x_e` has only privileges that it inherits from role `e`. With `noinherit`, it has no
    // privileges in schema backfill.
    let bare = scene.client("x_e").await;
    run(&bare, "set role none").await;
    scene.cluster.sql("postgres", "app", "alter role x_e noinherit").await;
    let bare_2 = scene.client("x_e").await;
    assert_eq!(refused(&bare_2, "select * from backfill.jobs").await.sqlstate, "42501");
    drop((daemon, bare));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_state_left_by_a_job_does_not_change_the_daemons_statements() {
    let scene = Scene::set().await;
    scene.table("t", 300).await;
    let e = scene.as_e().await;
    run(
        &e,
        "grant temporary on database app to e;
         create function litter() returns int language plpgsql volatile as $f$ begin
           begin
             create temp table if not exists job (id int); create temp table if not exists pg_class (oid oid, relname name);
             create temp table if not exists checkpoint (id int); create temp table if not exists t (id int, a int);
             create or replace function pg_temp.advance(bigint, uuid, tid, text[], text[], bigint, bigint, bigint, boolean) returns int language sql return 1;
             create or replace function pg_temp.count(bigint) returns bigint language sql return 0;
             create or replace function pg_temp.eq(int, int) returns boolean language sql return false;
             create operator pg_temp.= (leftarg = int, rightarg = int, function = pg_temp.eq);
           exception when others then null;
           end;
           perform set_config('search_path', 'pg_temp, public', false), set_config('DateStyle', 'German', false), set_config('standard_conforming_strings', 'off', false),
                   set_config('row_security', 'on', false), set_config('enable_indexscan', 'off', false), pg_advisory_unlock_all();
           perform pg_advisory_lock(1650551145, 1);
           return 7;
         end $f$",
    )
    .await;
    scene.cluster.sql("postgres", "app", "grant temporary on database app to e").await;
    let daemon = scene.start_daemon().await;
    let mallory = scene.client("mallory").await;
    run(
        &mallory,
        r#"select backfill.enqueue('litter', 't', 'a = litter()', run_as => 'e', options => '{"max_batch_rows": 20}')"#,
    )
    .await;
    let olga = scene.client("olga").await;
    until_true(&olga, SOON, "select state in ('succeeded', 'failed') from backfill.jobs where name = 'litter'").await;
    let end: String =
        value(&olga, "select state || ' ' || rows_changed || coalesce(' ' || error, '') from backfill.jobs").await;
    assert_eq!(end, "succeeded 300");
    assert_eq!(value::<i64>(&e, "select count(*) from public.t where a = 7").await, 300);
    drop(daemon);
}

/// If a job's code could end the transaction of a batch, the rows could be committed without their
/// checkpoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_that_ends_the_transaction_does_not_separate_rows_from_their_checkpoint() {
    let scene = Scene::set().await;
    let e = scene.as_e().await;
    run(
        &e,
        "create procedure settle() language plpgsql as $p$ begin commit; end $p$;
         create function commits() returns int language plpgsql volatile as $f$ begin commit; return 1; end $f$;
         create function rolls_back() returns int language plpgsql volatile as $f$ begin rollback; return 1; end $f$;
         create function calls() returns int language plpgsql volatile as $f$ begin call public.settle(); return 1; end $f$;
         create function executes() returns int language plpgsql volatile as $f$ begin execute 'commit'; return 1; end $f$;
         create function row_commits() returns trigger language plpgsql as $f$ begin commit; return new; end $f$",
    )
    .await;
    let daemon = scene.start_daemon().await;
    let (mallory, olga) = (scene.client("mallory").await, scene.client("olga").await);
    for (job, set) in [
        ("commits", "a = commits()"),
        ("rolls_back", "a = rolls_back()"),
        ("calls", "a = calls()"),
        ("executes", "a = executes()"),
        ("in_trigger", "a = 1"),
    ] {
        scene.table(job, 5).await;
        if job == "in_trigger" {
            run(&e, "create trigger t before update on in_trigger for each row execute function row_commits()").await;
        }
        run(&mallory, &format!("select backfill.enqueue('{job}', '{job}', '{set}', run_as => 'e')")).await;
        until_true(&olga, SOON, &format!("select state = 'failed' from backfill.jobs where name = '{job}'")).await;
        let changed = format!("select rows_changed from backfill.jobs where name = '{job}'");
        assert_eq!(value::<i64>(&olga, &changed).await, 0, "{job}");
        assert_eq!(value::<i64>(&e, &format!("select count(*) from {job} where a is not null")).await, 0, "{job}");
    }
    drop(daemon);
}

/// Any role may take any advisory lock, even the one that a migration of the schema takes. The lock
/// does not keep a daemon from starting and running jobs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_advisory_lock_does_not_stop_a_daemon() {
    let scene = Scene::set().await;
    scene.table("t", 10).await;
    let mallory = scene.client("mallory").await;
    run(&mallory, "select pg_advisory_lock(1650551145, 1)").await;
    let _daemon = scene.start_daemon().await;
    run(&mallory, "select backfill.enqueue('t', 't', 'a = 1', run_as => 'e')").await;
    let olga = scene.client("olga").await;
    until_true(&olga, SOON, "select state = 'succeeded' from backfill.jobs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_lost_a_role_cannot_start_jobs_with_its_rights() {
    let scene = Scene::set().await;
    scene.table("t", 10).await;
    scene.table("u", 10).await;
    let mallory = scene.client("mallory").await;
    let daemon = scene.start_daemon().await;
    let olga = scene.client("olga").await;
    run(&mallory, "select backfill.enqueue('done', 't', 'a = 1', run_as => 'e')").await;
    until_true(&olga, SOON, "select state = 'succeeded' from backfill.jobs").await;
    run(&mallory, "select backfill.enqueue('later', 'u', 'a = 1', run_as => 'e', needs_approval => true)").await;
    scene.cluster.sql("postgres", "app", "revoke e from mallory").await;

    let refusal = refused(&mallory, "select backfill.rerun('done')").await;
    assert!(
        refusal.sqlstate == "42501" && refusal.message.contains("is not allowed to rerun job \"done\""),
        "{refusal:?}"
    );
    run(&olga, "select backfill.approve('later')").await;
    until_true(&olga, SOON, "select state = 'failed' and error like 'role \"mallory\" is not a member of \"e\" any more%' from backfill.jobs where name = 'later'").await;
    assert_eq!(scene.cluster.value::<i64>("postgres", "app", "select count(*) from u where a is not null").await, 0);
    // Mallory may still call `forget` for a job that mallory enqueued.
    run(&mallory, "select backfill.forget('later')").await;
    drop(daemon);
}

#[tokio::test]
async fn jobs_of_other_roles_cannot_be_stopped_or_read() {
    let scene = Scene::set().await;
    scene
        .cluster
        .sql(
            "postgres",
            "app",
            "create table ft (id int primary key, a int); alter table ft owner to f; insert into ft values (1)",
        )
        .await;
    let (mallory, alice, eve) = (scene.client("mallory").await, scene.client("alice").await, scene.client("eve").await);
    run(&alice, "select backfill.enqueue('of_f', 'ft', 'a = 1', run_as => 'f')").await;
    scene.cluster.sql("ctl", "app", "insert into backfill.row_error (job_id, relation, key, sqlstate, message) select id, 'ft', '{\"id\": 1}', '22000', 'the card number is 1234' from backfill.job").await;
    assert_eq!(value::<i64>(&alice, "select count(*) from backfill.row_errors").await, 1);
    for who in [&mallory, &eve] {
        assert_eq!(value::<i64>(who, "select count(*) from backfill.row_errors").await, 0);
    }
    // Function `leak` is cheaper than the visibility condition of the views. If a view were not a
    // security barrier, the server would evaluate `leak` first, and its error would reveal the
    // rows. The planner flattens view `jobs`, a UNION ALL, even if the view is a security barrier.
    // Both parts of the UNION ALL select from view `_visible`, so `_visible` must be a barrier too.
    run(&mallory, "set role e; create function public.leak(t text) returns boolean language plpgsql cost 0.0000001 as $f$ begin raise exception 'LEAK %', t; end $f$; reset role").await;
    for view in [
        "row_errors where leak(message)",
        "jobs where leak(name)",
        "events where leak(message)",
        "slices where leak(name)",
    ] {
        assert_eq!(value::<i64>(&mallory, &format!("select count(*) from backfill.{view}")).await, 0, "{view}");
    }
    for verb in [
        "pause('of_f')",
        "resume('of_f')",
        "cancel('of_f')",
        "approve('of_f')",
        "retry('of_f')",
        "rerun('of_f')",
        "tune('of_f', '{}')",
        "forget('of_f')",
        "pause_all()",
        "resume_all()",
    ] {
        for who in [&mallory, &eve] {
            assert_eq!(refused(who, &format!("select backfill.{verb}")).await.sqlstate, "42501", "{verb}");
        }
    }
    // A role can look up a job's state by the job's name only if the role may read the job.
    let state = "select backfill._state_of('of_f')";
    for (who, visible) in [(&alice, true), (&eve, true), (&mallory, false)] {
        assert_eq!(value::<Option<String>>(who, state).await.is_some(), visible);
    }
    let compared = "select state is not null from backfill._compare_spec('of_f', 'update', 'ft'::regclass, 'a = 2', null, null, null)";
    for (who, visible) in [(&alice, true), (&mallory, false)] {
        assert_eq!(value::<bool>(who, compared).await, visible);
    }
    // Whichever definition mallory passes, the answer is the same.
    scene.table("mt", 1).await;
    scene.cluster.sql("ctl", "app", "create function vault.outcome(statement text) returns text language plpgsql as $$
        declare detail text; hint text; begin execute statement; return 'accepted'; exception when others then
        get stacked diagnostics detail = pg_exception_detail, hint = pg_exception_hint; return concat_ws('|', sqlstate, sqlerrm, detail, hint); end $$;
        grant usage on schema vault to public").await;
    let mut outcomes = std::collections::BTreeSet::new();
    for call in [
        "enqueue('of_f', 'mt', 'a = 1', run_as => 'e')",
        "enqueue('of_f', 'mt', 'a = 2', 'a is null', run_as => 'e', priority => 5)",
        "enqueue_delete('of_f', 'mt', 'a = 2', run_as => 'e')",
    ] {
        let outcome: String = value(&mallory, &format!("select vault.outcome($s$select backfill.{call}$s$)")).await;
        outcomes.insert(outcome);
    }
    let outcome = outcomes.pop_first().unwrap();
    assert!(outcomes.is_empty() && outcome.starts_with("BF002|the name \"of_f\" is taken|"), "{outcome} {outcomes:?}");
    assert!(!outcome.contains("alice") && !outcome.contains("ft"), "{outcome}");
    let compared = "select concat(id, state, difference) from backfill._compare_spec('of_f', 'update', 'ft'::regclass, 'a = 1', null, null, 'f')";
    assert_eq!(value::<String>(&mallory, compared).await, "Your role is not allowed to see the job");
    for asked in ["select backfill.assert_complete('of_f')", "call backfill.wait('of_f')"] {
        let refusal = refused(&mallory, asked).await;
        assert!(refusal.message.contains("no job"), "{asked}: {refusal:?}");
    }
    for forged in ["run_as => 'f'", "run_as => 'ctl'", "run_as => 'x_e'", "run_as => 'postgres'", "run_as => 'nobody'"]
    {
        let refusal = refused(&mallory, &format!("select backfill.enqueue('x', 'ft', 'a = 1', {forged})")).await;
        assert_eq!(refusal.sqlstate, "BF001", "{forged}: {refusal:?}");
    }
}

/// A checkpoint moves only once in a transaction, even if two calls in the same subtransaction try
/// to move it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_moves_only_once_in_a_transaction() {
    let scene = Scene::set().await;
    scene.table("t", 1_000).await;
    let options = r#"{"max_rows_per_second": 1, "max_batch_rows": 1, "slices": 1}"#;
    let enqueue = format!("select backfill.enqueue('t', 't', 'a = 1', run_as => 'e', options => '{options}')");
    run(&scene.client("mallory").await, &enqueue).await;
    let daemon = scene.start_daemon().await;
    let superuser = scene.cluster.superuser("app").await;
    let walks =
        "select exists (select from backfill.lease l join backfill.slice s on s.id = l.slice_id where s.kind = 'walk')";
    until_true(&superuser, SOON, walks).await;
    drop(daemon);
    let found = "select format('%s, %L, ''(0,0)'', (select position from seen), array[''999''], 0, 0, 0, false', c.slice_id, c.token) from backfill.checkpoint c join backfill.slice s on s.id = c.slice_id where s.kind = 'walk'";
    let arguments: String = value(&superuser, found).await;
    run(&superuser, "create table seen as select c.position from backfill.checkpoint c join backfill.slice s on s.id = c.slice_id where s.kind = 'walk'; grant all on seen to e").await;
    let login = scene.client("x_e").await;
    run(&login, "set role e").await;
    let twice = format!(
        "do $$ begin
           begin
             perform backfill.advance({arguments}); update seen set position = array['999']; perform backfill.advance({arguments});
           exception when division_by_zero then null; end;
         end $$"
    );
    assert_eq!(refused(&login, &twice).await.sqlstate, "BF006");
    // Forged counts and positions that no real batch can have must also be refused, because they
    // would harm the jobs of other roles.
    for (outcome, sqlstate) in [
        ("array['999'], 1000001, 0, 0", "BF006"),
        ("array['999'], 0, -1, 0", "BF006"),
        ("array[repeat('9', 70000)], 0, 0, 0", "BF001"),
    ] {
        let forged = arguments.replace("array['999'], 0, 0, 0", outcome);
        assert_eq!(
            refused(&login, &format!("select backfill.advance({forged})")).await.sqlstate,
            sqlstate,
            "{outcome}"
        );
    }
    run(&login, &format!("select backfill.advance({arguments})")).await;
}

/// A job's code takes a session-level advisory lock in each batch. The lock ends with the batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_advisory_lock_of_a_jobs_code_ends_with_the_batch() {
    let scene = Scene::set().await;
    scene.table("t", 1_000).await;
    let code = "set role e; create function hold() returns trigger language plpgsql as $$ begin perform pg_advisory_lock(new.id % 2); return new; end $$;
      create trigger hold before update on t for each row execute function hold()";
    scene.cluster.sql("mallory", "app", code).await;
    let options = r#"{"max_rows_per_second": 2, "max_batch_rows": 2, "slices": 1}"#;
    let (mallory, ctl) = (scene.client("mallory").await, scene.client("ctl").await);
    for (name, set) in [("read_committed", "a = 1"), ("repeatable_read", "a = (select 1 from vault_of_e)")] {
        run(&scene.as_e().await, "create table if not exists vault_of_e as select 1 as one").await;
        let set = set.replace("select 1 from", "select one from");
        run(
            &mallory,
            &format!("select backfill.enqueue('{name}', 't', '{set}', run_as => 'e', options => '{options}')"),
        )
        .await;
        let daemon = scene.start_daemon().await;
        let moved = format!("select rows_changed > 0 from backfill.jobs where name = '{name}'");
        until_true(&ctl, SOON, &moved).await;
        // The session is open, and waits for its next batch most of the time.
        let free = "select not exists (select from pg_locks where locktype = 'advisory' and pid in (select backend_pid from backfill.lease)) and exists (select from backfill.lease where backend_pid is not null)";
        until_true(&ctl, SOON, free).await;
        drop(daemon);
        run(&mallory, &format!("select backfill.cancel('{name}')")).await;
    }
}

/// The code of a job cancels statements in the other sessions of its login. It tries to make such a
/// session run a batch without the settings that the daemon applies. Even so, the token never
/// appears in the context of an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_statement_does_not_reveal_the_token() {
    let scene = Scene::set().await;
    scene.table("t", 2_000).await;
    let code = "set role e; create table loot (context text);
      create function spy() returns trigger language plpgsql as $$ declare c text; begin
        perform set_config('log_parameter_max_length_on_error', '-1', false);
        perform set_config('role', 'none', true);
        perform pg_cancel_backend(a.pid) from pg_stat_activity a where a.usename = 'x_e' and a.pid <> pg_backend_pid();
        perform set_config('role', 'e', true);
        begin raise exception 'look'; exception when raise_exception then get stacked diagnostics c = pg_exception_context; end;
        if c ~ '[0-9a-f]{8}-[0-9a-f]{4}-' then insert into loot values (c); end if;
        return new; end $$;
      create trigger spy before update on t for each row execute function spy()";
    scene.cluster.sql("mallory", "app", code).await;
    let options = r#"{"max_batch_rows": 5, "slices": 2}"#;
    let (mallory, ctl) = (scene.client("mallory").await, scene.client("ctl").await);
    run(&mallory, &format!("select backfill.enqueue('t', 't', 'a = 1', run_as => 'e', options => '{options}')")).await;
    let _daemon = scene.start_daemon().await;
    until_true(&ctl, SOON, "select rows_changed > 500 or state = 'failed' from backfill.jobs").await;
    assert_eq!(value::<i64>(&scene.as_e().await, "select count(*) from loot").await, 0);
}

/// The code of a job replaces the daemon's prepared statements with statements of the job. The
/// job's statements would receive the token of the next batch, but the job fails before that batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_statement_does_not_receive_the_token() {
    let scene = Scene::set().await;
    scene.table("t", 1_000).await;
    let code = "set role e; create table loot (v text);
      create function steal(v anyelement) returns text language plpgsql as $$ begin insert into loot values (v::text); return 'x'; end $$;
      create function replace() returns trigger language plpgsql as $$ declare s record; begin
        for s in select p.name, p.parameter_types from pg_prepared_statements p where not p.from_sql loop
          execute format('deallocate %I', s.name);
          execute format('prepare %I (%s) as select steal($1)%s', s.name, array_to_string(s.parameter_types, ','),
            (select string_agg(format(', steal($%s)', n), '') from generate_series(2, cardinality(s.parameter_types)) n));
        end loop;
        return new; end $$;
      create trigger replace before update on t for each row execute function replace()";
    scene.cluster.sql("mallory", "app", code).await;
    let options = r#"{"max_batch_rows": 10, "slices": 1}"#;
    let (mallory, ctl) = (scene.client("mallory").await, scene.client("ctl").await);
    run(&mallory, &format!("select backfill.enqueue('t', 't', 'a = 1', run_as => 'e', options => '{options}')")).await;
    let _daemon = scene.start_daemon().await;
    until_true(&ctl, SOON, "select state = 'failed' from backfill.jobs").await;
    let error: String = value(&ctl, "select error from backfill.jobs").await;
    assert!(error.starts_with("the code of the job leaves prepared statements in its session"), "{error}");
    assert_eq!(value::<i64>(&scene.as_e().await, "select count(*) from loot").await, 0);
}

/// The code of a job changes `client_encoding` to make the server misread the quote that follows a
/// certain character in the job's `search_path`. If the server misread this quote, it would execute
/// the rest of the `search_path` as SQL before the batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_encoding_makes_the_settings_of_a_session_execute_code() {
    let scene = Scene::set().await;
    scene.table("t", 200).await;
    let code = r"set role e; create table loot (context text);
      create function evil(n int) returns int language plpgsql as $$ declare c text; begin
        begin perform 1/0; exception when others then get stacked diagnostics c = pg_exception_context; end;
        if c like '%parameters%' then insert into loot values (c); end if;
        perform set_config('backslash_quote', 'on', false), set_config('client_encoding', 'SJIS', false);
        return 1; end $$";
    scene.cluster.sql("mallory", "app", code).await;
    let path = r"public,pg_catalog,\u00c1\\'',false);set/**/log_parameter_max_length_on_error=-1;select/**/0/**/as/**/prepared--";
    let job = format!(
        r#"insert into backfill.job (name, kind, relation, target, set_sql, run_as, options, settings)
           values ('sjis', 'update', 't'::regclass, 't', 'a = evil(id)', 'e', '{{"max_batch_rows": 10, "slices": 1}}', '{{"search_path": "{path}"}}')"#
    );
    run(&scene.client("mallory").await, &job).await;
    let _daemon = scene.start_daemon().await;
    let ctl = scene.client("ctl").await;
    until_true(&ctl, SOON, "select finished_at is not null from backfill.jobs").await;
    assert_eq!(value::<i64>(&scene.as_e().await, "select count(*) from loot").await, 0);
}
