//! Tests of the specs that rollouts accept, of the roles that may control rollouts, and of the
//! examples.

use backfilld_testbed::cluster::Options;

use crate::support::{BACKFILLD, SOON, installed, refused, run, value};

use super::{TABLE, daemon, spec, start, until_rollout};

/// Each spec that cannot be carried out is refused with a reason and a remedy, and nothing is
/// stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spec_that_is_not_possible_is_refused() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    run(
        &owner,
        "create type shape as (id int, total numeric); create table typed of shape (primary key (id)); create table deferred (id int unique deferrable); create unlogged table unlogged (id int primary key); create table hidden (id int primary key); alter table hidden enable row level security; alter table hidden force row level security; create domain positive as int check (value > 0); create domain positive_too as positive; create table keyless (a int); create table named (id int primary key, constraint named_c_check check (id > 0)); alter table orders add g numeric generated always as (total * 2) stored",
    )
    .await;
    let column =
        |rest: &str| format!(r#"{{"rollout": "x", "table": "orders", "add_column": {{"name": "c", {rest}}}}}"#);
    let wrong = [
        (r#"{"rollout": "x"}"#.to_owned(), "names no table"),
        (r#"{"rollout": "x", "table": "orders"}"#.to_owned(), "has no key"),
        (r#"{"rollout": "x", "table": "nowhere", "add_column": {"name": "c", "type": "int"}}"#.to_owned(), "table \"nowhere\" does not exist"),
        (r#"{"rollout": "x", "table": "orders", "colum": {}}"#.to_owned(), "unknown key \"colum\""),
        (column(r#""type": "bigserial""#), "type \"bigserial\" does not exist"),
        (column(r#""type": "int, drop column note""#), "does not exist"),
        (column(r#""type": "positive""#), "is a domain with constraints"),
        (column(r#""type": "positive_too""#), "is a domain with constraints"),
        (column(r#""type": "text collate \"C\"""#), "does not exist"),
        (column(r#""type": "int", "using": "1", "index": {"method": "nosuch"}"#), "\"nosuch\" does not exist"),
        (column(r#""type": "text", "using": "note", "index": {"method": "gist"}"#), "default operator class"),
        (column(r#""type": "int", "using": "1", "not_null": true, "on_error": "null""#), "\"on_error\" is \"null\""),
        (column(r#""type": "int", "using": "1", "references": {"table": "customers", "column": "id", "on_delete": "set null"}"#), "on_delete is \"set null\""),
        (column(r#""type": "int", "using": "1", "references": {"table": "customers", "column": "id", "on_delete": "SET DEFAULT"}"#), "on_delete is \"set default\""),
        (column(r#""type": "text", "using": "note", "references": "customers (id)""#), "a column of type text cannot refer to"),
        (column(r#""type": "int", "references": "deferred (id)""#), "is not unique"),
        (column(r#""type": "int", "references": "unlogged (id)""#), "cannot refer to public.unlogged"),
        (column(r#""type": "int", "using": "1", "unique": true, "index": {"method": "hash"}"#), "the method of the index is \"hash\""),
        (column(r#""type": "int", "default": 1, "unique": true"#), "the same for all rows"),
        (column(r#""type": "int", "using": " ", "not_null": true"#), "\"using\" is empty"),
        (column(r#""type": "int", "default": "NULL", "not_null": true"#), "without \"using\""),
        (column(r#""type": "int", "using": "1", "not_null": true, "on_error": null"#), "\"on_error\" is \"null\""),
        (r#"{"rollout": "x", "table": "typed", "add_column": {"name": "c", "type": "int"}}"#.to_owned(), "is a typed table"),
        (r#"{"rollout": "x", "table": "hidden", "add_column": {"name": "c", "type": "int"}}"#.to_owned(), "row-level security"),
        (r#"{"rollout": "x", "table": "orders", "backfill": {"slicez": 2}, "add_column": {"name": "c", "type": "int", "using": "1"}}"#.to_owned(), "unknown option \"slicez\""),
        (column(r#""type": "int", "using": "1", "not_null": true, "references": {"table": "customers", "column": "id", "on_delete": "set null"}"#), "on_delete is \"set null\""),
        (r#"{"rollout": "x", "table": "named", "add_column": {"name": "c", "type": "int", "using": "1", "check": "c > 0"}}"#.to_owned(), "already has a constraint \"named_c_check\""),
        (r#"{"rollout": "x", "table": "keyless", "add_column": {"name": "c", "type": "int", "using": "1"}}"#.to_owned(), "no usable key"),
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
        (r#"{"rollout": "x", "table": "orders", "sync": "application", "add_column": {"name": "c", "type": "int"}}"#.to_owned(), "no \"using\""),
        (r#"{"rollout": "x", "table": "orders", "on_difference": "ignore", "add_column": {"name": "c", "type": "int", "using": "1"}}"#.to_owned(), "\"on_difference\" is \"ignore\""),
        (r#"{"rollout": "x", "table": "orders", "on_difference": "report", "add_column": {"name": "c", "type": "int"}}"#.to_owned(), "without \"using\""),
        (r#"{"rollout": "x", "table": "orders", "sync": "application", "add_column": {"name": "c", "type": "int", "using": "1", "on_error": "null"}}"#.to_owned(), "\"on_error\" is given"),
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
        // The plan of such a rollout is refused with the same message.
        let planned = owner.query("select from backfill.rollout_plan($1::text::jsonb)", &[&spec]).await.unwrap_err();
        assert_eq!(planned.as_db_error().unwrap().message(), error.message(), "{spec}");
    }
    // Types that the server can compare with the referenced column are accepted.
    for (name, kind) in [("small", "smallint"), ("big", "bigint"), ("domain", "positive_int")] {
        run(&owner, "create domain positive_int as int").await;
        let spec = format!(
            r#"{{"rollout": "x", "table": "orders", "add_column": {{"name": "{name}", "type": "{kind}", "references": "customers (id)"}}}}"#
        );
        run(&owner, &format!("select from backfill.rollout_plan('{spec}'); drop domain positive_int")).await;
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
        "select backfill._claim_rollout(gen_random_uuid(), array['owner']::name[], '1 h', '{}', '{}')",
        "select backfill.rollout_recorded(1, gen_random_uuid(), 1)",
    ] {
        assert_eq!(refused(&clerk, forged).await.sqlstate, "42501", "{forged}");
    }
}

/// The trigger runs with the privileges of the role that writes to the table. If such a role lacks
/// a privilege that the expression needs, the rollout is refused. Otherwise the statements of this
/// role would fail.
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

/// The plan lists the statements of the application that return all columns.
#[tokio::test]
async fn the_plan_lists_statements_that_return_all_columns() {
    let cluster = installed(Options::default().set("shared_preload_libraries", "pg_stat_statements")).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    cluster.sql("postgres", "app", "create extension pg_stat_statements").await;
    run(&owner, "select * from orders where id = 1; select o.* from orders o where customer = 1; update orders set note = 'x' where id = 1 returning *; select count(*) from orders; select id from orders; select * from customers").await;
    let plan = format!(
        "select string_agg(substring(statement from 'all columns: (.*) \\('), '; ' order by statement) from backfill.rollout_plan('{}') where stage = 'warning'",
        spec("constrained")
    );
    let listed: String = value(&owner, &plan).await;
    assert_eq!(
        listed,
        "select * from orders where id = $1; select o.* from orders o where customer = $1; update orders set note = $1 where id = $2 returning *"
    );
}

/// `rollout wait` prints the progress, and ends with the stage or with the failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_waits_for_a_stage() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    start(&owner, &spec("constrained")).await;
    let wait = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(BACKFILLD);
        command.args(["rollout", "wait", "cents"]).args(arguments).env("BACKFILLD_DATABASE_URL", cluster.owner_url());
        let output = tokio::time::timeout(SOON * 2, command.output()).await.expect("the command ends").unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, _, told) = wait(&["--timeout", "1s"]).await;
    assert_eq!(code, Some(75), "{told}");
    assert!(told.contains("stage planned; no daemon is running"), "{told}");
    let _daemon = daemon(&cluster).start();
    let (code, said, told) = wait(&[]).await;
    assert_eq!((code, said.as_str()), (Some(0), "rollout \"cents\" has reached stage constrained\n"), "{told}");
    assert!(told.contains("stage syncing"), "{told}");
    let (code, _, told) = wait(&["--stage", "switched", "--timeout", "1s"]).await;
    assert!(code == Some(75) && told.contains("backfill.rollout_advance"), "{told}");
    run(&owner, "select backfill.rollout_rollback('cents')").await;
    let (code, _, told) = wait(&["--stage", "switched"]).await;
    assert_eq!(code, Some(1), "{told}");
}
