//! Tests of how the new column is kept in sync: by the application instead of a trigger, in a
//! published table with subscribers, and when the trigger has been disabled, dropped or bypassed.

use backfilld_testbed::cluster::Options;

use crate::support::{SOON, installed, refused, run, until_true, value};

use super::{DIFFERENT, TABLE, daemon, fingerprint, spec, start, until_rollout};

const APPLICATION: &str = r#"{"rollout": "cents", "table": "orders", "sync": "application",
    "add_column": {"name": "total_cents", "type": "bigint", "using": "round(total * 100)::bigint", "not_null": true}}"#;

/// The new code of the application writes the column. The rollout waits until this code is
/// deployed. It later finds the rows that old code has written without updating the column.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_application_can_keep_the_column_in_step() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let before = fingerprint(&owner).await;
    let _daemon = daemon(&cluster).start();
    start(&owner, APPLICATION).await;
    let asks = "stage = 'expanded' and state = 'waiting' and waiting_text like '%deploy code that writes column \"total_cents\"%'";
    until_rollout(&owner, "cents", asks).await;
    run(&owner, "select backfill.rollout_advance('cents')").await;
    until_rollout(&owner, "cents", "stage in ('backfilled', 'verified', 'constrained')").await;
    until_rollout(&owner, "cents", "stage = 'constrained' and state = 'waiting'").await;
    assert_eq!(value::<i64>(&owner, DIFFERENT).await, 0);
    assert_eq!(value::<i64>(&owner, "select count(*) from pg_trigger where tgname like 'zzz%'").await, 0);
    let job = "select kind || ' ' || rows_changed from backfill.jobs where name like 'cents/verify-%'";
    assert_eq!(value::<String>(&owner, job).await, "compare 0");

    // Old code changes rows without updating the new column.
    run(&owner, "update orders set total = total + 1 where id in (7, 4711)").await;
    run(&owner, "select backfill.rollout_advance('cents')").await;
    let found = "state = 'failed' and error like '%2 rows differ from the expression%'";
    until_rollout(&owner, "cents", found).await;
    assert_eq!(value::<i64>(&owner, DIFFERENT).await, 2, "a comparison has changed rows");
    let hint: String = value(&owner, "select hint from backfill.rollouts").await;
    let list = hint.split("To list them: ").nth(1).unwrap().split(';').next().unwrap();
    assert_eq!(owner.query(list, &[]).await.unwrap().len(), 2, "{hint}");
    // Without a correction, the rollout fails again. A retry of the job changes no rows either.
    run(&owner, "select backfill.rollout_resume('cents')").await;
    until_rollout(&owner, "cents", "state = 'running'").await;
    until_rollout(&owner, "cents", found).await;
    assert_eq!(value::<i64>(&owner, DIFFERENT).await, 2);
    let correct = hint.split("correct the rows: ").nth(1).unwrap().split(';').next().unwrap();
    run(&owner, correct).await;
    run(&owner, "select backfill.rollout_resume('cents')").await;
    until_rollout(&owner, "cents", "stage = 'switched' and state = 'waiting'").await;
    run(&owner, "select backfill.rollout_rollback('cents')").await;
    until_rollout(&owner, "cents", "state = 'rolled_back' and error is null").await;
    assert_eq!(fingerprint(&owner).await, before);
}

/// Each further stage needs a separate call, including the stage after `syncing`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn advance_does_not_lower_the_last_stage() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    start(&owner, APPLICATION).await;
    let error = refused(&owner, "select backfill.rollout_advance('cents')").await;
    assert_eq!(error.sqlstate, "BF005");
    let _daemon = daemon(&cluster).start();
    until_rollout(&owner, "cents", "stage = 'expanded' and state = 'waiting'").await;
    run(&owner, "select backfill.rollout_advance('cents')").await;
    assert_eq!(value::<String>(&owner, "select until from backfill.rollouts").await, "constrained");
}

