//! Tests the events and their limits, the retention of finished jobs, and the removal of the
//! schema.

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::Daemon;
use tokio_postgres::Client;

use crate::support::{BACKFILLD, SOON, daemon, installed, migrate, refused, run, until_state, until_true, value};

/// Returns all columns of jobs `good`, `bad` and `again`, as one JSON object per line.
const JOBS: &str = "select string_agg(to_jsonb(j)::text, E'\\n' order by id) from backfill.jobs j where name = any (array['good', 'bad', 'again'])";

async fn ended_long_ago(cluster: &Cluster) -> Client {
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int); insert into t select generate_series(1, 3000)").await;
    let daemon = daemon(cluster).await;
    run(&owner, "select backfill.enqueue('good', 't', 'a = id', 'a is null', options => '{\"slices\": 4}');
        select backfill.enqueue('bad', 't', 'a = 1 / (1500 - id)', options => '{\"slices\": 2, \"max_batch_rows\": 100}');
        select backfill.enqueue('again', 't', 'a = id'); select backfill.enqueue('young', 't', 'a = id')").await;
    for (name, state) in [("good", "succeeded"), ("again", "succeeded"), ("young", "succeeded")] {
        until_state(cluster, name, state, SOON).await;
    }
    until_true(&owner, SOON, "select state = 'failed' from backfill.jobs where name = 'bad'").await;
    run(&owner, "select backfill.rerun('again')").await;
    until_state(cluster, "again", "succeeded", SOON).await;
    daemon.sigterm();
    assert!(daemon.wait_exit(SOON).await.success());
    run(&owner, "insert into backfill.row_error select id, 't', '{\"id\": 1}', '22012', 'x' from backfill.job where name = 'bad';
        update backfill.job set finished_at = finished_at - interval '91 days' where name in ('good', 'bad');
        update backfill.slice s set finished_at = s.finished_at - interval '91 days' from backfill.job j where j.id = s.job_id and j.name = 'again' and s.run = 1").await;
    owner
}

#[tokio::test]
async fn retention_removes_old_details_and_keeps_the_result() {
    let cluster = installed(Options::default()).await;
    let owner = ended_long_ago(&cluster).await;
    let before: String = value(&owner, JOBS).await;
    run(&owner, "insert into backfill.signal (signal, source, kind, sampled_at) values ('replica_lag', 'gone', 'budget', now() - interval '2 hours'), ('replica_lag', 'here', 'budget', now());
        insert into backfill.worker (id, host, pid, version, run_as, expires_at) values (gen_random_uuid(), 'dead', 1, '0', '{}', now() - interval '2 hours');
        insert into backfill.event (kind, message, at) values ('pause_all', 'old', now() - interval '1 year'), ('pause_all', 'new', now())").await;
    // Retention removes rows in batches that are never larger than requested.
    let mut calls = 0;
    loop {
        let removed: i32 = value(&owner, "select backfill._prune_history('90 days', 5)").await;
        assert!(removed <= 5, "{removed}");
        calls += 1;
        if removed < 5 {
            break;
        }
    }
    assert!(calls > 3, "{calls}");
    let left: String = value(&owner, "select string_agg(concat_ws(' ', j.name, (select count(*) from backfill.slice s where s.job_id = j.id), (select count(*) from backfill.event e where e.job_id = j.id) > 0,
        (select count(*) from backfill.row_error r where r.job_id = j.id)), ', ' order by j.name) from backfill.job j").await;
    // The first run of job `again` is old, so its slices are removed. The slices of the second run
    // stay.
    assert_eq!(left, "again 2 t 0, bad 0 f 0, good 0 f 0, young 2 t 0");
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.checkpoint c where not exists (select from backfill.slice s where s.id = c.slice_id)").await, 0);
    assert_eq!(
        value::<String>(&owner, "select string_agg(source, ' ') from backfill.signal where signal = 'replica_lag'")
            .await,
        "here"
    );
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.worker").await, 0);
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.event where message = 'old'").await, 0);
    let percent = |text: &str| {
        text.split("\"percent_done\"")
            .map(|part| part.split_once(',').map_or(part, |(_, rest)| rest).to_owned())
            .collect::<String>()
    };
    // Nothing may change except the progress of a failed job, which the view computes from the
    // slices.
    assert_eq!(percent(&value::<String>(&owner, JOBS).await), percent(&before));
    assert_eq!(value::<f64>(&owner, "select percent_done from backfill.jobs where name = 'good'").await, 100.0);
    run(&owner, "select backfill.assert_complete('good')").await;
    // A migration that enqueued the job long ago can run again: `enqueue` returns the ID of the old
    // job.
    assert!(value::<bool>(&owner, "select backfill.enqueue('good', 't', 'a = id', 'a is null') = (select id from backfill.jobs where name = 'good')").await);
    // `retry` is refused, because the slices of the job no longer exist. The hint names `rerun`,
    // and `rerun` works.
    let refusal = refused(&owner, "select backfill.retry('bad')").await;
    assert_eq!(
        (refusal.sqlstate.as_str(), refusal.message.as_str()),
        ("BF005", "job \"bad\" cannot continue from its checkpoint")
    );
    assert!(refusal.hint.unwrap().contains("backfill.rerun"));
    assert_eq!(value::<String>(&owner, "select backfill.rerun('bad')").await, "queued");
    assert_eq!(value::<String>(&owner, "select backfill.rerun('good')").await, "queued");
    assert_eq!(value::<i32>(&owner, "select backfill._prune_history('90 days', 500)").await, 0);
}

#[tokio::test]
async fn the_daemon_runs_retention_and_concurrent_runs_do_it_once() {
    let cluster = installed(Options::default()).await;
    let owner = ended_long_ago(&cluster).await;
    let other = cluster.owner().await;
    run(&other, "begin; select backfill._prune_history('90 days', 1)").await;
    assert_eq!(value::<i32>(&owner, "select backfill._prune_history('90 days', 500)").await, 0);
    run(&other, "rollback").await;
    let daemon =
        Daemon::builder(BACKFILLD, &cluster.owner_url()).env("BACKFILLD_FAILPOINT", "retention_at_once=on").start();
    daemon.wait_ready(SOON).await;
    until_true(
        &owner,
        SOON,
        "select bool_and(pruned_at is not null) and count(*) = 2 from backfill.job where name in ('good', 'bad')",
    )
    .await;
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.slices where name in ('good', 'bad')").await, 0);
    assert!(value::<i64>(&owner, "select count(*) from backfill.slices where name = 'young'").await > 0);
}

#[tokio::test]
async fn every_command_records_an_event_with_its_role() {
    let cluster = installed(Options::default()).await;
    cluster.sql("postgres", "app", "create role ann login in role backfill_submitter; create role olga login in role backfill_operator; create table ta (id int primary key, a int); alter table ta owner to ann").await;
    let [ann, olga] = [cluster.client("ann", "app").await, cluster.client("olga", "app").await];
    let owner = cluster.owner().await;
    run(&ann, "select backfill.enqueue_delete('j', 'ta', 'a = 1', needs_approval => true)").await;
    for (who, client, call, kind, says) in [
        ("ann", &ann, "pause('j', 'lunch')", "pause", "lunch"),
        ("olga", &olga, "resume('j')", "resume", "resumed"),
        ("olga", &olga, "approve('j')", "approve", "approved"),
        ("ann", &ann, "tune('j', '{\"slices\": 3}')", "tune", "slices"),
        ("olga", &olga, "cancel('j', 'no more')", "cancel", "no more"),
        ("ann", &ann, "retry('j')", "retry", "retried"),
        ("ann", &ann, "cancel('j')", "cancel", "cancel requested"),
        ("olga", &olga, "rerun('j')", "rerun", "beginning"),
        ("olga", &olga, "pause_all('storm')", "pause_all", "all jobs paused: storm"),
        ("olga", &olga, "resume_all()", "resume_all", "all jobs resumed"),
    ] {
        run(client, &format!("select backfill.{call}")).await;
        let last = format!(
            "select actor || ': ' || message from backfill.event where kind = '{kind}' and at > now() - interval '1 minute' order by id desc limit 1"
        );
        let said: String = value(&owner, &last).await;
        assert!(said.starts_with(&format!("{who}: ")) && said.contains(says), "{call}: {said}");
    }
    let first: String =
        value(&owner, "select actor || ': ' || message from backfill.events where name = 'j' order by at limit 1")
            .await;
    assert_eq!(first, "ann: enqueued on public.ta");
    run(&ann, "select backfill.cancel('j'); select backfill.forget('j')").await;
    assert_eq!(
        value::<String>(&owner, "select actor || ': ' || message from backfill.events where kind = 'forget'").await,
        "ann: job \"j\" deleted"
    );
}

#[tokio::test]
async fn frequent_events_neither_flood_the_table_nor_displace_others() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int); select backfill.enqueue('j', 't', 'a = 1', needs_approval => true); select backfill.approve('j')").await;
    // The job is paused, resumed, tuned, cancelled and retried 150 times. Its slice is claimed 300
    // times, each time with a lease that has already expired. All jobs are paused and resumed 600
    // times.
    run(&owner, "do $$ declare w uuid := gen_random_uuid(); begin
        for n in 1 .. 150 loop
          perform backfill.pause('j', 'n ' || n), backfill.resume('j'), backfill.tune('j', '{}'), backfill.cancel('j'), backfill.retry('j');
          perform backfill._claim(w, array['owner']::name[], '-1 second', 1), backfill._claim(w, array['owner']::name[], '-1 second', 1);
          update backfill.lease set expires_at = '-infinity';
        end loop;
        for n in 1 .. 600 loop perform backfill.pause_all('n ' || n), backfill.resume_all(); end loop; end $$").await;
    let most: i64 = value(&owner, "select max(n) from (select count(*) as n from backfill.event where job_id is not null group by job_id, kind) x").await;
    assert_eq!(most, 100);
    assert!(
        value::<bool>(&owner, "select count(*) = 100 from backfill.event where kind = 'takeover'").await,
        "the number of takeover events is not 100"
    );
    assert!(value::<bool>(&owner, "select count(*) <= 2000 from backfill.event where job_id is null").await);
    let said: String = value(
        &owner,
        "select string_agg(kind, ' ' order by id) from backfill.event where kind in ('enqueued', 'approve')",
    )
    .await;
    assert_eq!(said, "enqueued approve");
    // The latest events are kept.
    assert!(value::<bool>(&owner, "select exists (select from backfill.event where message = 'pause requested: n 150') and not exists (select from backfill.event where message = 'pause requested: n 1')").await);
}

