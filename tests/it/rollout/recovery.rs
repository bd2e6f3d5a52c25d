//! Tests of rollouts that fail, or that conflict with objects or changes of other sessions.

use std::time::Duration;

use backfilld_testbed::cluster::Options;

use crate::support::{SOON, installed, run, until_true, value};

use super::{TABLE, daemon, fingerprint, spec, start, until_rollout};

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
    // The table no longer exists, so there is nothing to roll back.
    run(&owner, "drop table orders; select backfill.rollout_rollback('cents')").await;
    until_rollout(&owner, "cents", "state = 'rolled_back'").await;
}

/// Rows that violate a constraint are found before any constraint is added, so the application can
/// still update these rows. The rollout continues after the rows have been corrected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_violate_a_constraint_are_found_before_it_is_added() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    run(&owner, "update orders set customer = 100 where id in (6, 7)").await;
    let _daemon = daemon(&cluster).start();
    for (column, keys, rows, correct) in [
        (
            "checked",
            r#""using": "total - 10", "check": "checked >= -9 -- at least""#,
            "50 rows violate",
            "update orders set total = 100 where total < 1",
        ),
        (
            "filled",
            r#""using": "nullif(customer, 100)", "not_null": true"#,
            "2 rows violate",
            "update orders set customer = 101 where customer = 100",
        ),
        (
            "referring",
            r#""using": "customer", "references": "customers (id)", "check": "referring <> 3000""#,
            "2 rows violate",
            "update orders set customer = 1 where customer = 101",
        ),
        (
            "constant",
            r#""default": -1, "check": "constant > 0""#,
            "5000 rows violate",
            "update orders set constant = 1",
        ),
    ] {
        let spec = format!(
            r#"{{"rollout": "{column}", "table": "orders", "add_column": {{"name": "{column}", "type": "int", {keys}}}}}"#
        );
        start(&owner, &spec).await;
        until_rollout(
            &owner,
            column,
            &format!("state = 'failed' and stage = 'verified' and error like '%{rows} a constraint%'"),
        )
        .await;
        let added = "select count(*) from pg_constraint where conrelid = 'orders'::regclass and convalidated is false";
        assert_eq!(value::<i64>(&owner, added).await, 0, "{column}");
        let kind = format!("select kind from backfill.jobs where name like '{column}/check-%'");
        assert_eq!(value::<String>(&owner, &kind).await, "compare");
        let hint: String = value(&owner, &format!("select hint from backfill.rollouts where name = '{column}'")).await;
        let list = hint.split("To list them: ").nth(1).unwrap().split(';').next().unwrap();
        assert!(!owner.query(list, &[]).await.unwrap().is_empty(), "{hint}");
        run(&owner, &format!("{correct}; select backfill.rollout_resume('{column}')")).await;
        until_rollout(&owner, column, "stage = 'constrained' and state = 'waiting'").await;
    }
}

/// A row that violates a constraint is written after the rows were checked, and before the
/// constraint is added. The validation finds it, and the rollout fails. The rollout continues after
/// the row has been corrected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_rollout_continues_after_the_cause_was_fixed() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    // The creation of the index waits for the end of this transaction.
    let reader = cluster.owner().await;
    run(&reader, "begin isolation level repeatable read; select count(*) from customers").await;
    let _daemon = daemon(&cluster).start();
    start(&owner, &spec("constrained")).await;
    let creating = "select count(*) > 0 from pg_stat_activity where query like '%create index concurrently orders_total_cents_idx%' and wait_event_type = 'Lock'";
    until_true(&owner, SOON * 2, creating).await;
    run(&owner, "update orders set total = -1 where id = 7").await;
    run(&reader, "commit").await;
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
    let hint: String = value(&owner, "select hint from backfill.rollouts where name = 'unique'").await;
    let list = hint.split("To list rows that violate it: ").nth(1).unwrap().split(';').next().unwrap();
    assert_eq!(owner.query(list, &[]).await.unwrap().len(), 10, "{hint}");
    run(&owner, "select backfill.rollout_rollback('unique')").await;
    until_rollout(&owner, "unique", "state = 'rolled_back' and error is null").await;
    assert_eq!(value::<i64>(&owner, "select count(*) from pg_index where not indisvalid").await, 0);
}

/// Two tables have rollouts with the same column name, and a third table has long names. On a
/// fourth table, updates replace values by values that compare as equal but have another
/// representation, such as 1.0 and 1.00. The new columns must follow these updates, too.
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

/// A view reads the new column. The rollback fails, changes nothing, and names the view.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_takes_nothing_back_if_another_object_needs_the_column() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let before = fingerprint(&owner).await;
    let _daemon = daemon(&cluster).start();
    start(&owner, &spec("constrained")).await;
    until_rollout(&owner, "cents", "stage = 'constrained' and state = 'waiting'").await;
    let complete = fingerprint(&owner).await;
    run(&owner, "create view reads as select total_cents from orders; select backfill.rollout_rollback('cents')").await;
    until_rollout(
        &owner,
        "cents",
        "state = 'failed' and error like '%depend on it: rule _RETURN on view public.reads%'",
    )
    .await;
    assert_eq!(fingerprint(&owner).await, complete);
    run(&owner, "drop view reads; select backfill.rollout_rollback('cents')").await;
    until_rollout(&owner, "cents", "state = 'rolled_back' and error is null").await;
    assert_eq!(fingerprint(&owner).await, before);
}