/// Rows that were written while triggers did not fire are found before the switch: the rollout
/// corrects them, or fails with a hint that shows how to list them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_the_trigger_missed_are_repaired_or_reported() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let superuser = cluster.superuser("app").await;
    let _daemon = daemon(&cluster).start();
    for policy in ["repair", "report"] {
        let spec = spec("constrained").replacen('{', &format!(r#"{{"on_difference": "{policy}", "#), 1);
        start(&owner, &spec).await;
        until_rollout(&owner, "cents", "stage = 'constrained' and state = 'waiting'").await;
        run(&superuser, "set session_replication_role = replica; update orders set total_cents = 1 where id = 12")
            .await;
        assert_eq!(value::<i64>(&owner, DIFFERENT).await, 1);
        run(&owner, "select backfill.rollout_advance('cents')").await;
        if policy == "repair" {
            until_rollout(&owner, "cents", "stage = 'switched' and state = 'waiting'").await;
            let told = "select count(*) from backfill.events where kind = 'rollout repaired' and message like '%1 row differed%'";
            assert_eq!(value::<i64>(&owner, told).await, 1);
            assert_eq!(value::<i64>(&owner, DIFFERENT).await, 0);
        } else {
            until_rollout(&owner, "cents", "state = 'failed' and error like '%1 row differs%'").await;
            assert_eq!(value::<i64>(&owner, DIFFERENT).await, 1);
        }
        run(&owner, "select backfill.rollout_rollback('cents')").await;
        until_rollout(&owner, "cents", "state = 'rolled_back'").await;
    }
}

/// A rollout that waits for the switch compares all rows once a day.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_rows_are_compared_again_while_a_rollout_waits() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let superuser = cluster.superuser("app").await;
    let _daemon = daemon(&cluster).start();
    start(&owner, &spec("constrained").replacen('{', r#"{"on_difference": "report", "#, 1)).await;
    until_rollout(&owner, "cents", "stage = 'constrained' and state = 'waiting'").await;
    let tomorrow = "update backfill.rollout set due_at = now(); update backfill.job set finished_at = finished_at - interval '25 hours'";
    run(&owner, tomorrow).await;
    let again = "select run = 2 and state = 'succeeded' from backfill.job where name like 'cents/verify-%'";
    until_true(&owner, SOON, again).await;
    until_rollout(&owner, "cents", "state = 'waiting' and waiting_reason = 'advance'").await;
    run(&superuser, "set session_replication_role = replica; update orders set total_cents = 1 where id = 12").await;
    run(&owner, tomorrow).await;
    until_rollout(&owner, "cents", "state = 'failed' and error like '%1 row differs%'").await;
    run(
        &owner,
        "update orders set total_cents = round(total * 100) where id = 12; select backfill.rollout_resume('cents')",
    )
    .await;
    until_rollout(&owner, "cents", "state = 'waiting' and waiting_reason = 'advance'").await;
    run(&owner, "select backfill.rollout_advance('cents')").await;
    until_rollout(&owner, "cents", "stage = 'switched' and state = 'waiting'").await;
}

/// During the rollout, another trigger is created that fires after the rollout's trigger, or the
/// rollout's trigger is disabled or dropped. The rollout fails before the next stage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_that_no_longer_keeps_the_column_in_step_is_found() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let later = "create trigger zzzz before insert on orders for each row execute function touch()";
    run(&owner, later).await;
    let error = refused(&owner, &format!("select backfill.rollout_start('{}')", spec("syncing"))).await;
    assert!(error.message.contains("trigger \"zzzz\" would fire after"), "{}", error.message);
    run(&owner, "drop trigger zzzz on orders").await;
    let _daemon = daemon(&cluster).start();
    start(&owner, &spec("syncing")).await;
    until_rollout(&owner, "cents", "stage = 'syncing' and state = 'waiting'").await;
    let trigger: String = value(&owner, "select tgname::text from pg_trigger where tgname like 'zzz%_insert'").await;
    let definition: String =
        value(&owner, "select pg_get_triggerdef(oid) from pg_trigger where tgname like 'zzz%_insert'").await;
    let disturbances = [
        (later.to_owned(), "drop trigger zzzz on orders".to_owned(), "%\"zzzz\" fires after%"),
        (
            format!("alter table orders disable trigger {trigger}"),
            format!("alter table orders enable trigger {trigger}"),
            "%was dropped or disabled%",
        ),
        (format!("drop trigger {trigger} on orders"), definition, "%was dropped or disabled%"),
    ];
    for (n, (disturb, restore, told)) in disturbances.into_iter().enumerate() {
        run(&owner, &disturb).await;
        let verb = if n == 0 { "advance" } else { "resume" };
        run(&owner, &format!("select backfill.rollout_{verb}('cents')")).await;
        until_rollout(&owner, "cents", &format!("state = 'failed' and error like '{told}'")).await;
        run(&owner, &restore).await;
    }
    run(&owner, "insert into orders (total) values (77)").await;
    run(&owner, "select backfill.rollout_resume('cents')").await;
    until_rollout(&owner, "cents", "stage = 'backfilled' and state = 'waiting'").await;
    assert_eq!(value::<i64>(&owner, DIFFERENT).await, 0);
}

/// Replication to a subscriber without the column would stop. The rollout waits until an operator
/// confirms that all subscribers have the column (P24).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_table_waits_for_its_subscribers() {
    let cluster = installed(Options::default().set("wal_level", "logical")).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    cluster.sql("postgres", "app", "create publication p for table orders").await;
    cluster.sql("postgres", "app", "select pg_create_logical_replication_slot('s', 'pgoutput')").await;
    let warned = format!(
        "select count(*) from backfill.rollout_plan('{}') where statement like '%until you have added it on all subscribers%'",
        spec("expanded")
    );
    assert_eq!(value::<i64>(&owner, &warned).await, 1);
    let _daemon = daemon(&cluster).start();
    start(&owner, &spec("expanded")).await;
    until_rollout(
        &owner,
        "cents",
        "stage = 'planned' and state = 'waiting' and waiting_text like '%publication \"p\", 1 slot%'",
    )
    .await;
    run(&owner, "select backfill.rollout_advance('cents')").await;
    until_rollout(&owner, "cents", "stage = 'expanded' and state = 'waiting'").await;
}
