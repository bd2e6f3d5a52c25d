//! Polls the primary for replica lag and autovacuum. Also collects the last results of the other
//! signals, and of the replicas that the daemon queries directly.

use std::time::Duration;

use deadpool_postgres::Pool;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::replica::ReplicaRule;
use crate::error::Result;
use crate::throttle::measure::ask::ask;
use crate::throttle::measure::autovacuum::{self, Vacuums};
use crate::throttle::measure::monitoring::Monitoring;
use crate::throttle::measure::readings::Readings;
use crate::throttle::measure::replica_lag::replicas::ReplicaLag;
use crate::throttle::measure::replica_lag::standby::{LastAnswer, Standby};
use crate::throttle::measure::replica_lag::walsender;

const INTERVAL_WORKING: Duration = Duration::from_millis(200);
const INTERVAL_AT_REST: Duration = Duration::from_secs(1);

/// Returns the time from one poll to the next.
pub fn interval(working: bool) -> Duration {
    if working { INTERVAL_WORKING } else { INTERVAL_AT_REST }
}

#[derive(Debug)]
pub struct Poller {
    pool: Pool,
    working: watch::Receiver<bool>,
    /// Marked as changed after each reload of the configuration.
    reloads: watch::Receiver<()>,
    /// Replicas that the daemon queries directly.
    standbys: Vec<Standby>,
    replica_lag: ReplicaLag,
    monitoring: Monitoring,
    vacuums: Vacuums,
    vacuums_at: Option<Instant>,
}

impl Poller {
    pub fn new(
        rules: &[ReplicaRule],
        monitoring: Monitoring,
        pool: Pool,
        working: watch::Receiver<bool>,
        reloads: watch::Receiver<()>,
    ) -> Self {
        Self {
            standbys: Standby::of_rules(rules),
            pool,
            working,
            reloads,
            replica_lag: ReplicaLag::new(rules.to_vec()),
            monitoring,
            vacuums: Vacuums::default(),
            vacuums_at: None,
        }
    }

    /// Returns the loops that query replicas directly and poll the signals other than replica lag.
    /// [`Poller::poll`] only collects their last results. The loops must run concurrently with
    /// `poll`, and they never end.
    pub fn loops(&self) -> impl Future<Output = ()> + Send + use<> {
        let asking = self.standbys.iter().map(|standby| standby.clone().keep_asking(self.working.clone(), interval));
        let asking = join_all(asking.collect::<Vec<_>>());
        let monitoring = self.monitoring.clone().run(self.pool.clone(), self.working.clone());
        async {
            tokio::join!(asking, monitoring);
        }
    }

    /// Waits at most 2 s for the first result from each replica that the daemon queries directly.
    /// Without this wait, a replica that is about to respond would at first be reported as
    /// unreadable.
    pub async fn first_answers(&self) {
        join_all(self.standbys.iter().map(Standby::first_answer)).await;
    }

    /// Returns all present readings.
    ///
    /// # Errors
    /// Returns an error if the primary cannot be polled.
    pub async fn poll(&mut self) -> Result<Readings> {
        self.poll_autovacuum().await;
        let answers: Vec<LastAnswer> = self.standbys.iter().map(Standby::last_answer).collect();
        let primary = ask(&self.pool, async |client| walsender::poll(client).await).await?;
        let mut list = self.replica_lag.observe(&primary, &answers);
        if self.reloads.has_changed().unwrap_or(false) {
            self.reloads.mark_unchanged();
            self.replica_lag.forget_lost();
        }
        list.extend(self.monitoring.readings(primary.at, *self.working.borrow()));
        Ok(Readings {
            sampled_at: Some(primary.at),
            failure: None,
            list,
            vacuums: self.vacuums.clone(),
            unread: self.monitoring.unread(),
            lost_replicas: self.replica_lag.lost(primary.at),
        })
    }

    /// Polls autovacuum if a job runs and the poll is due. If the poll fails, batches do not wait
    /// for autovacuum.
    async fn poll_autovacuum(&mut self) {
        let now = Instant::now();
        let due = self.vacuums_at.is_none_or(|at| now - at >= autovacuum::POLL_INTERVAL);
        if !due || !*self.working.borrow() {
            return;
        }
        self.vacuums_at = Some(now);
        let relations = ask(&self.pool, async |client| autovacuum::poll(client).await).await;
        self.vacuums = self.vacuums.observe(now, &relations.unwrap_or_default());
    }
}
