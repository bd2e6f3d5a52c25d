//! `n = n + 1` increments each row exactly once, whatever happens to the daemons.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::wait;

use crate::proof::{
    Dice, PLUS_ONE, PLUS_ONE_OF_ANOTHER_ROW, batches, enqueue, exact, quick, table, until_more_batches,
};
use crate::support::{BACKFILLD, SOON, installed, sql, until_state};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_changed_once_even_if_daemons_are_killed_repeatedly() {
    const ROWS: i64 = 300_000;
    const KILLS: usize = 24;
    let cluster = installed(Options::default()).await;
    table(&cluster, "killed", ROWS).await;
    enqueue(&cluster, "killed", PLUS_ONE, r#"{"slices": 4, "max_rows_per_second": 15000, "max_batch_rows": 150}"#)
        .await;
    let owner = cluster.owner().await;
    let mut dice = Dice::new();
    let start = || quick(&cluster.owner_url()).start();
    let mut daemons = [start(), start(), start()];
    for _ in 0..KILLS {
        until_more_batches(&owner, "killed", i64::try_from(dice.roll(1, 24)).unwrap()).await;
        let victim = usize::try_from(dice.roll(0, 2)).unwrap();
        daemons[victim].sigkill();
        daemons[victim] = start();
    }
    let left: i64 = owner.query_one("select count(*) from killed where n = 0", &[]).await.unwrap().get(0);
    assert!(left > 0, "the job finished before the last kill");
    sql(&cluster, r#"select backfill.tune('killed', '{"max_rows_per_second": 1000000}')"#).await;
    until_state(&cluster, "killed", "succeeded", SOON).await;
    exact(&cluster, "killed", ROWS).await.unwrap();
}

/// Failpoints, each between two adjacent durable steps. The numbers are the visits to the failpoint
/// at which the daemon aborts.
pub const POINTS: &[(&str, &[u32])] = &[
    ("after_claim", &[1, 2, 4]),
    ("before_save_plan", &[1]),
    ("after_save_plan", &[1]),
    ("before_register_backend", &[1, 2]),
    ("after_register_backend", &[1, 2]),
    ("before_batch", &[1, 2, 7]),
    ("after_batch", &[1, 2, 7]),
    ("before_giving_back", &[1, 2, 3]),
    ("after_finish", &[1, 2]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_changed_once_even_if_the_daemon_dies_at_any_failpoint() {
    const ROWS: i64 = 400;
    let cluster = installed(Options::default()).await;
    let mut jobs = Vec::new();
    for (set, kind) in [(PLUS_ONE, "rc"), (PLUS_ONE_OF_ANOTHER_ROW, "rr")] {
        for (point, nth) in POINTS.iter().flat_map(|(point, visits)| visits.iter().map(move |nth| (point, nth))) {
            let job = format!("{kind}_{point}_{nth}");
            table(&cluster, &job, ROWS).await;
            enqueue(&cluster, &job, set, r#"{"slices": 2, "throttle": "off", "max_batch_rows": 25}"#).await;
            let daemon = quick(&cluster.owner_url()).env("BACKFILLD_FAILPOINT", format!("{point}:{nth}=abort")).start();
            let status = daemon.wait_exit(SOON).await;
            assert_eq!(status.signal(), Some(6), "{job}: ended with {status}:\n{}", daemon.output());
            jobs.push(job);
        }
    }
    let _last = quick(&cluster.owner_url()).start();
    for job in jobs {
        until_state(&cluster, &job, "succeeded", SOON).await;
        exact(&cluster, &job, ROWS).await.unwrap_or_else(|wrong| panic!("{job}: {wrong}"));
    }
}

/// Shows that the check [`exact`] can fail. If the checkpoint is written in a separate transaction
/// and a daemon aborts between the two transactions, some rows are changed twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proof_detects_a_checkpoint_in_a_transaction_of_its_own() {
    const ROWS: i64 = 400;
    let cluster = installed(Options::default()).await;
    table(&cluster, "apart", ROWS).await;
    enqueue(&cluster, "apart", PLUS_ONE, r#"{"slices": 2, "throttle": "off", "max_batch_rows": 25}"#).await;
    let faults = "checkpoint_apart=on,between_rows_and_checkpoint:3=abort";
    let dying = quick(&cluster.owner_url()).env("BACKFILLD_FAILPOINT", faults).start();
    assert_eq!(dying.wait_exit(SOON).await.signal(), Some(6), "{}", dying.output());
    let _next = quick(&cluster.owner_url()).env("BACKFILLD_FAILPOINT", "checkpoint_apart=on").start();
    until_state(&cluster, "apart", "succeeded", SOON).await;
    let wrong = exact(&cluster, "apart", ROWS).await.unwrap_err();
    assert!(wrong.contains("changed more than once"), "{wrong}");
}

/// A batch may fail at commit. In this case, the checkpoint must not move.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_fails_at_its_commit_leaves_no_checkpoint() {
    const ROWS: i64 = 400;
    let cluster = installed(Options::default()).await;
    for (job, set) in [("late_rc", PLUS_ONE), ("late_rr", PLUS_ONE_OF_ANOTHER_ROW)] {
        table(&cluster, job, ROWS).await;
        let trigger = format!(
            "create function {job}_fails() returns trigger language plpgsql as $$ begin
               if new.note = 'row 333' then raise exception 'not this row'; end if; return null; end $$;
             create constraint trigger late after update on {job} deferrable initially deferred
               for each row execute function {job}_fails()"
        );
        sql(&cluster, &trigger).await;
        enqueue(&cluster, job, set, r#"{"throttle": "off", "max_batch_rows": 50}"#).await;
    }
    let _daemon = quick(&cluster.owner_url()).start();
    let owner = cluster.owner().await;
    for job in ["late_rc", "late_rr"] {
        wait::until(SOON, format!("{job} has failed"), async || {
            let sql = "select j.state = 'failed' and exists (select from backfill.row_errors e where e.job_id = j.id and e.message = 'not this row') from backfill.jobs j where name = $1";
            owner.query_one(sql, &[&job]).await.unwrap().get(0)
        })
        .await;
        let sql = format!(
            "select (select count(*) from {job} where n = 1), (select count(*) from {job} where n = 0 and note = 'row 333'),
                    rows_changed, rows_scanned from backfill.jobs where name = $1"
        );
        let row = owner.query_one(&sql, &[&job]).await.unwrap();
        let found: [i64; 4] = std::array::from_fn(|column| row.get(column));
        assert_eq!(found, [399, 1, 399, 400], "{job}");
        crate::support::sql(&cluster, &format!("drop trigger late on {job}; select backfill.retry('{job}')")).await;
        until_state(&cluster, job, "succeeded", SOON).await;
        exact(&cluster, job, ROWS).await.unwrap();
    }
}

/// After one slice has failed, the other slices continue for a short time. The job also counts the
/// rows that these slices commit in this time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_job_counts_the_rows_that_its_other_slices_changed() {
    const ROWS: i64 = 40_000;
    let cluster = installed(Options::default()).await;
    table(&cluster, "failing", ROWS).await;
    let check = format!("alter table failing add check (id <> {} or n = 0)", ROWS * 3 / 8);
    sql(&cluster, &check).await;
    enqueue(
        &cluster,
        "failing",
        PLUS_ONE,
        r#"{"slices": 4, "throttle": "off", "max_batch_rows": 40, "max_row_errors": 0}"#,
    )
    .await;
    let (_one, _two) = (quick(&cluster.owner_url()).start(), quick(&cluster.owner_url()).start());
    let owner = cluster.owner().await;
    let (mut seen, mut calm) = (-1, 0);
    wait::until(SOON, "the job has failed and no worker holds its slices", async || {
        let sql = "select state = 'failed' and not exists (select from backfill.slices where name = 'failing' and holder is not null) from backfill.jobs where name = 'failing'";
        let now = batches(&owner, "failing").await;
        calm = if std::mem::replace(&mut seen, now) == now { calm + 1 } else { 0 };
        owner.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) && calm > 5
    })
    .await;
    let sql = "select rows_changed, rows_scanned, (select count(*) from failing where n = 1), (select sum(rows_changed)::bigint from backfill.slices where name = 'failing') from backfill.jobs where name = 'failing'";
    let row = owner.query_one(sql, &[]).await.unwrap();
    let found: [i64; 4] = std::array::from_fn(|column| row.get(column));
    assert_eq!(found, [found[2]; 4], "changed and scanned by the job, changed in the table, changed by slices");
    crate::support::sql(
        &cluster,
        "alter table failing drop constraint failing_check; select backfill.retry('failing')",
    )
    .await;
    until_state(&cluster, "failing", "succeeded", SOON).await;
    exact(&cluster, "failing", ROWS).await.unwrap();
}

/// Six daemons start on a database without the schema. One of the daemons installs the schema. All
/// daemons register the same executor.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_that_start_at_the_same_moment_all_run_jobs() {
    let cluster = Cluster::with_owner(Options::default()).await;
    cluster.create_role("filler", "").await;
    cluster.create_role("x_filler", "login in role filler").await;
    let executor = format!("executors: [{{run_as: filler, url: '{}'}}]", cluster.url("x_filler", "app"));
    let config = format!("databases: [{{name: main, url: '{}', {executor}}}]", cluster.owner_url());
    let daemons: Vec<_> =
        (0..6).map(|_| Daemon::builder(BACKFILLD, &cluster.owner_url()).config(&config).start()).collect();
    for daemon in &daemons {
        daemon.wait_ready(Duration::from_secs(60)).await;
    }
}
