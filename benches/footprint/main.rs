//! `make bench-footprint`: measures how much a table grows when one of its columns is filled in
//! every row. Also measures the processor time that the daemon's monitoring takes on the server.
//! See benches/README.md for the method and the results of one run.
//!
//!     ROWS=n      rows of the table that grows (1,000,000)
//!     TURNS=n     number of times the column is filled with each method (3)
//!     SECONDS=n   length of each measurement of the daemon's sessions (20)
//!     ONLY=a,b    only these parts: heap, monitoring

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

mod heap;
mod monitoring;

use server::{cluster, daemon, wanted};

#[tokio::main]
async fn main() {
    let cluster = cluster().await;
    let version: String = cluster.value("postgres", "app", "select current_setting('server_version')").await;
    println!("PostgreSQL {version}, {} processors", std::thread::available_parallelism().unwrap());
    if wanted("heap") {
        let _daemon = daemon(&cluster).await;
        heap::measure(&cluster).await;
    }
    if wanted("monitoring") {
        monitoring::measure(&cluster).await;
    }
}
