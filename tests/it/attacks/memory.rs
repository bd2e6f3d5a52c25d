//! A function of a job raises an exception with a huge text, or the server announces a huge message
//! before the login. The daemon stays below the memory limit of the shipped manifests (128 MiB).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::Scene;
use crate::support::{BACKFILLD, SOON, run, until_true, value};

/// The memory limit in deploy/kubernetes/base and in the compose file.
pub(super) const LIMIT_MIB: u64 = 128;

/// Returns the highest memory use of a process so far, in MiB.
pub(super) fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_exception_becomes_a_clipped_error_of_its_row() {
    let scene = Scene::set().await;
    scene.table("t", 4).await;
    let code = "set role e;
      create function big(n int) returns int language plpgsql as $$ begin
        if n = 1 then raise exception '%', repeat('x', 16 * 1024 * 1024) using detail = repeat('y', 16 * 1024 * 1024), hint = repeat('z', 16 * 1024 * 1024); end if;
        raise notice '%', repeat('n', 16 * 1024 * 1024);
        return n;
      end $$";
    scene.cluster.sql("mallory", "app", code).await;
    // The time limits of a batch and of a single row must be long enough for the huge texts even on
    // a busy machine.
    scene.cluster.sql("postgres", "app", "alter system set deadlock_timeout = '10s'").await;
    scene.cluster.sql("postgres", "app", "select pg_reload_conf()").await;
    let daemon = scene.start_daemon().await;
    let enqueue =
        r#"select backfill.enqueue('t', 't', 'a = big(id)', run_as => 'e', options => '{"max_row_ms": 60000}')"#;
    run(&scene.client("mallory").await, enqueue).await;
    let olga = scene.client("olga").await;
    until_true(&olga, SOON * 3, "select state = 'failed' from backfill.jobs").await;
    let kept = "select string_agg(key::text || left(message, 3) || (length(message) between 100 and 8300)::text, ',') from backfill.row_errors";
    assert_eq!(value::<String>(&olga, kept).await, r#"{"id": 1}xxxtrue"#);
    assert_eq!(value::<i64>(&scene.as_e().await, "select count(*) from t where a = id").await, 3);
    assert!(daemon.output().len() < 1024 * 1024, "the log has {} bytes", daemon.output().len());
    let peak = peak(daemon.pid());
    assert!(peak < LIMIT_MIB, "{peak} MiB");
}

/// The server is not PostgreSQL. It answers the login with a message of almost 2 GiB, and sends the
/// message as fast as the daemon reads it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_sends_without_end_before_the_login_costs_no_memory() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&sent);
    let server = tokio::spawn(async move {
        for tag in b"ERSNKZD".iter().cycle() {
            let (mut stream, _) = listener.accept().await.unwrap();
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut startup = [0; 1024];
                let _ = stream.read(&mut startup).await;
                let _ = stream.write_all(&[*tag, 0x7f, 0xff, 0xff, 0xff, b'M']).await;
                let junk = vec![b'x'; 1024 * 1024];
                while stream.write_all(&junk).await.is_ok() {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let url = format!("postgres://a:b@127.0.0.1:{port}/app?sslmode=disable&connect_timeout=2");
    let daemon = Daemon::builder(BACKFILLD, &url).start();
    wait::until(SOON, "the daemon has read 256 MiB", async || sent.load(Ordering::Relaxed) > 256).await;
    let peak = peak(daemon.pid());
    assert!(peak < LIMIT_MIB, "{peak} MiB");
    server.abort();
}
