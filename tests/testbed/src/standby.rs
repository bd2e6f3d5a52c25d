//! A streaming standby.

use crate::SetupError;
use crate::process;
use crate::server::{Mode, Server, connect, describe};
use crate::template;
use crate::wait;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// A standby that streams from a primary and accepts reads. The standby is removed on drop.
#[derive(Debug)]
pub struct Standby {
    server: Server,
    primary_url: String,
}

impl Standby {
    /// Starts a standby with the `application_name` `standby`.
    pub async fn of(primary: &Server) -> Self {
        Self::named(primary, "standby").await
    }

    /// Starts a standby with this `application_name`.
    pub async fn named(primary: &Server, name: &str) -> Self {
        match Self::try_named(primary, name).await {
            Ok(standby) => standby,
            Err(error) => panic!("{error}"),
        }
    }

    pub async fn try_named(primary: &Server, name: &str) -> Result<Self, SetupError> {
        let server = Server::new("standby", primary.options.clone())?;
        copy_running(primary, &server).await?;
        // This code does not use `pg_basebackup -R`, because newer versions of it write parameters
        // that older servers reject.
        let source = format!("host=127.0.0.1 port={} user=postgres application_name={name}", primary.port());
        server.write_conf(&[("primary_conninfo", source)])?;
        server.write_file("standby.signal", "")?;
        server.try_start().await?;
        // The standby accepts reads before it streams. Without this wait, a test that reads
        // pg_stat_replication on the primary may not find the standby.
        let streams =
            format!("select from pg_stat_replication where application_name = '{name}' and state = 'streaming'");
        let session = primary.superuser("postgres").await;
        wait::until(Duration::from_secs(60), format!("{name} streams"), async || {
            session.query_opt(&streams, &[]).await.is_ok_and(|row| row.is_some())
        })
        .await;
        Ok(Self { server, primary_url: primary.url("postgres", "postgres") })
    }

    /// Waits until all commits that the primary has acknowledged so far, including asynchronous
    /// ones, are visible on the standby.
    pub async fn wait_caught_up(&self, timeout: Duration) {
        let primary = connect(&self.primary_url).await.unwrap_or_else(|error| panic!("primary: {}", describe(&error)));
        let failed = |error| panic!("primary: {}", describe(&error));
        // A synchronous commit also flushes the earlier asynchronous commits. The setting is
        // `local`, because this standby may be the one that a synchronous commit waits for.
        primary.batch_execute("set synchronous_commit = local").await.unwrap_or_else(failed);
        primary.batch_execute("select pg_logical_emit_message(true, 'testbed', '')").await.unwrap_or_else(failed);
        let lsn = primary.query_one("select pg_current_wal_flush_lsn()::text", &[]).await;
        let lsn: String = lsn.unwrap_or_else(|error| panic!("primary: {}", describe(&error))).get(0);
        let here = self.superuser("postgres").await;
        wait::until_ok(timeout, format!("the standby has replayed {lsn}"), async || {
            let query = "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn, pg_last_wal_replay_lsn()::text";
            let row = here.query_one(query, &[&lsn]).await.map_err(|error| describe(&error))?;
            if row.get(0) { Ok(()) } else { Err(row.get::<_, String>(1)) }
        })
        .await;
    }

    /// Promotes the standby to a primary, and waits until it accepts writes.
    pub async fn promote(&self) {
        // With `wait => true`, pg_promote waits for at most 60 s and then returns false. The loop
        // below waits instead, and panics after its timeout.
        self.sql("postgres", "postgres", "select pg_promote(wait => false)").await;
        wait::until(Duration::from_secs(60), "the standby is promoted", async || {
            !self.value::<bool>("postgres", "postgres", "select pg_is_in_recovery()").await
        })
        .await;
    }

    /// Pauses replay and waits until it is paused. The standby still receives WAL.
    pub async fn pause_replay(&self) {
        self.sql("postgres", "postgres", "select pg_wal_replay_pause()").await;
        wait::until(Duration::from_secs(30), "replay is paused", async || {
            self.value::<String>("postgres", "postgres", "select pg_get_wal_replay_pause_state()").await == "paused"
        })
        .await;
    }

    pub async fn resume_replay(&self) {
        self.sql("postgres", "postgres", "select pg_wal_replay_resume()").await;
    }

