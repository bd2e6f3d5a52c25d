//! What one role may ask for, so that it can't crowd out the others or fill the disk.

use super::Scene;
use crate::support::{refused, run, value};

#[tokio::test]
async fn a_role_may_have_so_many_jobs_and_enqueue_so_many_a_minute_and_operators_say_how_many() {
    let scene = Scene::set().await;
    scene.table("t", 1).await;
    scene
        .cluster
        .sql("postgres", "app", "create table ft (id int primary key, a int); alter table ft owner to f")
        .await;
    let (mallory, alice, olga) =
        (scene.client("mallory").await, scene.client("alice").await, scene.client("olga").await);
    let enqueue = |name: &str| format!("select backfill.enqueue('{name}', 't', 'a = 1', run_as => 'e')");

    // Not for those who are bound by it.
    for attempt in [
        "update backfill.quota set live_jobs = 1000000",
        "delete from backfill.quota",
        "insert into backfill.quota (only_row) values (true)",
    ] {
        assert_eq!(refused(&mallory, attempt).await.sqlstate, "42501", "{attempt}");
    }
    assert_eq!(refused(&olga, "delete from backfill.quota").await.sqlstate, "42501");
    run(&olga, "update backfill.quota set live_jobs = 3").await;
    for name in ["one", "two", "three"] {
        run(&mallory, &enqueue(name)).await;
    }
    let told = refused(&mallory, &enqueue("four")).await;
    assert_eq!(
        (told.sqlstate.as_str(), told.message.as_str()),
        ("BF001", "role \"mallory\" has 3 jobs that have not ended")
    );
    // The same call again is safe, also then; and others are not concerned.
    run(&mallory, &enqueue("three")).await;
    run(&alice, "select backfill.enqueue('of_f', 'ft', 'a = 1', run_as => 'f')").await;
    run(&mallory, "select backfill.cancel('one')").await;
    run(&mallory, &enqueue("four")).await;
    // Nor by the way round.
    for verb in ["retry", "rerun"] {
        let told = refused(&mallory, &format!("select backfill.{verb}('one')")).await;
        assert!(told.sqlstate == "BF001" && told.message.ends_with("has 3 jobs that have not ended"), "{told:?}");
    }

    run(&olga, "update backfill.quota set live_jobs = 1000, jobs_per_minute = 5").await;
    run(&mallory, &enqueue("five")).await;
    let told = refused(&mallory, &enqueue("six")).await;
    assert!(told.sqlstate == "BF001" && told.message.contains("enqueued 5 jobs within a minute"), "{told:?}");
    // By the table itself it is no other.
    let direct = "insert into backfill.job (name, relation, target, set_sql, run_as) values ('six', 't'::regclass, 't', 'a = 1', 'e')";
    assert_eq!(refused(&mallory, direct).await.message, told.message);

    let many =
        r#"select backfill.enqueue('many', 't', 'a = 1', run_as => 'e', options => '{"max_row_errors": 10001}')"#;
    run(&olga, "update backfill.quota set jobs_per_minute = 100").await;
    assert!(refused(&mallory, many).await.message.contains("max_row_errors"));
    assert!(
        refused(&mallory, r#"select backfill.tune('two', '{"max_row_errors": 1000000}')"#)
            .await
            .message
            .contains("max_row_errors")
    );
    run(&mallory, r#"select backfill.tune('two', '{"max_row_errors": 10000}')"#).await;
    run(&olga, r#"select backfill.tune('two', '{"max_row_errors": 1000000}')"#).await;
}

/// Pausing and resuming for ever fills no disk.
#[tokio::test]
async fn events_of_one_job_stay_few_however_often_its_submitter_acts() {
    let scene = Scene::set().await;
    scene.table("t", 1).await;
    let mallory = scene.client("mallory").await;
    run(&mallory, "select backfill.enqueue('j', 't', 'a = 1', run_as => 'e')").await;
    run(&mallory, "do $$ begin for i in 1..400 loop perform backfill.pause('j', repeat('x', 4000)); perform backfill.resume('j'); end loop; end $$").await;
    let events: i64 = value(&mallory, "select count(*) from backfill.events").await;
    assert!((100..=320).contains(&events), "{events}");
}
