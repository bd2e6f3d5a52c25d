//! Connects `measure`, `control` and `admit` in a loop. The regulator polls the signals, passes the
//! readings to the controller, and publishes the readings and the verdict as one snapshot to the
//! gates, the log and the database. Each database has one regulator.

use std::sync::Arc;

use deadpool_postgres::Pool;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::throttle::control::circumstances::Circumstances;
use crate::throttle::control::controller::Controller;
use crate::throttle::measure::poller::{Poller, interval};
use crate::throttle::measure::readings::Readings;
use crate::throttle::publisher::Publisher;
use crate::throttle::snapshot::Snapshot;
use crate::throttle::transition_log::{OutageLog, TransitionLog};

#[derive(Debug)]
pub struct Regulator {
    poller: Poller,
    controller: Controller,
    snapshots: watch::Sender<Arc<Snapshot>>,
    publisher: Publisher,
    working: watch::Receiver<bool>,
    transitions: TransitionLog,
    outages: OutageLog,
}

impl Regulator {
    /// Creates the regulator. `worker` identifies this daemon among the daemons on the database.
    /// `working` is true while this daemon holds a slice.
    pub fn new(
        worker: Uuid,
        poller: Poller,
        pool: Pool,
        working: watch::Receiver<bool>,
        snapshots: watch::Sender<Arc<Snapshot>>,
    ) -> Self {
        Self {
            poller,
            controller: Controller::default(),
            snapshots,
            publisher: Publisher::new(pool, worker),
            working,
            transitions: TransitionLog::new(),
            outages: OutageLog::new("read the signals"),
        }
    }

    /// Runs forever. The future may be dropped at any time.
    pub async fn run(self) {
        let loops = self.poller.loops();
        tokio::join!(self.regulate(), loops);
    }

    async fn regulate(mut self) {
        self.poller.first_answers().await;
        loop {
            let started = Instant::now();
            let before = self.snapshots.borrow().clone();
            let was_holding = before.is_holding(started);
            let snapshot = Arc::new(self.next(&before).await);
            self.transitions.observe(&before, &snapshot);
            self.snapshots.send_replace(snapshot.clone());
            let changed = snapshot.is_holding(Instant::now()) != was_holding;
            let working = *self.working.borrow();
            self.publisher.publish_if_due(&snapshot, self.transitions.over(), working, changed).await;
            self.rest(started).await;
        }
    }

    async fn next(&mut self, before: &Snapshot) -> Snapshot {
        let polled = self.poller.poll().await;
        self.outages.observe(&polled);
        match polled {
            Ok(readings) => {
                let circumstances = Circumstances {
                    now: readings.sampled_at.unwrap_or_else(Instant::now),
                    working: *self.working.borrow(),
                    other_daemons: self.publisher.other_daemons(),
                };
                let verdict = self.controller.steer(&readings, &circumstances);
                Snapshot { readings, verdict }
            }
            // The old readings are kept. Once they are too old (stale), they hold jobs.
            Err(error) => Snapshot {
                readings: Readings { failure: Some(error.message), ..before.readings.clone() },
                verdict: before.verdict.clone(),
            },
        }
    }

    /// Waits until the next poll is due. Returns early if this daemon claims its first slice or
    /// releases its last one.
    async fn rest(&mut self, started: Instant) {
        let interval = interval(*self.working.borrow_and_update());
        tokio::select! {
            Ok(()) = self.working.changed() => {}
            () = tokio::time::sleep_until(started + interval) => {}
        }
    }
}
