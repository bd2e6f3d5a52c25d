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
    // When a role has reached its limit, its repeated call still finds the existing job, and other
    // roles can still enqueue.
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

/// Jobs with a lower priority number run first. Only operators can use the extreme numbers.
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

/// Uncommitted jobs are invisible to other sessions, but still count towards the quota. No session
/// waits for an open transaction.
#[tokio::test]
async fn concurrent_transactions_do_not_exceed_a_quota_and_do_not_wait() {
    let scene = Scene::set().await;
    scene.table("t", 1).await;
    scene
        .cluster
        .sql("postgres", "app", "create table ft (id int primary key, a int); alter table ft owner to f")
        .await;
    run(&scene.client("olga").await, "update backfill.quota set live_jobs = 5").await;
    let enqueue = |name: &str| format!("select backfill.enqueue('{name}', 't', 'a = 1', run_as => 'e')");
    let open = async || {
        let client = scene.client("mallory").await;
        run(&client, "set lock_timeout = '30s'; begin").await;
        client
    };
    let mut accepted = Vec::new();
    for n in 0..20 {
        let client = open().await;
        if client.batch_execute(&enqueue(&format!("j{n}"))).await.is_ok() {
            accepted.push(client);
        }
    }
    assert_eq!(accepted.len(), 5);
    // mallory's open transactions do not delay other roles.
    let alice = scene.client("alice").await;
    run(
        &alice,
        "set lock_timeout = '30s'; begin; select backfill.enqueue('of_f', 'ft', 'a = 1', run_as => 'f'); commit",
    )
    .await;

    let other = scene.client("mallory").await;
    let refusal = refused(&other, &enqueue("more")).await;
    assert_eq!(
        (refusal.sqlstate.as_str(), refusal.message.as_str()),
        ("BF001", "role \"mallory\" has 0 active jobs and 5 more in open transactions")
    );
    // A rollback, even a rollback to a savepoint, makes room for another job. A commit does not.
    run(&accepted.pop().unwrap(), "rollback").await;
    let fifth = open().await;
    run(&fifth, "savepoint s").await;
    run(&fifth, &enqueue("undone")).await;
    refused(&other, &enqueue("more")).await;
    run(&fifth, "rollback to s").await;
    run(&other, &enqueue("more")).await;
    for client in &accepted {
        run(client, "commit").await;
    }
    let refusal = refused(&other, &enqueue("still_more")).await;
    assert_eq!(refusal.message, "role \"mallory\" has 5 active jobs");
    assert_eq!(value::<i64>(&other, "select count(*) from backfill.jobs").await, 5);

    // The same applies to the quota per minute, and to `retry` and `rerun`.
    run(&scene.client("olga").await, "update backfill.quota set live_jobs = 2").await;
    for job in ["more", "j0", "j1", "j2", "j3"] {
        run(&other, &format!("select backfill.cancel('{job}')")).await;
    }
    let (first, second, third) = (open().await, open().await, open().await);
    run(&first, "select backfill.retry('more')").await;
    run(&second, "select backfill.rerun('j0')").await;
    for verb in ["retry", "rerun"] {
        assert_eq!(refused(&other, &format!("select backfill.{verb}('j1')")).await.sqlstate, "BF001", "{verb}");
    }
    run(&scene.client("olga").await, "update backfill.quota set live_jobs = 100, jobs_per_minute = 8").await;
    run(&third, &enqueue("seventh")).await;
    let refusal = refused(&other, &enqueue("eighth")).await;
    assert!(refusal.message.contains("within a minute and 3 more in open transactions"), "{refusal:?}");
}

/// Many sessions enqueue at the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_sessions_that_enqueue_at_once_do_not_exceed_a_quota() {
    let scene = Scene::set().await;
    scene.table("t", 1).await;
    run(&scene.client("olga").await, "update backfill.quota set live_jobs = 5").await;
    let mut sessions = tokio::task::JoinSet::new();
    for n in 0..50 {
        let client = scene.client("mallory").await;
        sessions.spawn(async move {
            let enqueue = format!("select backfill.enqueue('j{n}', 't', 'a = 1', run_as => 'e')");
            client.batch_execute(&enqueue).await.is_ok()
        });
    }
    let accepted = sessions.join_all().await.into_iter().filter(|accepted| *accepted).count();
    assert!((1..=5).contains(&accepted), "{accepted}");
}

