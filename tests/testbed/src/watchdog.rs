//! Removes servers, daemons and their files, however the test ends.
//!
//! `Drop` does not run in a process that was killed, and a server continues to run after the test
//! that started it. Therefore each directory has a small shell process that reads from a pipe. Only
//! the test's process holds the other end of the pipe. When that end closes, the shell stops the
//! processes in the directory and removes the directory. `Drop` also closes the pipe, so every test
//! exercises the shell process.

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
    /// Starts a watchdog for `dir`, an absolute path without glob characters.
    pub(crate) fn over(dir: &Path) -> std::io::Result<Self> {
        let mut child = command(dir).stdin(Stdio::piped()).spawn()?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    /// Ends the watchdog. The directory and the processes in it remain, even after the test's
    /// process has ended.
    pub(crate) fn stand_down(&mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            // The write fails if the watchdog has already ended.
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

/// Stops the processes in `dir` and removes the directory immediately.
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
        // The watchdog runs in a separate process group, because test runners and terminals send
        // signals to the whole group of the test.
        .process_group(0);
    command
}
