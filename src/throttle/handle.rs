//! The throttle of one database, as the rest of the daemon sees it.

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

/// The throttle of one database; a clone is the same throttle.
#[derive(Debug, Clone)]
pub struct Throttle {
    rules: Vec<ReplicaRule>,
    monitoring: Monitoring,
    gates: Gates,
    snapshots: watch::Sender<Arc<Snapshot>>,
}

impl Throttle {
    /// `database` is the name in the configuration, for labels. Replicas that no rule matches have
    /// default limits, and so have built-in signals that none of `signals` names.
    pub fn new(database: String, rules: Vec<ReplicaRule>, signals: &[SignalRule]) -> Self {
        let gates = Gates::new(database);
        let monitoring = Monitoring::of_rules(signals, gates.in_flight());
        Self { rules, monitoring, gates, snapshots: watch::Sender::default() }
    }

    /// A gate for one slice of the job, which pays what an earlier slice still owes. It lets no
    /// batch start until the database has been polled.
    pub fn gate(&self, job_id: i64) -> Gate {
        self.gates.open(job_id, self.snapshots.subscribe())
    }

    /// The last snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// Rows per second that all slices at work may change together; none while one of them has no
    /// limit.
    pub fn rows_per_second(&self) -> Option<f64> {
        self.gates.rows_per_second()
    }

    /// Polls, steers and publishes until `stop`; to be spawned once. `worker` is this daemon among
    /// others on the database. `working` says whether any slice is being walked: then it polls more
    /// often. The pool should have a connection to spare for it: while the pool is drained nothing
    /// can be polled, and the work holds.
    pub fn run(
        &self,
        pool: Pool,
        worker: Uuid,
        working: watch::Receiver<bool>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static + use<> {
        let monitoring = self.monitoring.clone();
        let poller = Poller::new(&self.rules, monitoring, pool.clone(), working.clone());
        let regulator = Regulator::new(worker, poller, pool, working, self.snapshots.clone());
        async move {
            // Stopping drops at most a query that changes nothing.
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

    /// A server that accepts connections and never answers, or none at all.
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
        let task = tokio::spawn(throttle.run(pool, Uuid::nil(), working, stop.clone()));
        snapshots.changed().await.expect("published");
        stop.cancel();
        task.await.expect("stops");
        let failure = throttle.snapshot().readings.failure.clone().expect("failure");
        (throttle, failure)
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_or_does_not_answer_holds_with_the_cause() {
        let (throttle, failure) = first_failure(false).await;
        assert!(failure.contains("refused"), "{failure}");
        let Decision::Hold(waiting) = throttle.snapshot().decide(Instant::now()) else { panic!("went on") };
        assert!(waiting.text.starts_with("replica lag has not been read yet: "), "{waiting:?}");

        let (_, failure) = first_failure(true).await;
        assert_eq!(failure, "no connection within 2 s");
    }
}
