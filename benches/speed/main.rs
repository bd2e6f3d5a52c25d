//! `make bench`: how fast a job walks, next to one `UPDATE` of the whole table, and what the daemon costs besides.
//!
//! Everything runs on one cluster of its own, with `fsync` on. Numbers in seconds mean little on a machine that does
//! other things too, so speeds are ratios: the same table is rebuilt before each run, the runs take turns, and each
//! ratio is formed within one turn. See benches/README.md for the method and the numbers of one run.
//!
//!     ROWS=n    rows of the table (1,000,000)
//!     PAIRS=n   turns (7)
//!     BIG=1     also 10,000,000 rows, for the ratio of the ratios
//!     HOLD=n    seconds for which a row is locked (60)
//!     ONLY=a,b  only these parts: speed, stubborn, latency, claim, checkpoint, views

#![allow(clippy::unwrap_used, reason = "a measurement that fails may panic")]
#![allow(clippy::print_stdout, reason = "that is what it is for")]

mod crowd;
mod queue;
mod sample;
mod speed;
mod stubborn;

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::Daemon;
use std::time::Duration;

const BACKFILLD: &str = env!("CARGO_BIN_EXE_backfilld");
const SOON: Duration = Duration::from_secs(30);

fn number(name: &str, default: i64) -> i64 {
    std::env::var(name).map_or(default, |text| text.replace('_', "").parse().unwrap())
}

fn wanted(part: &str) -> bool {
    std::env::var("ONLY").map_or(true, |parts| parts.split(',').any(|one| one == part))
}

/// A server as a production machine would have it, small. No checkpoint of its own falls into a measurement: one is
/// forced before each, and the next is half an hour away.
async fn cluster() -> Cluster {
    let options = Options::default()
        .fsync()
        .set("shared_buffers", "1GB")
        .set("max_wal_size", "16GB")
        .set("min_wal_size", "4GB")
        .set("checkpoint_timeout", "30min")
        .set("checkpoint_completion_target", "0.9")
        .set("wal_buffers", "16MB");
    let cluster = Cluster::with_owner(options).await;
    let migrated = tokio::process::Command::new(BACKFILLD)
        .arg("migrate")
        .env("BACKFILLD_DATABASE_URL", cluster.owner_url())
        .output()
        .await
        .unwrap();
    assert!(migrated.status.success(), "migrate: {}", String::from_utf8_lossy(&migrated.stderr));
    cluster
}

async fn daemon(cluster: &Cluster) -> Daemon {
    let daemon = Daemon::builder(BACKFILLD, &cluster.owner_url()).start();
    daemon.wait_ready(SOON).await;
    daemon
}

#[tokio::main]
async fn main() {
    let cluster = cluster().await;
    let version: String = cluster.value("postgres", "app", "select current_setting('server_version')").await;
    println!("PostgreSQL {version}, {} processors\n", std::thread::available_parallelism().unwrap());
    if wanted("speed") {
        let (rows, pairs) = (number("ROWS", 1_000_000), number("PAIRS", 7));
        let daemon = daemon(&cluster).await;
        let small = speed::measure(&cluster, &daemon, rows, pairs).await;
        if number("BIG", 0) != 0 {
            let big = speed::measure(&cluster, &daemon, 10_000_000, number("BIG_PAIRS", 3)).await;
            speed::compare(&small, &big);
        }
    }
    if wanted("stubborn") {
        let _daemon = daemon(&cluster).await;
        let hold = Duration::from_secs(number("HOLD", 60).unsigned_abs());
        stubborn::measure(&cluster, number("ROWS", 1_000_000), number("PAIRS", 3), hold).await;
    }
    if wanted("latency") {
        let daemon = daemon(&cluster).await;
        queue::first_batch(&cluster, &daemon).await;
    }
    // No daemon from here on: these parts call what it calls, to time nothing else.
    if wanted("checkpoint") {
        queue::checkpoints(&cluster).await;
    }
    if wanted("claim") {
        queue::claims(&cluster).await;
    }
    if wanted("views") {
        crowd::views(&cluster).await;
    }
}
