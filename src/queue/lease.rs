//! Leases: the slices that this daemon holds, the time for which a worker may rely on each lease,
//! and the heartbeat. The heartbeat renews all leases in one round trip. It uses a separate
//! session, so that a busy pool cannot delay it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;
use tokio_postgres::types::Json;
use tokio_postgres::{Row, Statement};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::job::claim::{Claim, Desired};
use crate::job::waiting::Report;
use crate::pg::connect::{Session, within};
use crate::pg::control::{AtTheEnd, Control, answered};
use crate::pg::pooler;
use crate::pg::pools::{CONTROL_LIMIT, Logins};
use crate::pg::row::Columns;
use crate::queue::daemon::{REGISTER_WORKER, host};

/// Time from a failed heartbeat to the next one.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// The slices that the workers of this daemon hold. All clones share the same leases.
#[derive(Debug, Clone)]
pub struct Leases {
    worker: Uuid,
    ttl: Duration,
    held: Arc<Mutex<HashMap<i64, Entry>>>,
    claiming: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Clone)]
struct Entry {
    job_id: i64,
    run_as: String,
    token: Uuid,
    trusted_until: Instant,
    state: LeaseState,
    /// None until the worker reports for the first time. Until then, heartbeats leave the waiting
    /// reason that is stored with the slice unchanged.
    report: Option<Report>,
}

/// The state of a slice's job, according to the last heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseState {
    pub desired: Desired,
    pub revision: i32,
    /// The number of active slices of the job, including this slice. These slices share the job's
    /// rate. 0 before the first heartbeat.
    pub live: u32,
}

/// One held slice. Dropping the lease stops the renewal, but does not release the slice.
#[derive(Debug)]
pub struct Lease {
    leases: Leases,
    slice_id: i64,
    token: Uuid,
}

/// The connections, the roles and the interval that [`Leases::heartbeat`] uses.
#[derive(Debug)]
pub struct Heartbeat {
    pub logins: Logins,
    /// The pool that the heartbeat uses while the server accepts no further connection for the
    /// heartbeat's own session.
    pub control: Control,
    /// The roles whose jobs this daemon runs.
    pub roles: Vec<String>,
    /// Time between two heartbeats.
    pub every: Duration,
}

/// Returns the time for which the worker relies on a lease: 5/6 of `ttl`. A batch that starts at
/// the end of this time normally finishes before another worker may take over the slice.
fn trust(ttl: Duration) -> Duration {
    ttl * 5 / 6
}

impl Leases {
    pub fn new(worker: Uuid, ttl: Duration) -> Self {
        Self { worker, ttl, held: Arc::default(), claiming: Arc::default() }
    }

    pub fn worker(&self) -> Uuid {
        self.worker
    }

    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Registers a claim for renewal. `asked_at` is the time at which the claim was sent. On the
    /// server, the lease begins after this time, so the worker never relies on the lease for too
    /// long.
    pub fn hold(&self, claim: &Claim, asked_at: Instant) -> Lease {
        let state = LeaseState { desired: Desired::Running, revision: claim.revision, live: 0 };
        let entry = Entry {
            job_id: claim.job_id,
            run_as: claim.run_as.clone(),
            token: claim.token,
            trusted_until: asked_at + trust(self.ttl),
            state,
            report: None,
        };
        self.with(|held| held.insert(claim.slice_id, entry));
        Lease { leases: self.clone(), slice_id: claim.slice_id, token: claim.token }
    }

    /// Waits until no other worker of this daemon is claiming a slice. The caller keeps the
    /// returned guard until it has called [`Self::hold`]. Otherwise [`Self::roles_at`] and
    /// [`Self::tokens`] would miss a claim in progress.
    pub async fn claiming(&self) -> OwnedMutexGuard<()> {
        self.claiming.clone().lock_owned().await
    }

    /// Returns the roles whose jobs occupy at least `share` workers of this daemon.
    pub fn roles_at(&self, share: u32) -> Vec<String> {
        let mut counts: HashMap<&str, u32> = HashMap::new();
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in held.values() {
            *counts.entry(&entry.run_as).or_default() += 1;
        }
        counts.into_iter().filter(|(_, count)| *count >= share).map(|(role, _)| role.to_owned()).collect()
    }

