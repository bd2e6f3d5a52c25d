//! Code that the fault tests share: a table that counts the changes to each row, and a check. The
//! check tests whether each row was changed exactly once, and whether the counters agree.

use backfilld_testbed::cluster::Cluster;
use backfilld_testbed::daemon::{Builder, Daemon};
use backfilld_testbed::wait;
use tokio_postgres::Client;

use crate::support::{BACKFILLD, NO_PROBE, SOON, sql};

/// Short lease times, so that tests of takeovers are fast.
pub const QUICK: &str = "lease: {ttl_seconds: 1, heartbeat_seconds: 0.2, poll_ms: 50}";

/// Adds one to `n` in each row and reads no other table.
pub const PLUS_ONE: &str = "n = n + 1";
/// Adds one to `n` in each row, like [`PLUS_ONE`], but reads the number 1 from table `step`.
/// Batches of a job with a subquery run at REPEATABLE READ.
pub const PLUS_ONE_OF_ANOTHER_ROW: &str = "n = n + (select one from step)";

/// Returns a builder for a daemon with this URL, short leases, and a probe whose limit is so high
/// that it never slows jobs down. The schema must exist.
pub fn quick(url: &str) -> Builder {
    Daemon::builder(BACKFILLD, url).config(format!("{QUICK}\n{NO_PROBE}")).arg("--no-migrate")
}

/// Creates a table with the keys 3, 6, 9 and so on. In each row `n` is 0. The table also has column
/// `m`, which no job names, and other columns. Creates table `step` if it does not exist.
pub async fn table(cluster: &Cluster, name: &str, rows: i64) {
    let made = format!(
        "create table {name} (id bigint primary key, note text not null, n int not null default 0, m int not null default 0, at timestamptz not null default now());
         insert into {name} (id, note) select i * 3, 'row ' || i from generate_series(1, {rows}) i;
         create table if not exists step (one int not null);
         insert into step select 1 where not exists (select from step)"
    );
    sql(cluster, &made).await;
}

/// Enqueues a job that has the same name as its table. `options` is JSON.
pub async fn enqueue(cluster: &Cluster, table: &str, set: &str, options: &str) {
    let owner = cluster.owner().await;
    let sql =
        "select backfill.enqueue(name => $1, target => $1::text::regclass, set => $2, options => $3::text::jsonb)";
    owner.query_one(sql, &[&table, &set, &options]).await.unwrap();
}

/// Returns the number of batches that a job has committed in all of its slices.
pub async fn batches(client: &Client, job: &str) -> i64 {
    let sql = "select coalesce(sum(batches), 0)::bigint from backfill.slices where name = $1";
    client.query_one(sql, &[&job]).await.unwrap().get(0)
}

/// Waits until the job has committed `more` additional batches.
pub async fn until_more_batches(client: &Client, job: &str, more: i64) {
    let goal = batches(client, job).await + more;
    wait::until(SOON, format!("job {job} commits {more} more batches"), async || {
        let now = batches(client, job).await;
        let ended = "select finished_at is not null from backfill.jobs where name = $1";
        let ended = now < goal && client.query_one(ended, &[&job]).await.unwrap().get(0);
        assert!(!ended, "job {job} ended after {now} batches, before the test was finished");
        now >= goal
    })
    .await;
}

/// Checks that each of the `rows` rows was incremented exactly once, that the job succeeded, and
/// that the job and its slices count each row exactly once. The error describes what is wrong.
pub async fn exact(cluster: &Cluster, job: &str, rows: i64) -> Result<(), String> {
    let owner = cluster.owner().await;
    let wrong = format!(
        "select count(*), count(*) filter (where n = 0), count(*) filter (where n > 1), count(*) filter (where m <> 0) from {job}"
    );
    let row = owner.query_one(&wrong, &[]).await.unwrap();
    let found: [i64; 4] = std::array::from_fn(|column| row.get(column));
    if found != [rows, 0, 0, 0] {
        return Err(format!("rows in total, unchanged, changed more than once, with column m changed: {found:?}"));
    }
    let counted = owner
        .query_one(
            "select j.state, array[j.rows_scanned, j.rows_changed, sum(s.rows_scanned), sum(s.rows_changed)]::bigint[]
               from backfill.jobs j join backfill.slices s on s.job_id = j.id where j.name = $1
              group by j.state, j.rows_scanned, j.rows_changed",
            &[&job],
        )
        .await
        .unwrap();
    let (state, counters): (String, Vec<i64>) = (counted.get(0), counted.get(1));
    if state != "succeeded" || counters != [rows; 4] {
        return Err(format!("{state}; scanned and changed, by the job and by its slices: {counters:?}"));
    }
    Ok(())
}

/// Returns the sum of a daemon's metric over the series that have all of `labels`, or 0 if no
/// series has them.
pub async fn metric(daemon: &Daemon, name: &str, labels: &[&str]) -> f64 {
    let (status, body) = daemon.get("/metrics").await.unwrap();
    assert_eq!(status, 200);
    body.lines()
        .filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(_, value)| value.parse::<f64>().unwrap())
        .sum()
}

/// Pseudorandom numbers. [`Dice::new`] prints its seed, so that a failure can be reproduced.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Self {
        let seed = uuid::Uuid::new_v4().as_u64_pair().0 | 1;
        eprintln!("seed {seed}");
        Self(seed)
    }

    /// Returns the generator for a seed. The mixing function is from Steele et al., "Fast
    /// splittable pseudorandom number generators".
    pub fn of(seed: u64) -> Self {
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((mixed ^ (mixed >> 31)) | 1)
    }

    /// Returns a number from `low` to `high`, both included. The generator is from Marsaglia,
    /// "Xorshift RNGs", 2003.
    pub fn roll(&mut self, low: u64, high: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        low + self.0 % (high - low + 1)
    }
}
