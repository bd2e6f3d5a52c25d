//! A child process that is always reaped, and functions that send signals without `unsafe`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::sync::watch;

/// A running or ended child process. A thread waits for it, so that it never remains as a zombie.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    status: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    pub fn spawn(command: &mut Command) -> std::io::Result<Self> {
        let mut child = command.spawn()?;
        let pid = child.id();
        let (ended, status) = watch::channel(None);
        std::thread::spawn(move || {
            if let Ok(status) = child.wait() {
                ended.send_replace(Some(status));
            }
        });
        Ok(Self { pid, status })
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns the exit status of the process; none while the process runs.
    pub fn ended(&self) -> Option<ExitStatus> {
        *self.status.borrow()
    }

    /// Waits until the process exits. Returns none after `timeout`.
    pub async fn wait(&self, timeout: Duration) -> Option<ExitStatus> {
        let mut status = self.status.clone();
        let ended = tokio::time::timeout(timeout, status.wait_for(Option::is_some)).await.ok()?;
        ended.ok().and_then(|status| *status)
    }

    /// Sends a signal by its short name (`TERM`, `STOP`). Does nothing if the process has ended.
    pub fn signal(&self, name: &str) {
        if self.ended().is_none() {
            signal(name, &[self.pid]);
        }
    }
}

/// Sends the signal with this short name to the processes. Returns false if sending the signal
/// fails for at least one of the processes, for example because the process does not exist.
pub fn signal(name: &str, pids: &[u32]) -> bool {
    if pids.is_empty() {
        return true;
    }
    // Small systems lack the program `kill`, so this function runs the `kill` that is built into
    // the shell.
    let mut command = Command::new("sh");
    command.args(["-c", "name=$1; shift; kill -s \"$name\" \"$@\"", "kill", name]);
    command.args(pids.iter().map(u32::to_string));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Returns whether a process with this ID exists and may receive signals from this user.
pub fn exists(pid: u32) -> bool {
    signal("0", &[pid])
}

/// Returns the working directory of a process. Returns none if the process has ended, or if the
/// system does not report the directory.
pub fn working_dir(pid: u32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// Returns the processes that have `dir` as their working directory. For the data directory of a
/// server, these are all processes of the server.
pub fn working_in(dir: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| working_dir(*pid).is_some_and(|place| place == dir)).collect()
}

/// Returns the children of a process, as `ps` reports them, for systems without `/proc`.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let Ok(output) = Command::new("ps").args(["-axo", "pid=,ppid="]).output() else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse::<u32>);
            let (child, parent) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
            (parent == pid).then_some(child)
        })
        .collect()
}

/// Returns the process ID, the command line and the state of a process, for the message of a failed
/// test.
pub fn described(pid: u32) -> String {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let status = read("status");
    let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or("no state").replace('\t', " ");
    format!("{pid} {state} {} {}", read("wchan"), read("cmdline").replace('\0', " "))
}
