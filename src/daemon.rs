//! Starts, supervises and stops the long-lived tasks: one HTTP server, and for each database the
//! workers and their helper tasks (heartbeat, listener, retention, throttle, status page, guard).

mod database;
mod databases;
mod gauges;
mod growth;
pub mod options;
mod reload;

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::database::{Ended, Surroundings};
use self::databases::Databases;
use self::options::Options;
use self::reload::{Reloading, log_warnings};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::http::access::Access;
use crate::http::health::Health;
use crate::http::pages::Pages;
use crate::http::server;
use crate::http::status::board::Board;
use crate::metrics::handle;
use crate::shutdown::Shutdown;

/// Runs the daemon until it receives SIGTERM or SIGINT. With `until_idle`, the daemon also ends
/// when no job can run. SIGHUP reloads the configuration. Returns the exit code:
///
/// - 0 if the daemon was drained or all work is done,
/// - 1 with `until_idle` if a job failed,
/// - 3 with `until_idle` if no job failed but at least one job still waits.
///
/// # Errors
/// Problems that a retry does not solve, for example an invalid configuration, a schema that this
/// binary does not support, or a missing privilege. With `until_idle`, also a database that cannot
/// be reached in four attempts.
pub async fn run(config: Config, options: Options) -> Result<u8> {
    failpoint::init()?;
    log_warnings(&config);
    let (grace, its_grace) = watch::channel(config.shutdown.grace);
    let shutdown = Shutdown::on_signals(its_grace)?;
    let mut hangups = signal(SignalKind::hangup())
        .map_err(|error| Error::new(Kind::Internal, format!("could not install the SIGHUP handler: {error}")))?;
    let metrics = handle::install()?;
    let databases = config.databases_to_run()?;
    let health = Health::new(databases.iter().map(|database| database.name.as_str()));
    let edges = CancellationToken::new();
    let upkeep = metrics.spawn_upkeep(edges.clone());
    let board = Board::default();
    let (reloads, is_reloaded) = watch::channel(());
    let pages = Pages::new(Access::read(&config.http)?, Arc::clone(&health), metrics.clone(), board.clone());
    let (address, serving) = server::serve(config.http.listen, pages.clone(), edges.clone()).await?;
    tracing::info!(http.address = %address, version = env!("CARGO_PKG_VERSION"), "backfilld started");

    let announce = tokio::spawn({
        let (drain, health) = (shutdown.drain.clone(), Arc::clone(&health));
        async move {
            drain.cancelled().await;
            tracing::info!("draining: finishing the batches in flight, then releasing leases");
            health.draining();
        }
    });
    let surroundings = Surroundings { options, health, metrics, board, reloads: is_reloaded };
    let databases = Databases::start(&config, surroundings, shutdown.clone())?;
    let mut reloading = Reloading { config, databases, pages, address, grace, reloads };
    let mut code = 0;
    let mut failure = None;
    loop {
        let ended = tokio::select! {
            ended = reloading.databases.next_end() => ended,
            Some(()) = hangups.recv(), if !shutdown.drain.is_cancelled() => {
                shutdown.drain.run_until_cancelled(reloading.reload()).await;
                continue;
            }
        };
        match ended {
            None => break,
            Some(Ok(Ended::Drained)) => {}
            Some(Ok(Ended::Idle { failed, waiting })) => {
                code = if failed > 0 || code == 1 {
                    1
                } else if waiting > 0 {
                    3
                } else {
                    code
                };
            }
            Some(Err(error)) => {
                // The daemon cannot serve this database, for example because its configuration is
                // invalid. A daemon that continued with the other databases would hide the error,
                // so the daemon stops.
                shutdown.start();
                failure = failure.or(Some(error));
            }
        }
    }
    announce.abort();
    edges.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(2), async { tokio::join!(serving, upkeep) }).await;
    failure.map_or(Ok(code), Err)
}
