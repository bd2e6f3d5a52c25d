//! A PostgreSQL server: the code that the primary and the standby share.

use crate::SetupError;
use crate::binaries::Binaries;
use crate::place::{Place, RunAs};
use crate::port::Port;
use crate::process::{self, Process};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::types::FromSqlOwned;
use tokio_postgres::{Client, NoTls};

/// Maximum time for a server to start, including crash recovery, on a machine that is busy with
/// other tests.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// How to stop a server: two of the shutdown modes in PostgreSQL's manual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Terminates the sessions, then writes a checkpoint.
    Fast,
    /// Crashes the server: it writes no checkpoint, and the next start runs crash recovery.
    Immediate,
}

/// Settings in addition to the testbed's own. If a name occurs twice, the last value takes
/// precedence.
#[derive(Debug, Clone, Default)]
pub struct Options {
    settings: Vec<(String, String)>,
}

impl Options {
    /// Sets a setting of `postgresql.conf`.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }

    /// Sets `wal_level = logical`.
    #[must_use]
    pub fn logical(self) -> Self {
        self.set("wal_level", "logical")
    }

    /// Sets `fsync = on`, for measurements. The testbed otherwise sets `fsync = off`. With `off`, a
    /// crash of the server alone loses no more than with `on`, but a crash of the machine can lose
    /// or corrupt data.
    #[must_use]
    pub fn fsync(self) -> Self {
        self.set("fsync", "on")
    }
}

/// The directory, port and process of a server. On drop, the process is stopped, the directory is
/// removed, and the port is released.
#[derive(Debug)]
pub struct Server {
    process: Mutex<Option<Process>>,
    port: Port,
    pub(crate) binaries: &'static Binaries,
    pub(crate) run_as: RunAs,
    pub(crate) options: Options,
    place: Place,
}

