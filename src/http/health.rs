//! The state that the probes report. The daemon's loops update this state. A probe does not query
//! the database.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

/// A loop counts as stuck if it has started no iteration for this time. A healthy loop starts at
/// least one iteration per second. If the database does not respond, the time limits of the
/// statements end the iteration.
const STUCK: Duration = Duration::from_secs(30);

/// The state that the daemon's loops and the probes share.
pub struct Health {
    started: Instant,
    pulses: Mutex<Vec<Weak<Beat>>>,
    /// Maps the name of each database to the reason why it is not ready, or to none if it is ready.
    databases: Mutex<BTreeMap<String, Option<String>>>,
    draining: AtomicBool,
}

/// The heartbeat of one loop. The loop calls [`Pulse::beat`] in each iteration, and drops the
/// `Pulse` when it ends. Otherwise a loop that ended normally would count as stuck.
pub struct Pulse {
    health: Arc<Health>,
    beat: Arc<Beat>,
}

struct Beat {
    name: String,
    /// Milliseconds from the start of the daemon to the last beat.
    last: AtomicU64,
}

impl Pulse {
    pub fn beat(&self) {
        self.beat.last.store(self.health.now(), Ordering::Relaxed);
    }
}

impl Health {
    /// Creates the state. Initially, no database is ready.
    pub fn new<'a>(databases: impl IntoIterator<Item = &'a str>) -> Arc<Self> {
        let waiting = |name: &str| (name.to_owned(), Some("not connected yet".to_owned()));
        Arc::new(Self {
            started: Instant::now(),
            pulses: Mutex::default(),
            databases: Mutex::new(databases.into_iter().map(waiting).collect()),
            draining: AtomicBool::new(false),
        })
    }

    /// Starts to monitor a loop. `/livez` reports the loop as `name`.
    pub fn pulse(self: &Arc<Self>, name: impl Into<String>) -> Pulse {
        let beat = Arc::new(Beat { name: name.into(), last: AtomicU64::new(self.now()) });
        let mut pulses = lock(&self.pulses);
        pulses.retain(|pulse| pulse.strong_count() > 0);
        pulses.push(Arc::downgrade(&beat));
        Pulse { health: Arc::clone(self), beat }
    }

    /// Marks the database as ready: it is reachable and its schema is compatible. The database is
    /// also ready while its jobs are paused or throttled.
    pub fn ready_now(&self, database: &str) {
        lock(&self.databases).insert(database.to_owned(), None);
    }

    /// Marks the database as not ready. `/readyz` shows the reason only to clients that may see the
    /// status page, because the reason can contain text from the server.
    pub fn not_ready(&self, database: &str, reason: impl Into<String>) {
        lock(&self.databases).insert(database.to_owned(), Some(reason.into()));
    }

    /// Removes a database that the daemon no longer serves.
    pub fn forget(&self, database: &str) {
        lock(&self.databases).remove(database);
    }

    /// Marks the daemon as draining. A draining daemon is live but not ready.
    pub fn draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Returns an error that names each stuck loop and the time since its last beat. Ok if no loop
    /// is stuck.
    pub fn live(&self) -> Result<(), String> {
        let now = self.now();
        let stuck: Vec<String> = lock(&self.pulses)
            .iter()
            .filter_map(Weak::upgrade)
            .filter_map(|beat| {
                let silent = Duration::from_millis(now.saturating_sub(beat.last.load(Ordering::Relaxed)));
                (silent >= STUCK).then(|| format!("{} has made no progress for {} s", beat.name, silent.as_secs()))
            })
            .collect();
        if stuck.is_empty() { Ok(()) } else { Err(stuck.join("\n")) }
    }

    /// Returns an error that names each database that is not ready, with the reason if `detailed`
    /// is set. While the daemon drains, the error is `draining`.
    pub fn ready(&self, detailed: bool) -> Result<(), String> {
        if self.is_draining() {
            return Err("draining".to_owned());
        }
        let reasons: Vec<String> = lock(&self.databases)
            .iter()
            .filter_map(|(name, reason)| {
                let reason = reason.as_ref()?;
                let shown = if detailed { reason } else { "not ready; the log of the daemon contains the reason" };
                Some(format!("{name}: {shown}"))
            })
            .collect();
        if reasons.is_empty() { Ok(()) } else { Err(reasons.join("\n")) }
    }

    /// Returns each database, with the reason if the database is not ready.
    pub fn databases(&self) -> BTreeMap<String, Option<String>> {
        lock(&self.databases).clone()
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_stuck_loop_among_many_is_seen() {
        let health = Health::new(["main"]);
        let (queue, sampler) = (health.pulse("queue of main"), health.pulse("sampler of main"));
        tokio::time::advance(Duration::from_secs(20)).await;
        queue.beat();
        assert_eq!(health.live(), Ok(()));
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(health.live(), Err("sampler of main has made no progress for 35 s".to_owned()));
        drop(sampler);
        assert_eq!(health.live(), Ok(()), "a loop that ended does not count as stuck");
    }

    #[tokio::test]
    async fn every_database_must_be_ready() {
        let health = Health::new(["a", "b"]);
        assert_eq!(health.ready(true), Err("a: not connected yet\nb: not connected yet".to_owned()));
        health.ready_now("a");
        health.not_ready("b", "schema backfill is missing");
        assert_eq!(health.ready(true), Err("b: schema backfill is missing".to_owned()));
        let hidden = health.ready(false).unwrap_err();
        assert!(hidden.starts_with("b: not ready") && !hidden.contains("schema"), "{hidden}");
        health.ready_now("b");
        assert_eq!(health.ready(true), Ok(()));
        health.draining();
        assert_eq!(health.ready(true), Err("draining".to_owned()));
    }
}
