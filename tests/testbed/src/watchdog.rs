//! Nothing is left behind, whatever happens to the test.
//!
//! `Drop` does not run in a process that was killed, and a server outlives the test that started
//! it. So each directory has a small shell process that reads from a pipe whose other end only the
//! test's process holds: when that end closes, for whatever reason, the shell stops the processes
//! in the directory and removes it. `Drop` uses the same mechanism, so every test exercises it.

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
    /// Guards `dir`, an absolute path without glob characters.
    pub(crate) fn over(dir: &Path) -> std::io::Result<Self> {
        let mut child = command(dir).stdin(Stdio::piped()).spawn()?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    /// Leaves the directory and the processes in it alone, even after this process has ended.
    pub(crate) fn stand_down(&mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            // A watchdog that has already ended needs no message.
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

/// Stops the processes in `dir` and removes it now.
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
        // The watchdog has a process group of its own, because test runners and terminals signal
        // the test's whole group.
        .process_group(0);
    command
}
