//! What the probes know, told by the daemon's loops; the probes themselves ask nobody.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

/// A loop that was silent for this long is taken for stuck. Loops turn at least once a second, whatever the database
/// does: waiting for it is a turn like any other.
const STUCK: Duration = Duration::from_secs(30);

/// Shared by the daemon's loops and the probes.
pub struct Health {
    started: Instant,
    pulses: Mutex<Vec<Weak<Beat>>>,
    /// By database: none is ready, else why not.
    databases: Mutex<BTreeMap<String, Option<String>>>,
    draining: AtomicBool,
}

/// A loop's own pulse: [`Pulse::beat`] at each turn. Dropped with the loop, so that a loop that ended in order is not
/// taken for stuck.
pub struct Pulse {
    health: Arc<Health>,
    beat: Arc<Beat>,
}

struct Beat {
    name: String,
    /// Milliseconds since the daemon started.
    last: AtomicU64,
}

impl Pulse {
    pub fn beat(&self) {
        self.beat.last.store(self.health.now(), Ordering::Relaxed);
    }
}

impl Health {
    /// The databases start as not ready.
    pub fn new<'a>(databases: impl IntoIterator<Item = &'a str>) -> Arc<Self> {
        let waiting = |name: &str| (name.to_owned(), Some("not connected yet".to_owned()));
        Arc::new(Self {
            started: Instant::now(),
            pulses: Mutex::default(),
            databases: Mutex::new(databases.into_iter().map(waiting).collect()),
            draining: AtomicBool::new(false),
        })
    }

    /// Watch a loop from now on; `name` is what `/livez` calls it.
    pub fn pulse(self: &Arc<Self>, name: impl Into<String>) -> Pulse {
        let beat = Arc::new(Beat { name: name.into(), last: AtomicU64::new(self.now()) });
        let mut pulses = lock(&self.pulses);
        pulses.retain(|pulse| pulse.strong_count() > 0);
        pulses.push(Arc::downgrade(&beat));
        Pulse { health: Arc::clone(self), beat }
    }

    /// The database is reachable and its schema is right. Paused and throttled are ready.
    pub fn ready_now(&self, database: &str) {
        lock(&self.databases).insert(database.to_owned(), None);
    }

    /// Why the database is not ready, in a sentence without secrets: `/readyz` shows it to anyone.
    pub fn not_ready(&self, database: &str, reason: impl Into<String>) {
        lock(&self.databases).insert(database.to_owned(), Some(reason.into()));
    }

    /// The daemon works in this database no longer.
    pub fn forget(&self, database: &str) {
        lock(&self.databases).remove(database);
    }

    /// The daemon stops: not ready any more, but alive.
    pub fn draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether every watched loop turns; else which does not.
    pub fn live(&self) -> Result<(), String> {
        let now = self.now();
        let stuck: Vec<String> = lock(&self.pulses)
            .iter()
            .filter_map(Weak::upgrade)
            .filter_map(|beat| {
                let silent = Duration::from_millis(now.saturating_sub(beat.last.load(Ordering::Relaxed)));
                (silent >= STUCK).then(|| format!("{} has not turned for {} s", beat.name, silent.as_secs()))
            })
            .collect();
        if stuck.is_empty() { Ok(()) } else { Err(stuck.join("\n")) }
    }

    /// Whether every database is ready; else each that is not, and why.
    pub fn ready(&self) -> Result<(), String> {
        if self.is_draining() {
            return Err("draining".to_owned());
        }
        let reasons: Vec<String> = lock(&self.databases)
            .iter()
            .filter_map(|(name, reason)| reason.as_ref().map(|reason| format!("{name}: {reason}")))
            .collect();
        if reasons.is_empty() { Ok(()) } else { Err(reasons.join("\n")) }
    }

    /// Each database, and why it is not ready.
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
        assert_eq!(health.live(), Err("sampler of main has not turned for 35 s".to_owned()));
        drop(sampler);
        assert_eq!(health.live(), Ok(()), "a loop that ended is not a stuck one");
    }

    #[tokio::test]
    async fn every_database_must_be_ready() {
        let health = Health::new(["a", "b"]);
        assert_eq!(health.ready(), Err("a: not connected yet\nb: not connected yet".to_owned()));
        health.ready_now("a");
        health.not_ready("b", "schema backfill is missing");
        assert_eq!(health.ready(), Err("b: schema backfill is missing".to_owned()));
        health.ready_now("b");
        assert_eq!(health.ready(), Ok(()));
        health.draining();
        assert_eq!(health.ready(), Err("draining".to_owned()));
    }
}
