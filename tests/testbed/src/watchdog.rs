//! Nothing is left behind, whatever happens to the test.
//!
//! `Drop` does not run in a process that was killed, and a server outlives the test that started it. So each
//! directory has a small shell process beside it that reads from a pipe whose other end only the test's process
//! holds: when that end closes, for whatever reason, the shell stops what lives in the directory and removes it.
//! `Drop` uses the very same way, so there is one way out and it is walked by every test.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

const SCRIPT: &str = include_str!("watchdog.sh");

#[derive(Debug)]
pub(crate) struct Watchdog {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Watchdog {
    /// Guard `dir`, an absolute path without glob characters.
    pub(crate) fn over(dir: &Path) -> std::io::Result<Self> {
        let mut child = command(dir).stdin(Stdio::piped()).spawn()?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    /// Leave the directory and what runs in it, also after this process has ended.
    pub(crate) fn stand_down(&mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            // A watchdog that is gone already has nothing to be told.
            let _ = pipe.write_all(b"keep\n");
        }
        let _ = self.child.wait();
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.child.wait();
    }
}

/// Stop what lives in `dir` and remove it now.
pub(crate) fn remove(dir: &Path) -> std::io::Result<()> {
    command(dir).stdin(Stdio::null()).status().map(drop)
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", SCRIPT, "watchdog"])
        .arg(dir)
        .current_dir("/")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A group of its own: test runners and terminals signal the test's whole group.
        .process_group(0);
    command
}
