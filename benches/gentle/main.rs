//! `make bench-gentle`: measures the effect of a backfill on the latency of an application. The
//! bench compares these ways to run a backfill: the daemon (with its default settings), batches of
//! a fixed size with fixed sleeps, and one `UPDATE`. It also measures how long other sessions,
//! which change the same rows or run DDL, wait for a batch.
//!
//! The application runs on the same table at a fixed rate all the time. Phases without a backfill
//! alternate with phases in which a backfill runs with one of the settings. The result for a phase
//! with a backfill is the ratio of its latencies to those of the preceding phase. See
//! benches/README.md for the method and the results of one run.
//!
//!     ROWS=n       rows of the table (4,000,000)
//!     TURNS=n      number of phases of each setting (5)
//!     SECONDS=n    length of a phase (6)
//!     RATE=n       statements of the application per second (800)
//!     ONLY=a,b     only these: victims, or settings ("daemon", "100 rows; 2 ms", ...)

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

mod application;
mod felt;
mod setting;
mod victims;

use server::{cluster, daemon, wanted};

#[tokio::main]
async fn main() {
    let cluster = cluster().await;
    let version: String = cluster.value("postgres", "app", "select current_setting('server_version')").await;
    println!("PostgreSQL {version}, {} processors", std::thread::available_parallelism().unwrap());
    let daemon = daemon(&cluster).await;
    felt::measure(&cluster, &daemon).await;
    if wanted("victims") {
        victims::measure(&cluster).await;
    }
}