#[tokio::test]
async fn uninstalling_removes_the_schema_only_if_nothing_is_lost_unasked() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    let uninstall = async |words: &[&str]| {
        let output = tokio::process::Command::new(BACKFILLD)
            .arg("uninstall")
            .args(words)
            .env("BACKFILLD_DATABASE_URL", cluster.owner_url())
            .stdin(std::process::Stdio::null())
            .output()
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        (output.status.code().unwrap(), text)
    };
    run(&owner, "create table t (id int primary key, a int); insert into t values (1, 1); select backfill.enqueue('j', 't', 'a = 1')").await;
    let (code, text) = uninstall(&["--yes"]).await;
    assert!(
        code == 1
            && text.contains("1 job has not finished")
            && text.contains("j\n")
            && text.contains("backfilld cancel"),
        "{text}"
    );
    let working = daemon(&cluster).await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    let (code, text) = uninstall(&["--yes"]).await;
    assert!(code == 1 && text.contains("a daemon is running on this database"), "{text}");
    working.sigterm();
    assert!(working.wait_exit(SOON).await.success());
    run(&owner, "create view mine as select name from backfill.jobs").await;
    let (code, text) = uninstall(&["--yes"]).await;
    assert!(code == 1 && text.contains("rule _RETURN on view public.mine"), "{text}");
    run(&owner, "drop view mine").await;
    let (code, text) = uninstall(&[]).await;
    assert!(
        code == 2 && text.contains("standard input is not a terminal") && text.contains("The roles backfill_reader"),
        "{text}"
    );
    cluster.create_role("clerk", "login in role backfill_submitter").await;
    let clerk = tokio::process::Command::new(BACKFILLD)
        .args(["uninstall", "--yes"])
        .env("BACKFILLD_DATABASE_URL", cluster.url("clerk", "app"))
        .output()
        .await
        .unwrap();
    assert_eq!(clerk.status.code(), Some(77), "{}", String::from_utf8_lossy(&clerk.stderr));
    let (code, text) = uninstall(&["--yes"]).await;
    assert!(code == 0 && text.contains("schema backfill removed from database \"app\""), "{text}");
    assert!(value::<bool>(&owner, "select to_regnamespace('backfill') is null and (select count(*) from t) = 1").await);
    assert_eq!(value::<i64>(&owner, "select count(*) from pg_roles where rolname like 'backfill\\_%'").await, 3);
    let (code, text) = uninstall(&["--yes"]).await;
    assert!(code == 0 && text.contains("nothing to do"), "{text}");
    assert!(migrate(&cluster, "owner", "app").await.status.success());
}