    /// Returns the tokens of all slices that this daemon holds.
    pub fn tokens(&self) -> Vec<Uuid> {
        self.with(|held| held.values().map(|entry| entry.token).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.with(|held| held.is_empty())
    }

    fn with<T>(&self, change: impl FnOnce(&mut HashMap<i64, Entry>) -> T) -> T {
        change(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn report(&self) -> Vec<serde_json::Value> {
        self.with(|held| {
            held.iter()
                .map(|(slice, entry)| {
                    let Some(report) = &entry.report else {
                        return serde_json::json!({"slice": slice, "token": entry.token});
                    };
                    let Report { rows_per_second, steady_rows_per_second, time_share, waiting, throttled } = report;
                    serde_json::json!({
                        "slice": slice, "token": entry.token,
                        "rate": rows_per_second, "steady_rate": steady_rows_per_second, "time_share": time_share,
                        "reason": waiting.as_ref().map(|w| &w.0), "text": waiting.as_ref().map(|w| &w.1),
                        "throttled_by": throttled.as_ref().map(|t| &t.0), "throttled_text": throttled.as_ref().map(|t| &t.1)
                    })
                })
                .collect()
        })
    }

    fn renewed(&self, asked_at: Instant, asked: &[serde_json::Value], answers: &HashMap<i64, (LeaseState, bool)>) {
        self.with(|held| {
            for slice in asked.iter().filter_map(|report| report["slice"].as_i64()) {
                let Some(entry) = held.get_mut(&slice) else { continue };
                match answers.get(&slice) {
                    Some((state, renewed)) => {
                        if *renewed {
                            entry.trusted_until = asked_at + trust(self.ttl);
                        }
                        entry.state = *state;
                    }
                    // The server did not renew this lease, because this daemon no longer holds the
                    // slice. The lease is no longer trusted.
                    None => entry.trusted_until = asked_at,
                }
            }
        });
    }

    /// Renews all leases until `stop` is cancelled. Also renews the daemon's row in
    /// `backfill.worker`, which would otherwise expire.
    pub async fn heartbeat(self, heartbeat: Heartbeat, stop: CancellationToken) {
        let mut session: Option<(Session, Statement)> = None;
        let mut silent = false;
        let mut turns = tokio::time::interval(heartbeat.every);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = turns.tick() => {}
            }
            match self.beat(&heartbeat, &mut session).await.map_err(pooler::recognized) {
                Ok(()) => {
                    if std::mem::take(&mut silent) {
                        tracing::info!("heartbeat resumed");
                    }
                }
                Err(error) => {
                    session = None;
                    // The leases could expire before the next regular heartbeat.
                    turns.reset_after(heartbeat.every.min(RETRY_AFTER));
                    if !std::mem::replace(&mut silent, true) {
                        tracing::warn!(error = %error.message, "heartbeat failed; retrying");
                    }
                }
            }
        }
    }

    async fn beat(&self, by: &Heartbeat, session: &mut Option<(Session, Statement)>) -> Result<()> {
        const HEARTBEAT: &str = "select slice, desired, revision, live, renewed from backfill._heartbeat($1, make_interval(secs => $2), $3)";
        let limit = CONTROL_LIMIT.min(self.ttl / 2);
        let ttl = self.ttl.as_secs_f64();
        if session.as_ref().is_none_or(|(open, _)| open.client.is_closed()) {
            let open = match by.logins.open_control("backfilld heartbeat", |_| {}).await {
                // The server accepts no further connection, so this heartbeat uses a connection of
                // the pool.
                Err(error) if error.kind == Kind::TooManyConnections => {
                    let (asked_at, asked) = (Instant::now(), self.report());
                    let rows = by.control.query(HEARTBEAT, &[&self.worker, &ttl, &Json(&asked)]).await?;
                    return self.read(asked_at, &asked, &rows);
                }
                open => open?,
            };
            let pid = i32::try_from(std::process::id()).unwrap_or(0);
            let version = env!("CARGO_PKG_VERSION");
            within(
                limit,
                open.client.query(REGISTER_WORKER, &[&self.worker, &host(), &pid, &version, &by.roles, &ttl]),
            )
            .await?;
            // On a slow network, preparing the statement each time would double the time of a
            // heartbeat.
            let heartbeat = within(limit, open.client.prepare(HEARTBEAT)).await?;
            *session = Some((open, heartbeat));
        }
        let Some((open, heartbeat)) = session else {
            return Err(Error::new(Kind::Internal, "no session"));
        };
        let asked_at = Instant::now();
        let asked = self.report();
        let rows = answered(
            &by.logins,
            HEARTBEAT,
            limit,
            AtTheEnd::Leave,
            open.client.query(&*heartbeat, &[&self.worker, &ttl, &Json(&asked)]),
        )
        .await?;
        self.read(asked_at, &asked, &rows)
    }

    /// Reads the answer to a heartbeat that was sent at `asked_at`.
    fn read(&self, asked_at: Instant, asked: &[serde_json::Value], rows: &[Row]) -> Result<()> {
        let answers = rows
            .iter()
            .map(|row| {
                let live = u32::try_from(row.read::<i32>(3)?).unwrap_or(1).max(1);
                let desired = Desired::read(row.read(1)?);
                let state = LeaseState { desired, revision: row.read(2)?, live };
                Ok((row.read(0)?, (state, row.read::<bool>(4)?)))
            })
            .collect::<Result<_>>()?;
        self.renewed(asked_at, asked, &answers);
        Ok(())
    }
}

impl Lease {
    /// Returns whether this worker may start another batch. If a batch takes longer than the lease,
    /// only the fencing token protects the next holder of the slice.
    pub fn trusted(&self) -> bool {
        self.leases.with(|held| {
            held.get(&self.slice_id)
                .is_some_and(|entry| entry.token == self.token && Instant::now() < entry.trusted_until)
        })
    }

