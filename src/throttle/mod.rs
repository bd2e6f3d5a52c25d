//! The throttle: as fast as the replicas allow, and no faster.
//!
//! ```text
//! standby ────┐           signals/*, vacuum ─┐
//! walsender ──┴> replica_lag ──────────> sampler ──> reading ──> controller ──> gate <── worker: admit, settle
//! (SQL)         (rule, history)         (loop)      (age)       (pure law)     (pacer: governor)
//! ```
//!
//! One [`Throttle`] for each database. Its sampler looks at the signals, off the hot path, and publishes readings;
//! each slice that is being walked has a [`Gate`] which asks the controller before a batch and pays for it after.
//! To add a signal: a file in `signals/`, a name in `reading.rs`, a line in `signals/registry.rs`. To change the law:
//! `controller.rs`, which knows neither the database nor the clock.

mod allowed;
mod batches;
pub mod controller;
mod debts;
pub mod gate;
mod pacer;
pub mod reading;
mod sampler;
pub mod signals;
pub mod vacuum;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadpool_postgres::Pool;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::allowed::Allowed;
use self::batches::Batches;
use self::debts::Debts;
use self::gate::Gate;
use self::reading::{Readings, Reason};
use self::sampler::Sampler;
use self::signals::Signals;
use self::signals::replica_lag::standby::Standby;
use crate::config::{ReplicaRule, SignalRule};

/// The throttle of one database; a clone is the same throttle.
#[derive(Debug, Clone)]
pub struct Throttle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    database: String,
    rules: Vec<ReplicaRule>,
    signals: Signals,
    batches: Batches,
    allowed: Allowed,
    debts: Debts,
    readings: watch::Sender<Arc<Readings>>,
    /// Microseconds for each reason: a counter takes whole seconds only.
    held: [AtomicU64; Reason::ALL.len()],
}

impl Throttle {
    /// `database` is the name in the configuration, for labels. Replicas that no rule matches have default limits, and so have
    /// built-in signals that none of `signals` names.
    pub fn new(database: String, rules: Vec<ReplicaRule>, signals: &[SignalRule]) -> Self {
        let (readings, _) = watch::channel(Arc::default());
        let batches = Batches::default();
        let signals = Signals::of_rules(signals, &batches);
        let allowed = Allowed::default();
        Self {
            shared: Arc::new(Shared {
                database,
                rules,
                signals,
                batches,
                allowed,
                debts: Debts::default(),
                readings,
                held: Default::default(),
            }),
        }
    }

    /// A gate for one slice of the job, which pays what an earlier one still owes. It lets nothing through until the
    /// sampler has heard from the database.
    pub fn gate(&self, job_id: i64) -> Gate {
        Gate::new(self.clone(), job_id, self.shared.readings.subscribe())
    }

    /// The last readings.
    pub fn readings(&self) -> Arc<Readings> {
        self.shared.readings.borrow().clone()
    }

    /// Rows a second that all slices at work are allowed together; none while one of them has no limit.
    pub fn rows_per_second(&self) -> Option<f64> {
        self.shared.allowed.rows_per_second()
    }

    /// Samples until `stop`; to be spawned once. `worker` is the daemon among others on this database. `working` says whether any slice is being walked: then it looks
    /// more often. The pool should have a connection to spare for it, else it is deaf while the pool is drained, and
    /// the work holds.
    pub fn sampler(
        &self,
        pool: Pool,
        worker: Uuid,
        working: watch::Receiver<bool>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let standbys = Standby::of_rules(self.database(), &self.shared.rules);
        let asking = standbys.iter().map(|standby| standby.clone().keep_asking(working.clone(), sampler::interval));
        let asking = join_all(asking.collect::<Vec<_>>());
        let signals = self.shared.signals.clone();
        let signals = signals.keep_reading(self.shared.database.clone(), pool.clone(), working.clone());
        let sampler = Sampler::new(self.clone(), worker, self.shared.rules.clone(), standbys, pool, working);
        async move {
            // Stopping drops at most a query that changes nothing.
            let _ = stop.run_until_cancelled(async { tokio::join!(sampler.run(), asking, signals) }).await;
        }
    }

    fn database(&self) -> &str {
        &self.shared.database
    }

    fn publish(&self, readings: Readings) {
        self.shared.readings.send_replace(Arc::new(readings));
    }

    /// Time in which a slice could have worked and was not let; of several slices each counts.
    fn count_hold(&self, reason: Reason, held: Duration) {
        let add = u64::try_from(held.as_micros()).unwrap_or(u64::MAX);
        let micros = self.shared.held[reason as usize].fetch_add(add, Ordering::Relaxed) + add;
        let labels = [("database", self.shared.database.clone()), ("reason", reason.as_str().to_owned())];
        metrics::counter!("backfilld_hold_seconds_total", &labels).absolute(micros / 1_000_000);
    }
}
