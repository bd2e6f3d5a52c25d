//! Tests that the testbed can start, freeze, terminate and kill a child process, and read its
//! output. A shell script takes the place of the daemon.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use backfilld_testbed::daemon::{Builder, Daemon};
use backfilld_testbed::wait;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

const SCRIPT: &str = r#"#!/bin/sh
echo "args: $*"
echo "url: $BACKFILLD_DATABASE_URL, greeting: $GREETING" >&2
while [ $# -gt 0 ]; do
    [ "$1" = --config ] && cat "$2"
    shift
done
trap 'echo draining; exit 7' TERM
echo up
while :; do sleep 0.02; echo tick; done
"#;

/// A script file that is removed on drop.
struct Script(PathBuf);

impl Script {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("stand-in-{}", uuid::Uuid::new_v4()));
        std::fs::write(&path, SCRIPT).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    fn builder(&self) -> Builder {
        Daemon::builder(&self.0, "postgres://somewhere")
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn a_daemon_gets_its_url_address_configuration_and_arguments() {
    let script = Script::new();
    let daemon = script.builder().env("GREETING", "hello").arg("--until-idle").config("lease: {}\n").start();
    wait::until(SOON, "the script has started", async || daemon.output().contains("up\n")).await;
    let output = daemon.output();
    assert!(output.contains(&format!("args: run --listen {} --config ", daemon.http_addr())), "{output}");
    assert!(output.contains("--until-idle"), "{output}");
    assert!(output.contains("url: postgres://somewhere, greeting: hello"), "{output}");
    assert!(output.contains("lease: {}"), "{output}");
}

#[tokio::test]
async fn a_frozen_daemon_does_nothing_until_it_continues() {
    let script = Script::new();
    let daemon = script.builder().start();
    wait::until(SOON, "the script prints ticks", async || daemon.output().contains("tick")).await;
    daemon.sigstop();
    daemon.sigterm();
    assert!(daemon.ended().is_none());
    daemon.sigcont();
    assert_eq!(daemon.wait_exit(SOON).await.code(), Some(7));
    assert!(daemon.output().contains("draining"));
}

#[tokio::test]
async fn a_killed_daemon_ends_by_the_signal() {
    let script = Script::new();
    let daemon = script.builder().start();
    wait::until(SOON, "the script has started", async || daemon.output().contains("up\n")).await;
    daemon.sigkill();
    assert_eq!(daemon.wait_exit(SOON).await.signal(), Some(9));
    assert!(!daemon.output().contains("draining"));
}