impl Server {
    pub(crate) fn new(kind: &str, options: Options) -> Result<Self, SetupError> {
        let run_as = RunAs::of_this_machine()?;
        let (binaries, port, place) = (Binaries::find()?, Port::reserve()?, Place::new(kind, run_as)?);
        Ok(Self { process: Mutex::new(None), port, binaries, run_as, options, place })
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Returns `postgres://user@127.0.0.1:port/db`; no password is required.
    pub fn url(&self, user: &str, db: &str) -> String {
        format!("postgres://{user}@{}/{db}", self.addr())
    }

    /// Returns the directory that contains all files of the server, including its Unix socket.
    pub fn dir(&self) -> &Path {
        self.place.dir()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir().join("data")
    }

    /// Returns PostgreSQL's major version.
    pub fn major(&self) -> u32 {
        self.binaries.major()
    }

    /// Returns the server's log so far.
    pub fn log(&self) -> String {
        std::fs::read(self.log_file()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.dir().join("log")
    }

    /// Leaves the server running and its directory in place when the test's process ends; see
    /// `place::remove_kept`.
    pub fn keep(&self) {
        self.place.keep();
    }

    /// Writes `postgresql.conf`, which takes effect at the next start or reload. `more` takes
    /// precedence over all other settings.
    pub(crate) fn write_conf(&self, more: &[(&str, String)]) -> Result<(), SetupError> {
        let socket_dir = self.dir().display().to_string();
        let port = self.port().to_string();
        let ours = [
            ("listen_addresses", "127.0.0.1"),
            ("port", &port),
            ("unix_socket_directories", &socket_dir),
            ("fsync", "off"),
            ("wal_level", "replica"),
            ("max_wal_senders", "10"),
            ("max_replication_slots", "10"),
            ("max_connections", "100"),
            ("hot_standby", "on"),
            ("shared_buffers", "32MB"),
            // Keeps enough WAL that a standby without a slot can resume streaming after a
            // disconnection.
            ("wal_keep_size", "256MB"),
            ("wal_retrieve_retry_interval", "100ms"),
            // Stores the dynamic shared memory in the data directory, so that a killed server
            // leaves nothing in /dev/shm.
            ("dynamic_shared_memory_type", "mmap"),
            ("log_line_prefix", "%m [%p] %a: "),
        ];
        let given = self.options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let more = more.iter().map(|(name, value)| (*name, value.as_str()));
        let mut text = String::new();
        for (name, value) in ours.into_iter().chain(given).chain(more) {
            let _ = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
        }
        self.write_file("postgresql.conf", &text)
    }

    pub(crate) fn write_file(&self, name: &str, text: &str) -> Result<(), SetupError> {
        let path = self.data_dir().join(name);
        let written = std::fs::write(&path, text).and_then(|()| self.run_as.own(&path));
        written.map_err(|error| SetupError(format!("{}: {error}", path.display())))
    }

    /// Writes `pg_hba.conf` and reloads it. The lines must allow the connections of the tests.
    pub async fn set_hba(&self, lines: &str) {
        self.write_file("pg_hba.conf", lines).unwrap_or_else(|error| panic!("{error}"));
        self.reload().await;
    }

    /// Reloads the server's configuration files and waits until the reload is complete.
    pub async fn reload(&self) {
        let before: String = self.value("postgres", "postgres", "select pg_conf_load_time()::text").await;
        self.sql("postgres", "postgres", "select pg_reload_conf()").await;
        crate::wait::until(START_LIMIT, "the configuration is reloaded", async || {
            self.value::<String>("postgres", "postgres", "select pg_conf_load_time()::text").await != before
        })
        .await;
    }

    /// Starts the server and waits until it accepts connections.
    pub(crate) async fn try_start(&self) -> Result<(), SetupError> {
        let setup_error = |error: std::io::Error| SetupError(format!("{}: {error}", self.dir().display()));
        let log = std::fs::File::options().create(true).append(true).open(self.log_file()).map_err(setup_error)?;
        let mut command = self.binaries.command("postgres");
        command.arg("-D").arg(self.data_dir()).current_dir(self.dir());
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(setup_error)?).stderr(log);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let process = Process::spawn(self.run_as.apply(&mut command)).map_err(setup_error)?;
        let pid = process.pid();
        *self.process.lock().expect("no panic under this lock") = Some(process);
        let deadline = Instant::now() + START_LIMIT;
        while !self.is_ready(pid) {
            let ended = self.process.lock().expect("no panic under this lock").as_ref().and_then(Process::ended);
            if ended.is_some() || Instant::now() > deadline {
                let why = ended.map_or("is not ready".to_owned(), |status| format!("ended with {status}"));
                return Err(SetupError(format!("PostgreSQL in {} {why}:\n{}", self.dir().display(), self.log())));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Returns whether the postmaster is ready. The eighth line of its pid file contains its state.
    fn is_ready(&self, pid: u32) -> bool {
        let text = std::fs::read_to_string(self.data_dir().join("postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines();
        lines.next() == Some(&pid.to_string()) && lines.nth(6).is_some_and(|state| state.trim() == "ready")
    }

    /// Starts a server that was stopped or killed.
    pub async fn start_again(&self) {
        if let Err(setup_error) = self.try_start().await {
            panic!("{setup_error}");
        }
    }

    pub async fn stop(&self, mode: Mode) {
        let process = self.process.lock().expect("no panic under this lock").take();
        let Some(process) = process else { return };
        process.signal(match mode {
            Mode::Fast => "INT",
            Mode::Immediate => "QUIT",
        });
        if process.wait(STOP_LIMIT).await.is_none() {
            let processes: Vec<String> =
                process::working_in(&self.data_dir()).into_iter().map(process::described).collect();
            panic!("PostgreSQL does not stop ({mode:?}): {processes:#?}\n{}", self.log());
        }
    }

    /// Suspends all processes of the server for this time, as a virtual machine can be suspended.
    pub async fn suspend(&self, time: Duration) {
        let data_dir = self.data_dir();
        // The processes that the server started while the signals were sent are found at the second
        // attempt.
        for _ in 0..2 {
            process::signal("STOP", &process::working_in(&data_dir));
        }
        tokio::time::sleep(time).await;
        process::signal("CONT", &process::working_in(&data_dir));
    }

    pub async fn restart(&self, mode: Mode) {
        self.stop(mode).await;
        self.start_again().await;
    }

    /// Sends SIGKILL to the postmaster and all of its children, so that none of them can clean up.
    pub async fn kill_postmaster(&self) {
        let process = self.process.lock().expect("no panic under this lock").take();
        let Some(process) = process else { return };
        // A postmaster that is suspended by SIGSTOP starts no more children, so the list below is
        // complete.
        process.signal("STOP");
        let mut family = process::working_in(&self.data_dir());
        if family.is_empty() {
            family = process::children(process.pid());
            family.push(process.pid());
        }
        process::signal("KILL", &family);
        process.wait(STOP_LIMIT).await;
        crate::wait::until(STOP_LIMIT, "the killed server's processes are gone", async || {
            let left = process::working_in(&self.data_dir());
            process::signal("KILL", &left);
            left.is_empty()
        })
        .await;
    }

    /// Returns the postmaster's process ID. Panics if the server is stopped.
    pub fn pid(&self) -> u32 {
        let process = self.process.lock().expect("no panic under this lock");
        process.as_ref().expect("the server runs").pid()
    }

    /// Connects to a database as `user`. The session ends when the client is dropped.
    pub async fn try_client(&self, user: &str, db: &str) -> Result<Client, tokio_postgres::Error> {
        connect(&self.url(user, db)).await
    }

    pub async fn client(&self, user: &str, db: &str) -> Client {
        match self.try_client(user, db).await {
            Ok(client) => client,
            Err(error) => panic!("{}: {}\n{}", self.url(user, db), describe(&error), self.log()),
        }
    }

    /// Connects as the superuser `postgres`.
    pub async fn superuser(&self, db: &str) -> Client {
        self.client("postgres", db).await
    }

    /// Runs statements, separated by semicolons, in a new session.
    pub async fn sql(&self, user: &str, db: &str, statements: &str) {
        if let Err(error) = self.client(user, db).await.batch_execute(statements).await {
            panic!("{statements}\n{}", describe(&error));
        }
    }

    /// Runs a query in a new session and returns its single value.
    pub async fn value<T: FromSqlOwned>(&self, user: &str, db: &str, query: &str) -> T {
        let answer = self.client(user, db).await.query_one(query, &[]).await.and_then(|row| row.try_get(0));
        answer.unwrap_or_else(|error| panic!("{query}\n{}", describe(&error)))
    }
}

/// Connects without TLS to any URL. The session ends when the client is dropped.
pub async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // If the connection fails, the client reports the error to the caller.
    tokio::spawn(connection);
    Ok(client)
}

/// Describes an error together with its sources. The driver's own text is only "db error", because
/// the server's message is in the source.
pub fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

impl From<tokio_postgres::Error> for SetupError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self(describe(&error))
    }
}
