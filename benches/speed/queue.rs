//! Measures what a job costs in addition to changing its rows. This is the time to its first batch,
//! and the costs of a claim and of a checkpoint.

use crate::sample::Sample;
use crate::server::SOON;
use backfilld_testbed::cluster::Cluster;
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::wait;
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::Client;
use uuid::Uuid;

const SMALL_TABLE: &str = "
create table if not exists public.small (id bigint primary key, n int not null);
insert into public.small select n, 0 from generate_series(1, 100) n on conflict do nothing";

const ENQUEUE: &str = "select backfill.enqueue(name => $1, target => 'public.small', set => 'n = n + 1', options => '{\"verify\": \"none\"}')";
/// Creates copies of the job NAME that are ready to be planned. `enqueue` would take minutes for
/// 100,000 jobs, because it checks each statement and records an event.
const MULTIPLY: &str = "
alter table backfill.job disable trigger user;
insert into backfill.job (name, relation, target, set_sql, run_as, options, settings)
select j.name || '_' || n, j.relation, j.target, j.set_sql, j.run_as, j.options, j.settings
  from backfill.job j, generate_series(1::bigint, COPIES) n where j.name = 'NAME';
alter table backfill.job enable trigger user;
insert into backfill.slice (job_id, kind, run_as, priority, state)
select j.id, 'plan', j.run_as, j.priority, 'ready' from backfill.job j where j.name like 'NAME\\_%'";

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Measures the time from the call of `enqueue` to the commit of the first batch. Each job has a
/// single batch, so this commit also ends the slice.
pub async fn first_batch(cluster: &Cluster, daemon: &Daemon) {
    const FIRST: &str = "select extract(epoch from s.finished_at - $2::text::timestamptz)::float8 * 1000
        from backfill.slice s join backfill.job j on j.id = s.job_id where j.name = $1 and s.kind = 'walk' and s.finished_at is not null";
    let owner = cluster.owner().await;
    owner.batch_execute(SMALL_TABLE).await.unwrap();
    let mut latency = Sample::default();
    for turn in 0..20 {
        // After this sleep the daemon is idle. In each turn, the sleep ends at a different point of
        // the daemon's polling interval.
        tokio::time::sleep(Duration::from_millis(600 + turn * 37)).await;
        let name = format!("first_{turn}");
        let before: String = owner.query_one("select clock_timestamp()::text", &[]).await.unwrap().get(0);
        owner.query_one(ENQUEUE, &[&name]).await.unwrap();
        let row = wait::until_ok(SOON, "a first batch", async || {
            owner.query_opt(FIRST, &[&name, &before]).await.unwrap().ok_or_else(|| daemon.output())
        })
        .await;
        latency.add(row.get(0));
    }
    println!("first batch after enqueue, idle daemon, 20 times: {latency:.0} ms\n");
}

/// Claims and releases a slice 500 times, with 10 and with 100,000 queued jobs.
pub async fn claims(cluster: &Cluster) {
    let owner = cluster.owner().await;
    owner.batch_execute(SMALL_TABLE).await.unwrap();
    println!("| queued jobs | a claim, ms |\n|---|---|");
    let mut queued = 0_i64;
    for jobs in [10, 100_000] {
        let name = format!("queued_{jobs}");
        owner.query_one(ENQUEUE, &[&name]).await.unwrap();
        let multiply = MULTIPLY.replace("NAME", &name).replace("COPIES", &(jobs - queued - 1).to_string());
        owner.batch_execute(&multiply).await.unwrap();
        queued = jobs;
        owner.batch_execute("vacuum analyze backfill.job, backfill.slice").await.unwrap();
        let mut cost = Sample::default();
        for _ in 0..500 {
            let started = Instant::now();
            let claim = claim(&owner).await;
            cost.add(millis(started));
            owner
                .query_one("select backfill._release($1, $2)", &[&claim["slice"].as_i64().unwrap(), &token(&claim)])
                .await
                .unwrap();
        }
        println!("| {jobs} | {cost} |");
    }
    println!();
}

/// Calls `backfill.advance` repeatedly while an old snapshot prevents the removal of old versions
/// of the checkpoint's row. Compares 1,000 calls after the first 10 calls with 1,000 calls after
/// the first 100,000 calls.
pub async fn checkpoints(cluster: &Cluster) {
    const ADVANCE: &str = "select new_ctid from backfill.advance($1, $2, $3::text::tid, $4, $5, 1, 1, 0, false)";
    const TIMED: i64 = 1000;
    let owner = cluster.owner().await;
    let pin = cluster.owner().await;
    owner.batch_execute(SMALL_TABLE).await.unwrap();
    owner.batch_execute("select backfill._register_executor('owner', 'owner', true)").await.unwrap();
    owner.query_one(ENQUEUE, &[&"checkpoint"]).await.unwrap();
    let claim = claim(&owner).await;
    pin.batch_execute("begin isolation level repeatable read; select count(*) from public.small").await.unwrap();

    owner.batch_execute("set synchronous_commit = off").await.unwrap();
    let advance = owner.prepare(ADVANCE).await.unwrap();
    let (slice, token) = (claim["slice"].as_i64().unwrap(), token(&claim));
    let mut place = claim["checkpoint_ctid"].as_str().unwrap().to_owned();
    let mut position: Option<Vec<String>> = None;
    let (mut early, mut late) = (Sample::default(), Sample::default());
    for batch in 0..100_000 + TIMED {
        let next = Some(vec![batch.to_string()]);
        let started = Instant::now();
        let row = owner.query_one(&advance, &[&slice, &token, &place, &position, &next]).await.unwrap();
        match batch {
            10.. if batch < 10 + TIMED => early.add(millis(started)),
            100_000.. => late.add(millis(started)),
            _ => {}
        }
        (place, position) = (row.get(0), next);
    }
    println!("| batches under an old snapshot | a checkpoint, ms |\n|---|---|");
    println!("| 10 | {early} |\n| 100000 | {late} |\n");
    pin.batch_execute("commit").await.unwrap();
    owner.query_one("select backfill._release($1, $2)", &[&slice, &token]).await.unwrap();
    owner.batch_execute("select backfill.cancel('checkpoint')").await.unwrap();
}

async fn claim(owner: &Client) -> Value {
    let worker = Uuid::new_v4();
    owner.query_one("select backfill._claim($1, array['owner']::name[], '6 s')", &[&worker]).await.unwrap().get(0)
}

fn token(claim: &Value) -> Uuid {
    claim["token"].as_str().unwrap().parse().unwrap()
}