/// Another session changes the table during the rollout. The hint of the rollback lists the change,
/// even if an earlier rollout of the table had a column with a short name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_lists_what_others_have_changed() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let _daemon = daemon(&cluster).start();
    start(&owner, r#"{"rollout": "short", "table": "orders", "add_column": {"name": "a", "type": "int", "using": "1"}, "until": "expanded"}"#).await;
    until_rollout(&owner, "short", "stage = 'expanded'").await;
    run(&owner, "select backfill.rollout_rollback('short')").await;
    until_rollout(&owner, "short", "state = 'rolled_back'").await;
    start(&owner, &spec("expanded")).await;
    until_rollout(&owner, "cents", "stage = 'expanded' and state = 'waiting'").await;
    run(&owner, "alter table orders add stray text; select backfill.rollout_rollback('cents')").await;
    until_rollout(&owner, "cents", "state = 'rolled_back' and hint like '%+ column stray text%'").await;
}

/// A duplicate appears while the unique index is created. The incomplete index would refuse rows
/// that the application writes, so the rollout drops the index. While the statement waits for other
/// sessions, the rollout names these sessions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unique_index_that_cannot_be_completed_is_dropped() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table uq (id int primary key, v int); insert into uq select g, g from generate_series(1, 2000) g",
    )
    .await;
    let _daemon = daemon(&cluster).start();
    let spec = r#"{"rollout": "uq", "table": "uq", "add_column": {"name": "n", "type": "int", "using": "v * 2", "unique": true}, "until": "verified"}"#;
    start(&owner, spec).await;
    until_rollout(&owner, "uq", "stage = 'verified' and state = 'waiting'").await;
    let (first, second) = (cluster.owner().await, cluster.owner().await);
    run(&first, "begin; update uq set v = v where id = 1").await;
    run(&owner, "select backfill.rollout_advance('uq')").await;
    until_rollout(
        &owner,
        "uq",
        "waiting_reason = 'lock' and waiting_text like 'the statement waits until these sessions have ended their transactions: process % of role owner'",
    )
    .await;
    run(&second, "begin; insert into uq values (5000, 7)").await;
    run(&first, "commit").await;
    until_true(
        &owner,
        SOON,
        "select coalesce((select indisready from pg_index where indexrelid = to_regclass('uq_n_key')), false)",
    )
    .await;
    // A pause does not cancel the statement that is running.
    run(&owner, "select backfill.rollout_pause('uq')").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(value::<bool>(&owner, "select to_regclass('uq_n_key') is not null").await);
    run(&owner, "select backfill.rollout_resume('uq')").await;
    run(&second, "commit").await;
    until_rollout(&owner, "uq", "state = 'failed' and error like '%duplicate key%' and hint like '%count(*) > 1%'")
        .await;
    assert!(value::<bool>(&owner, "select to_regclass('uq_n_key') is null").await);
    run(&owner, "insert into uq values (6000, 9), (6001, 7); delete from uq where id >= 5000; select backfill.rollout_resume('uq')").await;
    until_rollout(&owner, "uq", "stage = 'constrained'").await;
    assert!(
        value::<bool>(
            &owner,
            "select indisvalid and indisunique from pg_index where indexrelid = 'uq_n_key'::regclass"
        )
        .await
    );
}

/// The new column is renamed. Neither the rollout nor its rollback continues before it has its name
/// again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_column_stops_the_rollout_and_its_rollback() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let before = fingerprint(&owner).await;
    let _daemon = daemon(&cluster).start();
    start(&owner, &spec("constrained")).await;
    until_rollout(&owner, "cents", "stage = 'constrained' and state = 'waiting'").await;
    run(&owner, "alter table orders rename column total_cents to cents; select backfill.rollout_advance('cents')")
        .await;
    let renamed = "state = 'failed' and error like '%was renamed to \"cents\"'";
    until_rollout(&owner, "cents", renamed).await;
    run(&owner, "select backfill.rollout_rollback('cents')").await;
    until_rollout(
        &owner,
        "cents",
        &format!("{renamed} and hint like '%rename column cents to total_cents;%rollout_rollback%'"),
    )
    .await;
    assert_eq!(
        value::<i64>(
            &owner,
            "select count(*) from pg_trigger where tgrelid = 'orders'::regclass and tgname like 'zzz%'"
        )
        .await,
        2
    );
    run(&owner, "alter table orders rename column cents to total_cents; select backfill.rollout_rollback('cents')")
        .await;
    until_rollout(&owner, "cents", "state = 'rolled_back' and error is null").await;
    assert_eq!(fingerprint(&owner).await, before);
}

