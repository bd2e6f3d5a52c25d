//! Gives the rest of the daemon access to one database's throttle.

use std::sync::Arc;

use deadpool_postgres::Pool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::replica::ReplicaRule;
use crate::config::signal::SignalRule;
use crate::throttle::admit::gate::{Gate, Gates};
use crate::throttle::measure::monitoring::Monitoring;
use crate::throttle::measure::poller::Poller;
use crate::throttle::regulator::Regulator;
use crate::throttle::snapshot::Snapshot;

/// The throttle of one database. All clones share the same state.
#[derive(Debug, Clone)]
pub struct Throttle {
    rules: Vec<ReplicaRule>,
    monitoring: Monitoring,
    gates: Gates,
    snapshots: watch::Sender<Arc<Snapshot>>,
}

impl Throttle {
    /// Creates the throttle. `database` is the database's name in the configuration and is used for
    /// labels. A replica that matches no rule gets the default limits. A built-in signal that
    /// `signals` does not name gets its default limit, if it has one.
    pub fn new(database: String, rules: Vec<ReplicaRule>, signals: &[SignalRule]) -> Self {
        let gates = Gates::new(database);
        let monitoring = Monitoring::of_rules(signals, gates.in_flight());
        Self { rules, monitoring, gates, snapshots: watch::Sender::default() }
    }

    /// Opens a gate for one slice of the job. The slice first pays the amount that an earlier slice
    /// of the job still owes. Unless the job's option `throttle` is off, the gate lets no batch
    /// start until the database has been polled.
    pub fn gate(&self, job_id: i64) -> Gate {
        self.gates.open(job_id, self.snapshots.subscribe())
    }

    /// Returns the snapshot that was published last.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// Returns the number of rows per second that all active slices together may change. Returns
    /// none if a slice has no limit, if the limit of a slice is not known yet, or if no slice is
    /// active.
    pub fn rows_per_second(&self) -> Option<f64> {
        self.gates.rows_per_second()
    }

    /// Polls the signals, sets the pace, and publishes readings and pace, until `stop` is
    /// cancelled. Call this function only once.
    ///
    /// - `worker` identifies this daemon among the daemons on the database.
    /// - `working` is true while this daemon holds a slice. The signals are then polled more often.
    /// - `reloads` is marked as changed after each reload of the configuration. After a reload,
    ///   lost replicas are forgotten.
    ///
    /// The task uses up to three connections of the pool. Without a connection, the task cannot
    /// poll, and batches are held as soon as the readings are stale.
    pub fn run(
        &self,
        pool: Pool,
        worker: Uuid,
        working: watch::Receiver<bool>,
        reloads: watch::Receiver<()>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static + use<> {
        let monitoring = self.monitoring.clone();
        let poller = Poller::new(&self.rules, monitoring, pool.clone(), working.clone(), reloads);
        let regulator = Regulator::new(worker, poller, pool, working, self.snapshots.clone());
        async move {
            // The task may stop while one of its queries runs. None of these queries changes rows
            // of the user's tables.
            let _ = stop.run_until_cancelled(regulator.run()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use deadpool_postgres::Manager;
    use tokio::time::Instant;
    use tokio_postgres::NoTls;

    use super::*;
    use crate::throttle::control::verdict::Decision;

    /// Returns a server that accepts connections but never responds, and a pool for this server.
    /// Without `listening`, the pool connects to port 1 instead, where no server listens.
    async fn silent(listening: bool) -> (tokio::net::TcpListener, Pool) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = if listening { listener.local_addr().expect("addr").port() } else { 1 };
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(port).user("nobody");
        let pool = Pool::builder(Manager::new(config, NoTls)).max_size(1).build().expect("pool");
        (listener, pool)
    }

    async fn first_failure(listening: bool) -> (Throttle, String) {
        let (_listener, pool) = silent(listening).await;
        let throttle = Throttle::new("main".to_owned(), vec![], &[]);
        let mut snapshots = throttle.snapshots.subscribe();
        let stop = CancellationToken::new();
        let (_working, working) = watch::channel(false);
        let (_reloads, reloads) = watch::channel(());
        let task = tokio::spawn(throttle.run(pool, Uuid::nil(), working, reloads, stop.clone()));
        snapshots.changed().await.expect("published");
        stop.cancel();
        task.await.expect("stops");
        let failure = throttle.snapshot().readings.failure.clone().expect("failure");
        (throttle, failure)
    }

    #[tokio::test]
    async fn an_absent_or_unresponsive_server_holds_jobs_with_the_cause() {
        let (throttle, failure) = first_failure(false).await;
        assert!(failure.contains("refused"), "{failure}");
        let Decision::Hold(waiting) = throttle.snapshot().decide(Instant::now()) else {
            panic!("the batch was not held")
        };
        assert!(waiting.text.starts_with("replica lag has not been read yet: "), "{waiting:?}");

        let (_, failure) = first_failure(true).await;
        assert_eq!(failure, "could not get a connection within 2 s");
    }
}
