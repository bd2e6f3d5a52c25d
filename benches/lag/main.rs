//! `make bench-lag`: compares the rate of a job with the rate that a slow standby can replay. The
//! job runs unthrottled, at fixed rates (increased until two in a row are too fast), and with the
//! daemon's default settings. See benches/README.md for the method and one run.
//!
//!     ROWS=n      rows of the table (5,000,000)
//!     SECONDS=n   length of the measurement of each run (20; always 3 if unthrottled)
//!     PERCENT=n   share of the time in which the standby replays, in percent (5)
//!     ONLY=a,b    only these runs: unthrottled, fixed (the first default run always takes place)

#![allow(
    clippy::disallowed_methods,
    reason = "a test may panic on an unexpected row; tests/layering forbids the other methods"
)]
#![allow(clippy::unwrap_used, reason = "a measurement that fails may panic")]
#![allow(clippy::print_stdout, reason = "that is what it is for")]

#[path = "../progress.rs"]
mod progress;
#[path = "../sample.rs"]
mod sample;
#[path = "../server.rs"]
mod server;

mod watch;

use std::time::Duration;

use backfilld_testbed::cluster::Cluster;
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::standby::Standby;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_postgres::Client;

use progress::{cancel, rows_changed, until_begun};
use sample::Sample;
use server::{SOON, cluster, daemon, number, wanted};
use watch::Watch;

/// The default limit of the lag, in seconds.
const LIMIT: f64 = 1.0;
/// Goal: the lag is within the limit for at least this share of the time.
const WITHIN: f64 = 0.99;
/// Goal: the daemon's rate is at least this share of the best fixed rate.
const SHARE_OF_THE_BEST: f64 = 0.85;

/// Time between the first changed row of a run and the start of the measurement. In this time, the
/// job reaches its steady rate.
const FIRST: Duration = Duration::from_secs(2);
/// How long the unthrottled run is measured. In a longer measurement, the lag would only grow
/// further.
const UNTHROTTLED: Duration = Duration::from_secs(3);
/// The first fixed rate, as a share of the daemon's rate.
const FROM: f64 = 0.75;
/// The factor between consecutive fixed rates.
const STEP: f64 = 1.1;

/// Each page has room for one more version of each of its rows. After a vacuum, each run therefore
/// finds the same table as the first run.
const TABLE: &str = "
create table public.t (id bigint primary key, n bigint not null default 0, note text not null) with (fillfactor = 50, autovacuum_enabled = off);
insert into public.t select n, 0, repeat('x', 150) from generate_series(1, ROWS) n;
alter table public.t owner to owner";

struct Bench {
    cluster: Cluster,
    standby: Standby,
    daemon: Daemon,
    owner: Client,
    replays: f64,
    jobs: u32,
}

/// The results of one run.
struct Seen {
    rows_per_second: f64,
    /// Share of the time in which the lag was within its limit.
    within: f64,
    longest: f64,
}

#[tokio::main]
async fn main() {
    let cluster = cluster().await;
    let version: String = cluster.value("postgres", "app", "select current_setting('server_version')").await;
    let (rows, replays) = (number("ROWS", 5_000_000), number("PERCENT", 5) as f64 / 100.0);
    let phase = Duration::from_secs(number("SECONDS", 20).unsigned_abs());
    println!(
        "PostgreSQL {version}, {} processors, {rows} rows, the standby replays {:.0} % of the time",
        std::thread::available_parallelism().unwrap(),
        replays * 100.0
    );
    cluster.sql("postgres", "app", &TABLE.replace("ROWS", &rows.to_string())).await;
    let standby = Standby::of(&cluster).await;
    let (daemon, owner) = (daemon(&cluster).await, cluster.owner().await);
    let mut bench = Bench { cluster, standby, daemon, owner, replays, jobs: 0 };

    println!("\n| | rows/s | share of time within the limit | longest lag, s |\n|---|---|---|---|");
    if wanted("unthrottled") {
        show("unthrottled", &bench.run(json!({"throttle": "off"}), UNTHROTTLED).await);
    }
    let (mut ours, mut within) = (Sample::default(), Sample::default());
    let mut turn = async |bench: &mut Bench| {
        let seen = bench.run(json!({}), phase).await;
        show("daemon", &seen);
        ours.add(seen.rows_per_second);
        within.add(seen.within);
        seen.rows_per_second
    };
    let (mut rate, mut best, mut failures) = (turn(&mut bench).await * FROM, None, 0);
    while wanted("fixed") && failures < 2 {
        let seen = bench.run(json!({"throttle": "off", "max_rows_per_second": rate.round()}), phase).await;
        show(&format!("fixed, {rate:.0} rows per second"), &seen);
        if seen.within >= WITHIN {
            (best, failures) = (Some(seen.rows_per_second), 0);
        } else {
            failures += 1;
        }
        rate *= STEP;
        // The speed of the standby varies over time, so the daemon is measured again after each
        // measurement of a fixed rate.
        turn(&mut bench).await;
    }
    println!("\ndaemon: {ours:.0} rows/s, within the limit {within:.4} of the time (goal {WITHIN})");
    if let Some(best) = best {
        println!(
            "best fixed rate within the limit for {WITHIN} of the time: {best:.0} rows/s; the daemon reaches {:.2} of it (goal {SHARE_OF_THE_BEST})",
            ours.median() / best
        );
    }
}

fn show(name: &str, Seen { rows_per_second, within, longest }: &Seen) {
    println!("| {name} | {rows_per_second:.0} | {:.1} % | {longest:.2} |", within * 100.0);
}

impl Bench {
    /// Waits until the standby has caught up. Then runs a job with these options, measures it for
    /// `phase` and cancels it.
    async fn run(&mut self, options: Value, phase: Duration) -> Seen {
        self.cluster.sql("postgres", "app", "vacuum analyze public.t").await;
        self.cluster.sql("postgres", "app", "checkpoint").await;
        self.standby.wait_caught_up(SOON * 10).await;
        let slow = self.standby.slow_replay(self.replays).await;
        let watch = Watch::start(&self.cluster, &self.standby).await;
        self.jobs += 1;
        let name = format!("lag_{}", self.jobs);
        let mut options = options;
        options["verify"] = json!("none");
        options["vacuum"] = json!("off");
        let enqueue = "select backfill.enqueue($1, 'public.t', 'n = n + 1', options => $2)";
        self.owner.query_one(enqueue, &[&name, &options]).await.unwrap();
        until_begun(&self.daemon, &name).await;
        tokio::time::sleep(FIRST).await;
        let (before, begun) = (rows_changed(&self.daemon, &name).await.unwrap(), Instant::now());
        tokio::time::sleep(phase).await;
        let rows = rows_changed(&self.daemon, &name).await.unwrap() - before;
        let seconds = begun.elapsed().as_secs_f64();
        let lags = watch.stop_since(begun).await;
        cancel(&self.owner, &name).await;
        drop(slow);
        let within = lags.iter().filter(|lag| **lag <= LIMIT).count() as f64 / lags.len() as f64;
        Seen { rows_per_second: rows / seconds, within, longest: lags.into_iter().fold(0.0, f64::max) }
    }
}
