//! The daemon as a child process.

use crate::place::{Place, RunAs};
use crate::port::Port;
use crate::process::Process;
use crate::wait;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Name of the configuration file in the daemon's directory.
const CONFIG: &str = "backfilld.yaml";

/// The memory that a daemon may allocate: the limit of the manifests in deploy/kubernetes, in KiB.
/// The limit counts all private memory that the daemon may write, including the part that is not in
/// use.
const MEMORY_KIB: u32 = 128 * 1024;

/// The settings with which a daemon starts; see [`Daemon::builder`].
#[derive(Debug)]
pub struct Builder {
    binary: PathBuf,
    url: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    config: Option<String>,
}

impl Builder {
    /// Adds an argument at the end of the command line, after the options `--listen` and
    /// `--config`.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Sets the text of the configuration file (YAML). If the configuration names several
    /// databases, pass an empty URL to [`Daemon::builder`].
    #[must_use]
    pub fn config(mut self, yaml: impl Into<String>) -> Self {
        self.config = Some(yaml.into());
        self
    }

    /// Starts the daemon and returns without waiting until it is ready.
    pub fn start(self) -> Daemon {
        let port = Port::reserve().unwrap_or_else(|error| panic!("{error}"));
        let place = Place::new("daemon", RunAs::Ourselves).unwrap_or_else(|error| panic!("{error}"));
        let binary = std::path::absolute(&self.binary).unwrap_or(self.binary);
        // The shell limits the memory and then becomes the daemon, which keeps the process ID.
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -d \"$0\" && exec \"$@\""]).arg(MEMORY_KIB.to_string()).arg(&binary);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("BACKFILLD_") || name.starts_with("PG") || name == "DATABASE_URL" {
                command.env_remove(&*name);
            }
        }
        command.arg("run").arg("--listen").arg(port.addr().to_string());
        if let Some(yaml) = &self.config {
            let file = place.dir().join(CONFIG);
            std::fs::write(&file, yaml).expect("write the configuration");
            command.arg("--config").arg(file);
        }
        command.args(&self.args).env("BACKFILLD_DATABASE_URL", &self.url).envs(self.env);
        let output = place.dir().join("output");
        let out = File::options().create(true).append(true).open(&output).expect("a file for the output");
        let err = out.try_clone().expect("a second handle for the output");
        // The watchdog identifies the daemon by its working directory. The separate process group
        // keeps Ctrl-C from reaching the daemon.
        command.current_dir(place.dir()).stdin(Stdio::null()).stdout(out).stderr(err);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let process = Process::spawn(&mut command).unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
        Daemon { process, port, place }
    }
}

/// A running `backfilld run`. The daemon is killed on drop. If a panic causes the drop, the
/// daemon's output is printed.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    port: Port,
    place: Place,
}

impl Daemon {
    /// Returns a builder. `binary` is usually `env!("CARGO_BIN_EXE_backfilld")`. The daemon does
    /// not inherit the variables `BACKFILLD_*`, `PG*` and `DATABASE_URL`.
    pub fn builder(binary: impl AsRef<Path>, url: &str) -> Builder {
        let binary = binary.as_ref().to_owned();
        Builder { binary, url: url.to_owned(), args: Vec::new(), env: Vec::new(), config: None }
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn http_addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Returns the daemon's output (stdout and stderr) so far.
    pub fn output(&self) -> String {
        let bytes = std::fs::read(self.place.dir().join("output"));
        bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Sends SIGTERM: the daemon drains and exits.
    pub fn sigterm(&self) {
        self.process.signal("TERM");
    }

    /// Replaces the configuration file and sends SIGHUP, so that the daemon reloads it.
    pub fn reload(&self, yaml: &str) {
        std::fs::write(self.place.dir().join(CONFIG), yaml).expect("write the configuration");
        self.sighup();
    }

    /// Makes the daemon read its configuration again.
    pub fn sighup(&self) {
        self.process.signal("HUP");
    }

    pub fn sigkill(&self) {
        self.process.signal("KILL");
    }

    /// Freezes the daemon with SIGSTOP.
    pub fn sigstop(&self) {
        self.process.signal("STOP");
    }

    pub fn sigcont(&self) {
        self.process.signal("CONT");
    }

    /// Returns the daemon's exit status; none while the daemon runs.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// Waits until the daemon exits. After `timeout`, panics with the daemon's output.
    pub async fn wait_exit(&self, timeout: Duration) -> ExitStatus {
        match self.process.wait(timeout).await {
            Some(status) => status,
            None => panic!("the daemon still runs after {timeout:?}; its output:\n{}", self.output()),
        }
    }

    /// Waits until `/readyz` returns 200.
    pub async fn wait_ready(&self, timeout: Duration) {
        wait::until_ok(timeout, "the daemon is ready", async || {
            if let Some(status) = self.ended() {
                panic!("the daemon ended with {status}; its output:\n{}", self.output());
            }
            match self.get("/readyz").await {
                Ok((200, _)) => Ok(()),
                Ok((status, body)) => Err(format!("{status} {body}; its output:\n{}", self.output())),
                Err(error) => Err(format!("{error}; its output:\n{}", self.output())),
            }
        })
        .await;
    }

    /// Sends a GET request for a path to the daemon's HTTP server. Returns the status and the body
    /// of the response.
    pub async fn get(&self, path: &str) -> std::io::Result<(u16, String)> {
        let exchange = async {
            let mut stream = TcpStream::connect(self.http_addr()).await?;
            let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.http_addr());
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            std::io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        let answer: String = tokio::time::timeout(Duration::from_secs(5), exchange)
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split_whitespace().nth(1).and_then(|word| word.parse().ok());
        status.map(|status| (status, body.to_owned())).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
    }

    /// Leaves the daemon running when the test's process ends; see `place::remove_kept`.
    pub fn keep(&self) {
        self.place.keep();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- output of the daemon, pid {} ---\n{}---", self.pid(), self.output());
        }
    }
}