/// The expression fails for many rows, and the spec accepts this. No job of the rollout counts as
/// failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_that_accepts_errors_continues_with_many_of_them() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    run(
        &owner,
        "update orders set note = 'bad' where id % 48 = 0; update orders set note = id::text where id % 48 <> 0",
    )
    .await;
    let _daemon = daemon(&cluster).start();
    let accepting = r#"{"rollout": "parsed", "table": "orders", "until": "switched", "add_column": {"name": "parsed", "type": "bigint", "using": "note::bigint", "on_error": null}, "backfill": {"throttle": "off"}}"#;
    start(&owner, accepting).await;
    until_rollout(&owner, "parsed", "stage = 'switched'").await;
    let wrong =
        "select count(*) from orders where parsed is distinct from case when note <> 'bad' then note::bigint end";
    assert_eq!(value::<i64>(&owner, wrong).await, 0);
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.jobs where state = 'failed'").await, 0);
    let told = "select count(*) from backfill.events where kind = 'rollout unverified' and message like '%104 rows%'";
    assert_eq!(value::<i64>(&owner, told).await, 3);
    assert_eq!(value::<i64>(&owner, "select rows_unverified from backfill.rollouts").await, 104);
}

/// A value that is too long for the type is an error, as in an assignment, and is not truncated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_value_is_truncated() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    let types = [
        ("varchar(5)", "text", "abcde", "abcdef"),
        ("char(5)", "text", "abc", "abcdef"),
        ("bit(3)", "varbit", "101", "1011"),
        ("varbit(3)", "varbit", "11", "1011"),
        ("varchar(5)[]", "text[]", "{abcde}", "{abcdef}"),
    ];
    for (n, (kind, plain, fits, long)) in types.iter().enumerate() {
        for (name, value) in [("fits", fits), ("long", long)] {
            let table = format!("create table {name}_{n} (id int primary key, v {plain})");
            run(&owner, &format!("{table}; insert into {name}_{n} values (1, '{fits}'), (2, '{value}')")).await;
            let spec = format!(
                r#"{{"rollout": "{name}_{n}", "table": "{name}_{n}", "add_column": {{"name": "short", "type": "{kind}", "using": "v"}}}}"#
            );
            start(&owner, &spec).await;
        }
    }
    let _daemon = daemon(&cluster).start();
    for n in 0..types.len() {
        until_rollout(&owner, &format!("fits_{n}"), "stage = 'constrained' and state = 'waiting'").await;
        until_rollout(&owner, &format!("long_{n}"), "state = 'failed'").await;
        let error = crate::support::refused(
            &owner,
            &format!("insert into fits_{n} (id, v) select 3, v from long_{n} where id = 2"),
        )
        .await;
        assert!(["22001", "22026"].contains(&error.sqlstate.as_str()), "{n}: {error:?}");
    }
}

/// A null that the application writes stays if the column has a volatile default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_null_in_a_column_with_a_volatile_default_stays() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let _daemon = daemon(&cluster).start();
    let volatile = r#"{"rollout": "tokens", "table": "orders", "add_column": {"name": "tok", "type": "uuid", "default": "gen_random_uuid()"}}"#;
    start(&owner, volatile).await;
    until_rollout(&owner, "tokens", "stage = 'constrained' and state = 'waiting'").await;
    assert_eq!(value::<i64>(&owner, "select count(distinct tok) from orders").await, 5000);
    run(&owner, "update orders set tok = null where id <= 3; insert into orders (tok) values (null), (default)").await;
    for stage in ["switched", "contracted"] {
        run(&owner, "select backfill.rollout_advance('tokens')").await;
        until_rollout(&owner, "tokens", &format!("stage = '{stage}'")).await;
    }
    assert_eq!(value::<i64>(&owner, "select count(*) from orders where tok is null").await, 4);
}

/// The trigger computes the same value as the jobs, whatever settings the session of the
/// application has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trigger_does_not_depend_on_the_settings_of_the_application() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table f (id int primary key, f float8, b bytea, a text); insert into f values (1, 1 / 3.0, 'x', '{null}')").await;
    let _daemon = daemon(&cluster).start();
    for (name, using) in [
        ("of_f", "f::text"),
        ("of_b", "b::text"),
        ("of_n", "case when a = null then 1 else 2 end"),
        ("of_q", "a || 'it''s \\\\'"),
    ] {
        let spec = format!(
            r#"{{"rollout": "{name}", "table": "f", "on_difference": "report", "add_column": {{"name": "{name}", "type": "text", "using": "{using}"}}}}"#
        );
        start(&owner, &spec).await;
        until_rollout(&owner, name, "stage = 'constrained' and state = 'waiting'").await;
    }
    let other = cluster.owner().await;
    run(&other, "set extra_float_digits = -5; set bytea_output = escape; set array_nulls = off; set standard_conforming_strings = off; set quote_all_identifiers = on; set transform_null_equals = on").await;
    run(&other, "insert into f select 2, f, b, a from f; update f set f = f + 1, b = b || b where id = 1").await;
    for name in ["of_f", "of_b", "of_n", "of_q"] {
        run(&owner, &format!("select backfill.rollout_advance('{name}')")).await;
        until_rollout(&owner, name, "stage = 'switched'").await;
    }
}
