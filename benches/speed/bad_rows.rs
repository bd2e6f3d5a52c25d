//! Measures how much a walk is slowed down by rows that are locked or cannot be changed.

use crate::sample::Sample;
use backfilld_testbed::cluster::Cluster;
use backfilld_testbed::wait;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::Client;

const LONG: Duration = Duration::from_secs(3600);
const ENQUEUE: &str = "select backfill.enqueue(name => $1, target => 'public.target', set => 'n = n + 1')";
/// A realistic bad case: 37 rows at random positions and 3 adjacent rows, or fewer if positions
/// coincide.
const BAD: &str = "create table public.bad as
    select distinct (1 + (random() * ($1::bigint - 1))::bigint) as id from generate_series(1, 37)
    union select $1 / 2 + n from generate_series(1, 3) n";
const CHANGED: &str = "select coalesce(sum(c.rows_changed), 0)::bigint from backfill.checkpoint c
    join backfill.slice s on s.id = c.slice_id join backfill.job j on j.id = s.job_id where j.name = $1 and s.kind = 'walk'";
const ENDED: &str = "select extract(epoch from finished_at - started_at)::float8, extract(epoch from clock_timestamp() - finished_at)::float8
    from backfill.job where name = $1 and finished_at is not null";

/// Each turn has three walks: without bad rows, with bad rows, and with one row that another
/// session locks for at least `hold`, and at least until all other rows are changed.
pub async fn measure(cluster: &Cluster, rows: i64, turns: i64, hold: Duration) {
    let owner = cluster.owner().await;
    let superuser = cluster.superuser("app").await;
    let (mut clean, mut bad, mut locked, mut after) =
        (Sample::default(), Sample::default(), Sample::default(), Sample::default());
    let (mut bad_ratio, mut locked_ratio) = (Sample::default(), Sample::default());
    for turn in 0..turns {
        rebuild(&owner, &superuser, rows).await;
        let name = format!("clean_{turn}");
        owner.query_one(ENQUEUE, &[&name]).await.unwrap();
        let free = others_done(&owner, &name, rows).await;
        ended(&owner, &name).await;

        rebuild(&owner, &superuser, rows).await;
        let name = format!("bad_{turn}");
        let bad_count = spoil(&owner, rows).await;
        owner.query_one(ENQUEUE, &[&name]).await.unwrap();
        let with_bad = others_done(&owner, &name, rows - bad_count).await;
        ended(&owner, &name).await;
        refused_are_the_bad(&owner, &name, bad_count).await;

        rebuild(&owner, &superuser, rows).await;
        let name = format!("locked_{turn}");
        let application = cluster.owner().await;
        application.batch_execute("begin").await.unwrap();
        application.execute("select from public.target where id = $1::bigint / 3 for update", &[&rows]).await.unwrap();
        let held = Instant::now();
        owner.query_one(ENQUEUE, &[&name]).await.unwrap();
        let beside = others_done(&owner, &name, rows - 1).await;
        tokio::time::sleep(hold.saturating_sub(held.elapsed())).await;
        application.batch_execute("commit").await.unwrap();
        let released = Instant::now();
        let since = ended(&owner, &name).await;
        assert_eq!(
            owner.query_one("select count(*) from public.target where n <> 1", &[]).await.unwrap().get::<_, i64>(0),
            0
        );

        clean.add(free);
        bad.add(with_bad);
        bad_ratio.add(free / with_bad);
        locked.add(beside);
        locked_ratio.add(beside / free);
        after.add(released.elapsed().as_secs_f64() - since);
        eprintln!("turn {} of {turns}: {free:.2} s, bad rows {with_bad:.2} s, a locked row {beside:.2} s", turn + 1);
    }
    println!(
        "| {rows} rows, {turns} turns | seconds until all other rows are changed | compared with no bad or locked row |\n|---|---|---|"
    );
    println!("| no bad or locked row | {clean} | |");
    println!("| 40 rows that violate a check | {bad} | {bad_ratio} times the speed |");
    println!("| one row locked for {} s | {locked} | {locked_ratio} times the duration |", hold.as_secs());
    println!("\nfrom the end of the lock to the end of the job, verification included: {after} s\n");
}

async fn rebuild(owner: &Client, superuser: &Client, rows: i64) {
    owner
        .batch_execute(
            "drop table if exists public.target, public.bad;
             create table public.target (id bigint primary key, n int not null default 0, total numeric(12,2), note text) with (autovacuum_enabled = off)",
        )
        .await
        .unwrap();
    owner
        .execute(
            "insert into public.target select n, 0, n / 7.0, 'note ' || n from generate_series(1::bigint, $1) n",
            &[&rows],
        )
        .await
        .unwrap();
    owner.batch_execute("vacuum analyze public.target").await.unwrap();
    superuser.batch_execute("checkpoint").await.unwrap();
}

/// Adds a check constraint that prevents changes to some rows. Returns the number of these rows.
async fn spoil(owner: &Client, rows: i64) -> i64 {
    owner.execute(&BAD.replace("$1", &rows.to_string()), &[]).await.unwrap();
    let row = owner.query_one("select count(*), string_agg(id::text, ', ') from public.bad", &[]).await.unwrap();
    let check = format!("alter table public.target add check (n = 0 or id not in ({}))", row.get::<_, &str>(1));
    owner.batch_execute(&check).await.unwrap();
    row.get(0)
}

async fn refused_are_the_bad(owner: &Client, name: &str, bad: i64) {
    const REFUSED: &str =
        "select count(*), count(*) filter (where (key ->> 'id')::bigint in (select id from public.bad)),
        (select count(*) from public.target where n <> 1) from backfill.row_errors where name = $1";
    let row = owner.query_one(REFUSED, &[&name]).await.unwrap();
    assert_eq!(
        (row.get(0), row.get(1), row.get(2)),
        (bad, bad, bad),
        "quarantined rows, bad rows among them, unchanged rows"
    );
}

/// Waits until at least this many rows have been changed. Returns the number of seconds since the
/// planner's claim.
async fn others_done(owner: &Client, name: &str, rows: i64) -> f64 {
    wait::until_ok(LONG, "all other rows are changed", async || {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let changed: i64 = owner.query_one(CHANGED, &[&name]).await.unwrap().get(0);
        if changed >= rows { Ok(()) } else { Err(changed) }
    })
    .await;
    owner
        .query_one(
            "select extract(epoch from clock_timestamp() - started_at)::float8 from backfill.job where name = $1",
            &[&name],
        )
        .await
        .unwrap()
        .get(0)
}

/// Waits until the job has finished, and returns how many seconds ago it finished.
async fn ended(owner: &Client, name: &str) -> f64 {
    let row = wait::until_ok(LONG, "the job has ended", async || {
        owner.query_opt(ENDED, &[&name]).await.unwrap().ok_or("it runs")
    })
    .await;
    row.get(1)
}