    /// Returns whether the jobs of this slice's role occupy more than `share` workers of this
    /// daemon.
    pub fn exceeds(&self, share: u32) -> bool {
        self.leases.with(|held| {
            let Some(own) = held.get(&self.slice_id) else { return false };
            let count = held.values().filter(|entry| entry.run_as == own.run_as).count();
            count > usize::try_from(share).unwrap_or(usize::MAX)
        })
    }

    pub fn state(&self) -> Option<LeaseState> {
        self.leases.with(|held| held.get(&self.slice_id).map(|entry| entry.state))
    }

    /// Returns the number of slices that share the job's rate. This is the larger of two numbers:
    ///
    /// - the number of active slices from the last heartbeat, or `meant` (the job's option
    ///   `slices`) before the first heartbeat,
    /// - the number of the job's slices that this daemon holds now.
    pub fn sharers(&self, meant: u32) -> u32 {
        self.leases.with(|held| {
            let Some(own) = held.get(&self.slice_id) else { return meant.max(1) };
            let state = if own.state.live > 0 { own.state.live } else { meant };
            let here = held.values().filter(|entry| entry.job_id == own.job_id).count();
            state.max(u32::try_from(here).unwrap_or(u32::MAX)).max(1)
        })
    }

    /// Stores the report of this slice for the next heartbeat.
    pub fn report(&self, report: Report) {
        self.leases.with(|held| {
            if let Some(entry) = held.get_mut(&self.slice_id) {
                entry.report = Some(report);
            }
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.with(|held| {
            if held.get(&self.slice_id).is_some_and(|entry| entry.token == self.token) {
                held.remove(&self.slice_id);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Claim {
        serde_json::from_value(serde_json::json!({
            "slice": 7, "job": 1, "kind": "walk", "ordinal": 0, "token": Uuid::new_v4(), "takeover": false, "upper": ["9"],
            "position": null, "done": false, "checkpoint_ctid": "(0,1)", "name": "j", "relation": 1, "target": "t", "set": "a = 1",
            "filter": null, "key": null, "run_as": "r", "options": {}, "settings": {}, "revision": 0, "plan": null
        }))
        .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_trusted_for_less_than_its_ttl() {
        let leases = Leases::new(Uuid::new_v4(), Duration::from_secs(6));
        let lease = leases.hold(&claim(), Instant::now());
        assert!(lease.trusted());
        tokio::time::advance(Duration::from_millis(5001)).await;
        assert!(!lease.trusted());
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_shared_before_the_first_heartbeat() {
        let leases = Leases::new(Uuid::new_v4(), Duration::from_secs(6));
        let first = leases.hold(&claim(), Instant::now());
        assert_eq!((first.sharers(1), first.sharers(4)), (1, 4), "before the first heartbeat");
        let asked = leases.report();
        let state = LeaseState { desired: Desired::Running, revision: 0, live: 1 };
        leases.renewed(Instant::now(), &asked, &HashMap::from([(7, (state, true))]));
        assert_eq!(first.sharers(4), 1);
        let second = leases.hold(&Claim { slice_id: 8, ..claim() }, Instant::now());
        let _other = leases.hold(&Claim { slice_id: 9, job_id: 2, ..claim() }, Instant::now());
        assert_eq!((first.sharers(1), second.sharers(1)), (2, 2));
        drop(first);
        assert_eq!(second.sharers(1), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_workers_of_each_role_are_counted() {
        let leases = Leases::new(Uuid::new_v4(), Duration::from_secs(6));
        let hold =
            |slice_id, role: &str| leases.hold(&Claim { slice_id, run_as: role.to_owned(), ..claim() }, Instant::now());
        let (first, second, other) = (hold(1, "a"), hold(2, "a"), hold(3, "b"));
        assert_eq!(leases.roles_at(2), ["a"]);
        assert!(first.exceeds(1) && !first.exceeds(2) && !other.exceeds(1));
        drop(second);
        assert!(leases.roles_at(2).is_empty() && !first.exceeds(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_the_server_does_not_renew_is_not_trusted_any_longer() {
        let leases = Leases::new(Uuid::new_v4(), Duration::from_secs(6));
        let lease = leases.hold(&claim(), Instant::now());
        let asked = leases.report();
        leases.renewed(Instant::now(), &asked, &HashMap::new());
        assert!(!lease.trusted());
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_counts_from_its_request() {
        let leases = Leases::new(Uuid::new_v4(), Duration::from_secs(6));
        let lease = leases.hold(&claim(), Instant::now());
        let asked = leases.report();
        let asked_at = Instant::now();
        tokio::time::advance(Duration::from_secs(4)).await;
        let state = LeaseState { desired: Desired::Paused, revision: 3, live: 2 };
        leases.renewed(asked_at, &asked, &HashMap::from([(7, (state, true))]));
        assert_eq!(lease.state(), Some(state));
        tokio::time::advance(Duration::from_millis(1001)).await;
        assert!(!lease.trusted());
    }
}