/// Any role can take the advisory locks that represent uncommitted jobs of another role.
#[tokio::test]
async fn the_locks_of_one_role_do_not_use_up_the_quota_of_another() {
    let scene = Scene::set().await;
    scene
        .cluster
        .sql("postgres", "app", "create table ft (id int primary key, a int); alter table ft owner to f")
        .await;
    run(&scene.client("olga").await, "update backfill.quota set live_jobs = 3").await;
    let (mallory, alice) = (scene.client("mallory").await, scene.client("alice").await);
    let enqueue = |name: &str| format!("select backfill.enqueue('{name}', 'ft', 'a = 1', run_as => 'f')");
    run(&alice, &format!("begin; {}", enqueue("first"))).await;
    let taken: i64 = value(&mallory, "select count(pg_advisory_lock(l.classid::bigint::bit(32)::int, n)) from pg_locks l, generate_series(1, 50) n where l.locktype = 'advisory' and l.objsubid = 2").await;
    assert_eq!(taken, 50);
    run(&alice, &enqueue("second")).await;
    run(&alice, &enqueue("third")).await;
    assert_eq!(refused(&scene.client("alice").await, &enqueue("fourth")).await.sqlstate, "BF001");
    run(&alice, "commit").await;
}

/// Each uncommitted job takes an advisory lock, and the server's lock table has limited space.
#[tokio::test]
async fn one_transaction_adds_at_most_200_jobs() {
    let scene = Scene::set().await;
    scene.table("t", 1).await;
    let mallory = scene.client("mallory").await;
    let many = |n: i32| {
        format!(
            "do $$ begin for i in 1..{n} loop perform backfill.enqueue('j' || i, 't', 'a = 1', run_as => 'e'); end loop; end $$"
        )
    };
    let refusal = refused(&mallory, &many(201)).await;
    assert_eq!(
        (refusal.sqlstate.as_str(), refusal.message.as_str()),
        ("BF001", "this transaction has already added 200 jobs of role \"mallory\"")
    );
    run(&mallory, &many(200)).await;
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

/// A job that was deleted still counts as enqueued within the minute.
#[tokio::test]
async fn the_limit_per_minute_counts_jobs_that_were_forgotten() {
    let scene = Scene::set().await;
    scene.table("t", 1).await;
    let (mallory, olga) = (scene.client("mallory").await, scene.client("olga").await);
    run(&olga, "update backfill.quota set jobs_per_minute = 5").await;
    for n in 0..5 {
        let turn = format!(
            "select backfill.enqueue('m{n}', 't', 'a = 1', run_as => 'e'); select backfill.cancel('m{n}'); select backfill.forget('m{n}')"
        );
        run(&mallory, &turn).await;
    }
    assert_eq!(value::<i64>(&olga, "select count(*) from backfill.jobs").await, 0);
    let refusal = refused(&mallory, "select backfill.enqueue('m5', 't', 'a = 1', run_as => 'e')").await;
    assert!(refusal.sqlstate == "BF001" && refusal.message.contains("enqueued 5 jobs within a minute"), "{refusal:?}");
    // A minute later, the counts are deleted.
    scene
        .cluster
        .sql("postgres", "app", "update backfill.forgotten_job set enqueued_at = enqueued_at - interval '1 minute'")
        .await;
    run(&mallory, "select backfill.enqueue('m5', 't', 'a = 1', run_as => 'e'); select backfill.cancel('m5'); select backfill.forget('m5')").await;
    let left: i64 = value(&scene.cluster.superuser("app").await, "select count(*) from backfill.forgotten_job").await;
    assert_eq!(left, 1);
}