    /// Lets replay run only for the share `duty` (0 to 1) of each 100 ms, until the guard is
    /// dropped.
    pub async fn slow_replay(&self, duty: f64) -> SlowReplay {
        const TURN: Duration = Duration::from_millis(100);
        let query = "select pid from pg_stat_activity where backend_type = 'startup'";
        let startup = Startup {
            pid: self.value::<i32>("postgres", "postgres", query).await.cast_unsigned(),
            data_dir: self.data_dir(),
        };
        let run = TURN.mul_f64(duty.clamp(0.0, 1.0));
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        // This is a thread, because a task would send the signals late while the test's runtime is
        // busy.
        let thread = std::thread::spawn(move || {
            let pause = |time| stopped.recv_timeout(time) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
            let turn = |name, time: Duration| time.is_zero() || startup.signal(name) && pause(time);
            while turn("CONT", run) && turn("STOP", TURN - run) {}
            startup.signal("CONT");
        });
        SlowReplay { stop: Some(stop), thread: Some(thread) }
    }

    /// Stops the standby. If replay is slowed, drop the guard first.
    pub async fn stop(&self, mode: Mode) {
        self.server.stop(mode).await;
    }
}

impl Deref for Standby {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// Guard of a slowed replay. When it is dropped, replay runs at full speed again.
#[derive(Debug)]
pub struct SlowReplay {
    stop: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for SlowReplay {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Startup {
    pid: u32,
    data_dir: PathBuf,
}

impl Startup {
    /// Sends a signal to the startup process. Returns false if that process has ended. Compares the
    /// working directory first, because another process may have received the same ID.
    fn signal(&self, name: &str) -> bool {
        let ours = process::working_dir(self.pid).is_none_or(|dir| dir == self.data_dir);
        ours && process::signal(name, &[self.pid])
    }
}

/// Copies the data directory of a running primary.
async fn copy_running(primary: &Server, standby: &Server) -> Result<(), SetupError> {
    if !primary.binaries.has("pg_basebackup") {
        return copy_by_hand(primary, standby).await;
    }
    let mut command = primary.binaries.command("pg_basebackup");
    command.args(["--host=127.0.0.1", "--username=postgres", "--checkpoint=fast", "--no-sync", "--no-manifest"]);
    command.arg(format!("--port={}", primary.port())).arg("--pgdata").arg(standby.data_dir()).current_dir("/");
    standby.run_as.apply(&mut command);
    blocking(move || template::run(&mut command).map(drop)).await
}

/// Copies the data directory with the backup functions and `cp`, because some builds of PostgreSQL
/// have no client programs.
async fn copy_by_hand(primary: &Server, standby: &Server) -> Result<(), SetupError> {
    let sql = |error: tokio_postgres::Error| SetupError(format!("base backup: {}", describe(&error)));
    // Both functions must be called in one session. Version 15 changed their names.
    let session = primary.try_client("postgres", "postgres").await.map_err(sql)?;
    let (start, stop) = match primary.major() {
        14 => (
            "select pg_start_backup('testbed', true, false)::text",
            "select labelfile from pg_stop_backup(false, false)",
        ),
        _ => ("select pg_backup_start('testbed', true)::text", "select labelfile from pg_backup_stop(false)"),
    };
    session.query_one(start, &[]).await.map_err(sql)?;
    let (from, to) = (primary.data_dir(), standby.data_dir());
    let mut copy = Command::new("sh");
    // `cp` may fail because files vanish during the copy; WAL replay restores their contents. A
    // missing pg_control is reported when the standby starts.
    copy.args([
        "-c",
        "cp -a \"$1\" \"$2\" 2>/dev/null; rm -rf \"$2\"/postmaster.* \"$2\"/pg_wal/0* \"$2\"/pg_replslot/*",
        "copy",
    ]);
    copy.arg(from).arg(to).current_dir("/");
    standby.run_as.apply(&mut copy);
    blocking(move || template::run(&mut copy).map(drop)).await?;
    let label: String = session.query_one(stop, &[]).await.map_err(sql)?.get(0);
    standby.write_file("backup_label", &label)
}

async fn blocking(work: impl FnOnce() -> Result<(), SetupError> + Send + 'static) -> Result<(), SetupError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| SetupError(error.to_string()))?
}
