//! Measures the lag of a standby independently of the daemon, from a history of the primary's WAL
//! positions.

use std::collections::VecDeque;
use std::time::Duration;

use backfilld_testbed::cluster::Cluster;
use backfilld_testbed::standby::Standby;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

const EACH: Duration = Duration::from_millis(20);
const WRITTEN: &str = "select (pg_current_wal_lsn() - '0/0')::float8";
const REPLAYED: &str = "select (pg_last_wal_replay_lsn() - '0/0')::float8";

/// Measures the lag until the measurement is stopped.
pub struct Watch {
    stop: CancellationToken,
    polling: JoinHandle<Vec<(Instant, f64)>>,
}

impl Watch {
    pub async fn start(primary: &Cluster, standby: &Standby) -> Self {
        let (primary, standby) =
            (session(primary.superuser("app").await).await, session(standby.superuser("app").await).await);
        let stop = CancellationToken::new();
        let polling = tokio::spawn(poll(primary, standby, stop.clone()));
        Self { stop, polling }
    }

    /// Stops the measurement. Returns the lag, in seconds, of each sample since `begun`.
    pub async fn stop_since(self, begun: Instant) -> Vec<f64> {
        self.stop.cancel();
        let lags = self.polling.await.unwrap();
        lags.into_iter().filter(|(at, _)| *at >= begun).map(|(_, lag)| lag).collect()
    }
}

/// Gives the session an application name, so that the daemon does not count the session as other
/// load. Other load would slow the job down.
async fn session(client: Client) -> Client {
    client.batch_execute("set application_name = 'backfilld bench'").await.unwrap();
    client
}

async fn poll(primary: Client, standby: Client, stop: CancellationToken) -> Vec<(Instant, f64)> {
    let (written, replayed) = (primary.prepare(WRITTEN).await.unwrap(), standby.prepare(REPLAYED).await.unwrap());
    let mut ticks = tokio::time::interval(EACH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut history, mut lags) = (VecDeque::new(), Vec::new());
    while !stop.is_cancelled() {
        ticks.tick().await;
        let at = Instant::now();
        let lsn: f64 = primary.query_one(&written, &[]).await.unwrap().get(0);
        history.push_back((at, lsn));
        let here: f64 = standby.query_one(&replayed, &[]).await.unwrap().get(0);
        while history.front().is_some_and(|(_, lsn)| *lsn <= here) {
            history.pop_front();
        }
        // At the time `then`, the primary had written WAL up to this position. The standby has not
        // yet replayed WAL up to it.
        let lag = history.front().map_or(0.0, |(then, _)| at.saturating_duration_since(*then).as_secs_f64());
        lags.push((at, lag));
    }
    lags
}
