//! `make bench`: measures the speed of a job, compared with one `UPDATE` of the whole table. Also
//! measures the other costs of the daemon.
//!
//! Everything runs on a separate cluster with `fsync = on`. Durations in seconds vary with the
//! other load of the machine, so the bench prints speeds as ratios. In the parts `speed` and
//! `bad_rows`, the table is rebuilt before each run, and each ratio is computed within one turn. In
//! `speed`, the order of the runs rotates. See benches/README.md for the method and the numbers of
//! one run.
//!
//!     ROWS=n    rows of the table (1,000,000)
//!     PAIRS=n   turns (speed: 7, bad_rows: 3)
//!     BIG=1     also 10,000,000 rows in BIG_PAIRS turns (3), to compare the ratios of both tables
//!     HOLD=n    minimum number of seconds for which a row is locked (60)
//!     ONLY=a,b  only these parts: speed, bad_rows, latency, claim, checkpoint, views

#![allow(
    clippy::disallowed_methods,
    reason = "a test may panic on an unexpected row; tests/layering forbids the other methods"
)]
#![allow(clippy::unwrap_used, reason = "a measurement that fails may panic")]
#![allow(clippy::print_stdout, reason = "that is what it is for")]

#[path = "../sample.rs"]
mod sample;
#[path = "../server.rs"]
mod server;

mod bad_rows;
mod long_queue;
mod queue;
mod speed;

use server::{cluster, daemon, number, wanted};
use std::time::Duration;

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
    if wanted("bad_rows") {
        let _daemon = daemon(&cluster).await;
        let hold = Duration::from_secs(number("HOLD", 60).unsigned_abs());
        bad_rows::measure(&cluster, number("ROWS", 1_000_000), number("PAIRS", 3), hold).await;
    }
    if wanted("latency") {
        let daemon = daemon(&cluster).await;
        queue::first_batch(&cluster, &daemon).await;
    }
    // From here on no daemon runs. The following parts call the daemon's SQL functions and read the
    // views directly, so that they measure only these functions and views.
    if wanted("checkpoint") {
        queue::checkpoints(&cluster).await;
    }
    if wanted("claim") {
        queue::claims(&cluster).await;
    }
    if wanted("views") {
        long_queue::views(&cluster).await;
    }
}
