//! Compares ways to fill a column in all rows of a table that has no free space. Measures how much
//! the table and its indexes grow, and how long each way takes.

use std::time::Duration;

use backfilld_testbed::cluster::Cluster;
use backfilld_testbed::wait;
use serde_json::json;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::sample::Sample;
use crate::server::number;

const GOAL: f64 = 1.15;
const LONG: Duration = Duration::from_secs(600);

const TABLE: &str = "
drop table if exists public.grown;
create table public.grown (id bigint primary key, total numeric not null, note text not null, total_cents bigint)
    with (autovacuum_enabled = off)";
const FILL: &str =
    "insert into public.grown select n, (n % 10000) / 100.0, repeat('x', 60) from generate_series(1, $1::bigint) n";
const SET: &str = "total_cents = round(total * 100)::bigint";
const SIZE: &str = "select pg_relation_size('public.grown')::float8, pg_indexes_size('public.grown')::float8";

#[derive(Default)]
struct Seen {
    heap: Sample,
    indexes: Sample,
    seconds: Sample,
}

pub async fn measure(cluster: &Cluster) {
    let (rows, turns) = (number("ROWS", 1_000_000), number("TURNS", 3));
    let owner = cluster.owner().await;
    // `None` stands for the single UPDATE.
    let mut ways = [("one UPDATE", None), ("`vacuum: off`", Some("off")), ("`vacuum: run`", Some("run"))];
    let mut seen = [Seen::default(), Seen::default(), Seen::default()];
    let names = ways.map(|(name, _)| name);
    for turn in 0..turns {
        for (name, vacuum) in ways {
            owner.batch_execute(TABLE).await.unwrap();
            owner.execute(FILL, &[&rows]).await.unwrap();
            owner.batch_execute("vacuum analyze public.grown").await.unwrap();
            cluster.sql("postgres", "app", "checkpoint").await;
            let before = size(&owner).await;
            let took = match vacuum {
                None => update(&owner).await,
                Some(vacuum) => job(&owner, &format!("heap_{turn}_{vacuum}"), vacuum).await,
            };
            let after = size(&owner).await;
            let seen = &mut seen[names.iter().position(|other| *other == name).unwrap()];
            seen.heap.add(after.0 / before.0);
            seen.indexes.add(after.1 / before.1);
            seen.seconds.add(took);
        }
        // The order rotates, so that the same way to change the rows does not always come first.
        ways.rotate_left(1);
    }
    println!(
        "\n| {rows} rows, {turns} turns | heap, relative to before | indexes, relative to before | seconds |\n|---|---|---|---|"
    );
    for (name, Seen { heap, indexes, seconds }) in names.iter().zip(&seen) {
        println!("| {name} | {heap} | {indexes} | {seconds} |");
    }
    println!(
        "\n`vacuum: run`: heap {:.2} relative to before (goal {GOAL}), at {:.2} of the speed of `vacuum: off`",
        seen[2].heap.median(),
        seen[1].seconds.median() / seen[2].seconds.median()
    );
}

async fn size(owner: &Client) -> (f64, f64) {
    let row = owner.query_one(SIZE, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

async fn update(owner: &Client) -> f64 {
    let started = Instant::now();
    owner.batch_execute(&format!("update public.grown set {SET}")).await.unwrap();
    started.elapsed().as_secs_f64()
}

async fn job(owner: &Client, name: &str, vacuum: &str) -> f64 {
    // The throttle is off, because the queries of this bench would count as other load.
    let options = json!({"throttle": "off", "verify": "none", "vacuum": vacuum});
    let enqueue = "select backfill.enqueue($1, 'public.grown', $2, options => $3)";
    owner.query_one(enqueue, &[&name, &SET, &options]).await.unwrap();
    let took = "select extract(epoch from finished_at - started_at)::float8, state from backfill.job where name = $1 and finished_at is not null";
    let ended = wait::until_ok(LONG, "the job has ended", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        owner.query_opt(took, &[&name]).await.unwrap().ok_or("it runs")
    })
    .await;
    assert_eq!(ended.get::<_, &str>(1), "succeeded");
    ended.get(0)
}
