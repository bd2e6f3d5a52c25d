//! Code that the benches share: a server, a daemon, and the settings from the environment.

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::Daemon;
use std::time::Duration;

pub const BACKFILLD: &str = env!("CARGO_BIN_EXE_backfilld");
pub const SOON: Duration = Duration::from_secs(30);

/// Reads a number from an environment variable.
pub fn number(name: &str, default: i64) -> i64 {
    std::env::var(name).map_or(default, |text| text.replace('_', "").parse().unwrap())
}

/// Returns true if `ONLY` lists this part or is not set.
pub fn wanted(part: &str) -> bool {
    std::env::var("ONLY").map_or(true, |parts| parts.split(',').any(|one| one == part))
}

/// Starts a server with the settings of a small production machine. Timed checkpoints are 30
/// minutes apart, and most measurements start after a forced checkpoint. A timed checkpoint
/// therefore rarely falls into a measurement.
pub async fn cluster() -> Cluster {
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

pub async fn daemon(cluster: &Cluster) -> Daemon {
    let daemon = Daemon::builder(BACKFILLD, &cluster.owner_url()).start();
    daemon.wait_ready(SOON).await;
    daemon
}
