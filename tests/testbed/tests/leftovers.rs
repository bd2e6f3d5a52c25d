//! Tests that nothing is left behind when a test's process is killed or panics.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::standby::Standby;
use backfilld_testbed::{process, wait};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// Environment variable that tells the child process how to end.
const END: &str = "TESTBED_TEST_END";

#[tokio::test]
async fn nothing_is_left_after_a_panic() {
    nothing_is_left_after("panic").await;
}

#[tokio::test]
async fn nothing_is_left_after_a_kill() {
    nothing_is_left_after("kill").await;
}

async fn nothing_is_left_after(end: &str) {
    let output = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_test_that_fails_on_purpose", "--ignored", "--nocapture"])
        .env(END, end)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut seen = 0;
    for line in text.lines().filter_map(|line| line.split_once("made: ")).map(|(_, made)| made) {
        let (pid, dir) = line.split_once(' ').unwrap();
        let (pid, dir): (u32, PathBuf) = (pid.parse().unwrap(), dir.into());
        wait::until(SOON, format!("{} is removed", dir.display()), async || !dir.exists()).await;
        wait::until(SOON, format!("process {pid} is gone"), async || {
            // A zombie that waits for the system to reap it counts as gone.
            !process::exists(pid) || process::working_dir(pid).is_none()
        })
        .await;
        seen += 1;
    }
    assert_eq!(seen, 3, "{text}{}", String::from_utf8_lossy(&output.stderr));
}

/// The tests above run this test in a separate process.
#[tokio::test]
#[ignore = "fails on purpose"]
async fn a_test_that_fails_on_purpose() {
    let Ok(end) = std::env::var(END) else { return };
    let cluster = Cluster::start(Options::default()).await;
    let standby = Standby::of(&cluster).await;
    let daemon = Daemon::builder(idle_program(cluster.dir()), "").start();
    wait::until(SOON, "the stand-in runs", async || daemon.output().contains("up")).await;
    println!("made: {} {}", cluster.pid(), cluster.dir().display());
    println!("made: {} {}", standby.pid(), standby.dir().display());
    println!("made: {} {}", daemon.pid(), process::working_dir(daemon.pid()).unwrap_or_default().display());
    let _slow = standby.slow_replay(0.0).await;
    daemon.sigstop();
    if end == "kill" {
        process::signal("KILL", &[std::process::id()]);
        std::future::pending::<()>().await;
    }
    panic!("on purpose");
}

fn idle_program(dir: &std::path::Path) -> PathBuf {
    let path = dir.join("idle");
    std::fs::write(&path, "#!/bin/sh\necho up\nexec sleep 1000\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}
