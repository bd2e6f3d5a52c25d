//! Temporary PostgreSQL clusters, a faulty network and daemon processes, for the tests, the benches
//! and the demo.
//!
//! The testbed uses no mocks. Each server is started from the installed binaries in a separate
//! directory. A TCP proxy between the daemon and the server causes the network faults. The daemon
//! is a child process. Servers, proxies and daemons are removed when their value is dropped, when
//! the test panics, and when the test's process is killed; see [`watchdog`].
//!
//! ```no_run
//! use backfilld_testbed::{cluster::{Cluster, Options}, daemon::Daemon, proxy::Proxy, standby::Standby, wait};
//! use std::time::Duration;
//!
//! # async fn example() {
//! let cluster = Cluster::with_owner(Options::default()).await;
//! let standby = Standby::of(&cluster).await;
//! let proxy = Proxy::to(cluster.addr()).await;
//! cluster.sql("owner", "app", "create table t (id bigint primary key, n int)").await;
//!
//! let daemon = Daemon::builder("target/debug/backfilld", &proxy.url("owner", "app"))
//!     .config("lease: {ttl_seconds: 2}")
//!     .start();
//! daemon.wait_ready(Duration::from_secs(10)).await;
//! proxy.cut();
//! standby.wait_caught_up(Duration::from_secs(10)).await;
//! wait::until(Duration::from_secs(10), "every row has a number", async || {
//!     standby.value::<i64>("owner", "app", "select count(*) from t where n is null").await == 0
//! }).await;
//! # }
//! ```
//!
//! Most functions panic if they cannot do what they promise, because a test cannot continue without
//! its server. Some failures can be fixed by the user, for example a missing PostgreSQL. A function
//! that can fail in this way has a `try_` variant, which returns an error to print.
#![allow(
    clippy::disallowed_methods,
    reason = "a test may panic on an unexpected row; tests/layering forbids the other methods"
)]

pub mod binaries;
pub mod cluster;
pub mod daemon;
pub mod place;
pub mod pooler;
pub mod port;
pub mod process;
pub mod proxy;
pub mod server;
pub mod standby;
pub mod template;
pub mod tls;
pub mod wait;
pub mod watchdog;

/// Describes a failure and its fix in one text for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetupError(pub String);

impl std::fmt::Display for SetupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SetupError {}

impl From<String> for SetupError {
    fn from(text: String) -> Self {
        Self(text)
    }
}
