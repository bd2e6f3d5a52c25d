//! The number of jobs of a role and the number of events of a job are limited. One role can
//! therefore neither delay the jobs of other roles nor fill the disk.

use super::Scene;
use crate::support::{refused, run, value};

#[tokio::test]
async fn quotas_limit_the_jobs_of_a_role_and_its_enqueues_per_minute() {
    let scene = Scene::set().await;
    scene.table("t", 1).await;
    scene
        .cluster
        .sql("postgres", "app", "create table ft (id int primary key, a int); alter table ft owner to f")
        .await;
    let (mallory, alice, olga) =
        (scene.client("mallory").await, scene.client("alice").await, scene.client("olga").await);
    let enqueue = |name: &str| format!("select backfill.enqueue('{name}', 't', 'a = 1', run_as => 'e')");

    // A submitter cannot change the quota. An operator can change it, but cannot delete it.
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
    let refusal = refused(&mallory, &enqueue("four")).await;
    assert_eq!((refusal.sqlstate.as_str(), refusal.message.as_str()), ("BF001", "role \"mallory\" has 3 active jobs"));
    // At the limit, a repeated call still finds its job, and other roles can still enqueue.
    run(&mallory, &enqueue("three")).await;
    run(&alice, "select backfill.enqueue('of_f', 'ft', 'a = 1', run_as => 'f')").await;
    run(&mallory, "select backfill.cancel('one')").await;
    run(&mallory, &enqueue("four")).await;
    // `retry` and `rerun` do not bypass the quota.
    for verb in ["retry", "rerun"] {
        let refusal = refused(&mallory, &format!("select backfill.{verb}('one')")).await;
        assert!(refusal.sqlstate == "BF001" && refusal.message.ends_with("has 3 active jobs"), "{refusal:?}");
    }

    run(&olga, "update backfill.quota set live_jobs = 1000, jobs_per_minute = 5").await;
    run(&mallory, &enqueue("five")).await;
    let refusal = refused(&mallory, &enqueue("six")).await;
    assert!(refusal.sqlstate == "BF001" && refusal.message.contains("enqueued 5 jobs within a minute"), "{refusal:?}");
    // A direct insert into the table is refused with the same message.
    let direct = "insert into backfill.job (name, relation, target, set_sql, run_as) values ('six', 't'::regclass, 't', 'a = 1', 'e')";
    assert_eq!(refused(&mallory, direct).await.message, refusal.message);

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

/// Jobs with a lower number run first. The extreme numbers belong to operators.
#[tokio::test]
async fn only_operators_enqueue_with_a_priority_outside_the_limits() {
    let scene = Scene::set().await;
    scene.table("t", 1).await;
    scene.cluster.sql("postgres", "app", "grant e to olga").await;
    let (mallory, olga) = (scene.client("mallory").await, scene.client("olga").await);
    let enqueue = |name: &str, priority: i32| {
        format!("select backfill.enqueue('{name}', 't', 'a = 1', run_as => 'e', priority => {priority})")
    };
    for priority in [i32::MIN, -101, 101, i32::MAX] {
        let refusal = refused(&mallory, &enqueue("j", priority)).await;
        assert_eq!((refusal.sqlstate.as_str(), refusal.message), ("BF001", format!("priority is {priority}")));
        assert!(refusal.detail.unwrap().contains("-100 and 100"));
        let direct = format!(
            "insert into backfill.job (name, relation, target, set_sql, run_as, priority) values ('j', 't'::regclass, 't', 'a = 1', 'e', {priority})"
        );
        assert_eq!(refused(&mallory, &direct).await.sqlstate, "BF001", "{priority}");
        run(&olga, &enqueue(&format!("o{priority}"), priority)).await;
    }
    for priority in [-100, 100] {
        run(&mallory, &enqueue(&format!("m{priority}"), priority)).await;
    }
}

/// A role that pauses and resumes a job in a loop does not fill the disk with events.
#[tokio::test]
async fn a_submitter_cannot_flood_the_events_of_a_job() {
    let scene = Scene::set().await;
    scene.table("t", 1).await;
    let mallory = scene.client("mallory").await;
    run(&mallory, "select backfill.enqueue('j', 't', 'a = 1', run_as => 'e')").await;
    run(&mallory, "do $$ begin for i in 1..400 loop perform backfill.pause('j', repeat('x', 4000)); perform backfill.resume('j'); end loop; end $$").await;
    let events: i64 = value(&mallory, "select count(*) from backfill.events").await;
    assert!((100..=320).contains(&events), "{events}");
}
