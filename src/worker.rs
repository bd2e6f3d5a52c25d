//! The story: claim a slice, walk it, verify. One of these loops for each slice that the daemon walks at once.

use std::time::{Duration, SystemTime};

use deadpool_postgres::Pool;
use serde_json::Value;
use tokio::time::Instant;

use crate::error::{Error, Kind, Result};
use crate::execute::guard::Guard;
use crate::fault;
use crate::job::claim::{Claim, SliceKind};
use crate::job::options::Options;
use crate::job::plan::Plan;
use crate::job::retry::{Action, action, backoff};
use crate::job::state::State;
use crate::key::Key;
use crate::metrics;
use crate::pg::connect::Session;
use crate::pg::pools::Logins;
use crate::pg::session;
use crate::plan;
use crate::queue::claim as queue;
use crate::queue::lease::{Lease, Leases};
use crate::queue::wakeup::Wakeups;
use crate::shutdown::Shutdown;
use crate::throttle::handle::Throttle;
use crate::window::{self, Window};

mod slice;
mod split;
pub mod trouble;

/// Between two looks that found nothing. Everybody may notify, as often as they like.
const CALM: Duration = Duration::from_millis(25);
/// A plan that ran out of time this often is not going to come.
const PLAN_ATTEMPTS: i32 = 10;

/// What a worker has at hand; shared by all workers of one database.
#[derive(Debug, Clone)]
pub struct Worker {
    pub database: String,
    pub logins: Logins,
    pub control: Pool,
    pub leases: Leases,
    pub throttle: Throttle,
    pub roles: Vec<String>,
    pub wakeups: Wakeups,
    pub poll: Duration,
    /// The configuration's options for jobs that don't say.
    pub defaults: Value,
    pub guard: Guard,
    /// When work is allowed on the database.
    pub window: Option<Window>,
    pub told: trouble::Told,
    pub losses: trouble::Losses,
    /// A batch was committed since the last failure: the next failure is a new one, and not the old one that goes on.
    pub worked: bool,
}

/// How a claim ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The slice is at its end.
    Passed,
    /// A plan, or a slice cut in two, was stored; the claim ended with it, and for an empty table the job.
    Planned(Option<State>),
    /// A pause, a cancel or a shutdown: the slice goes back.
    Stopped,
    /// The job's window is closed until then.
    Closed(SystemTime),
    /// The lease ran out. Nothing is ours to give back.
    Lost,
}

impl Worker {
    /// Works until the drain, and then finishes the batch in flight; a hard stop cancels that.
    pub async fn run(mut self, stop: Shutdown) {
        let mut failures = 0;
        while !stop.drain.is_cancelled() {
            self.wakeups.mark_unchanged();
            let looked = Instant::now();
            let pause = match Box::pin(self.turn(&stop)).await {
                Ok(true) => {
                    failures = 0;
                    continue;
                }
                Ok(false) => {
                    failures = 0;
                    self.poll
                }
                Err(error) => {
                    failures = if std::mem::take(&mut self.worked) { 1 } else { failures + 1 };
                    if failures == 1 {
                        let (_, sentence) = action(error.kind);
                        tracing::warn!(database.name = %self.database, error = %error.message, "{sentence}");
                    }
                    backoff(failures + 2)
                }
            };
            tokio::select! {
                biased;
                () = stop.drain.cancelled() => {}
                Ok(()) = self.wakeups.changed(), if failures == 0 => tokio::time::sleep_until(looked + CALM).await,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Claims one slice and works on it to the end of the claim; false if there is none.
    async fn turn(&mut self, stop: &Shutdown) -> Result<bool> {
        if window::closed_until(&self.window).is_some() {
            return Ok(false);
        }
        let asked_at = Instant::now();
        let Some(claim) = queue::claim(&self.control, self.leases.worker(), &self.roles, self.leases.ttl()).await?
        else {
            return Ok(false);
        };
        let lease = self.leases.hold(&claim, asked_at);
        fault::point("after_claim")?;
        if claim.takeover {
            metrics::lease_taken_over(&self.database);
        }
        let ended = match claim.kind {
            _ if let Some(ended) = self.closed(&claim).transpose() => ended,
            SliceKind::Plan => self.plan(&claim).await,
            SliceKind::Walk if claim.upper.is_none() => self.plan_leaf(&claim).await,
            SliceKind::Walk | SliceKind::Verify => self.walk(&claim, &lease, stop).await,
        };
        fault::point("before_giving_back")?;
        match ended {
            Ok(End::Passed) => self.tell(&claim, queue::finish(&self.control, &claim).await?),
            Ok(End::Stopped) => self.tell(&claim, queue::release(&self.control, &claim).await?),
            Ok(End::Closed(until)) => {
                let opens = jiff::Timestamp::try_from(until).map_or_else(|_| "never".to_owned(), |at| at.to_string());
                tracing::info!(database.name = %self.database, job.id = claim.job_id, job.name = %claim.name, job.slice = claim.ordinal, opens, "its window is closed");
                self.tell(&claim, queue::close(&self.control, &claim, until).await?);
            }
            Ok(End::Planned(state)) => self.tell(&claim, state),
            Ok(End::Lost) => {}
            Err(error) => self.give_up(&claim, &lease, error).await?,
        }
        Ok(true)
    }

    /// Whether the job may not be worked on now.
    fn closed(&self, claim: &Claim) -> Result<Option<End>> {
        let options = Options::read(&self.defaults, &claim.options);
        let window = options.window.as_ref().map(Window::read).transpose()?;
        Ok(window::closed_until(&window).map(End::Closed))
    }

    async fn plan(&self, claim: &Claim) -> Result<End> {
        let executor = plan::open(&self.logins, claim).await?;
        queue::seat(&self.control, claim, &session::backend(&executor).await?).await?;
        let making = Box::pin(plan::make(&self.control, &executor, claim, &self.defaults));
        let made = self.in_nobodys_way(claim, &executor, making).await.map_err(plan::expressions::refuse)?;
        fault::point("before_save_plan")?;
        let state =
            queue::save_plan(&self.control, claim, &made.plan, &made.parts, made.rows_estimated, &made.snapshot)
                .await?;
        tracing::info!(database.name = %self.database, job.id = claim.job_id, job.name = %claim.name,
            rows = made.rows_estimated, slices = made.parts.len(), "planned");
        Ok(End::Planned(state))
    }

    /// A leaf that was attached since planning.
    async fn plan_leaf(&self, claim: &Claim) -> Result<End> {
        let executor = plan::open(&self.logins, claim).await?;
        queue::seat(&self.control, claim, &session::backend(&executor).await?).await?;
        let making = Box::pin(plan::leaves::attached(&self.control, &executor, claim, &self.defaults));
        let parts = self.in_nobodys_way(claim, &executor, making).await?;
        Ok(End::Planned(queue::save_leaf(&self.control, claim, &parts).await?))
    }

    /// Planning changes nothing, and yet an `alter table` waits behind it, and everybody else behind that.
    async fn in_nobodys_way<T>(
        &self,
        claim: &Claim,
        executor: &Session,
        planning: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let Some(pid) = executor.pid() else { return planning.await };
        let patience = Options::read(&self.defaults, &claim.options).max_victim_wait_ms;
        let mut watched = self.guard.watch(pid, Duration::from_millis(u64::from(patience)));
        tokio::select! {
            biased;
            made = planning => made,
            victims = watched.in_the_way() => {
                // Whether or not it met a statement: the session ends here.
                executor.cancel().await;
                Err(victims.error("the planning"))
            }
        }
    }

    /// A verification is a walk that counts.
    async fn walk(&mut self, claim: &Claim, lease: &Lease, stop: &Shutdown) -> Result<End> {
        if claim.checkpoint.done && claim.deferred == 0 {
            return Ok(End::Passed); // The last holder ended between its last batch and saying so.
        }
        Box::pin(slice::Work::begin(self, claim, lease, stop).await?.run()).await
    }

    /// Ends a claim that failed, as the table of errors says.
    async fn give_up(&self, claim: &Claim, lease: &Lease, error: Error) -> Result<()> {
        let (what, _) = action(error.kind);
        // What its own login could not end may hold locks of the application's rows for as long as it likes. Where the
        // server is not to be reached it is another matter, and told below.
        // One that the server has ended itself says so.
        if matches!(error.kind, Kind::ConnectionLost | Kind::Overrun) && error.sqlstate.is_none() {
            match queue::end_session(&self.control, claim).await {
                Ok(true) => {
                    tracing::warn!(database.name = %self.database, job.id = claim.job_id, job.name = %claim.name, "ended the session of a job that its own login could not end");
                }
                Ok(false) => {}
                Err(unasked) => {
                    tracing::debug!(database.name = %self.database, job.id = claim.job_id, job.name = %claim.name, error = %unasked.message, "could not look after a job's session");
                }
            }
        }
        // Locks pass; a statement that ran out of its minute again and again does not.
        let hopeless = claim.kind == SliceKind::Plan
            && matches!(error.kind, Kind::Cancelled | Kind::Overrun)
            && claim.attempts >= PLAN_ATTEMPTS;
        match what {
            Action::Stop => {
                metrics::write_fenced(&self.database);
                tracing::warn!(database.name = %self.database, job.id = claim.job_id, job.name = %claim.name, job.slice = claim.ordinal, "{}", error.message);
                Ok(())
            }
            Action::Reconnect => {
                // The checkpoint is read again with the next claim: what was acknowledged may not be durable (P1).
                let released = queue::release_once_connected(&self.control, claim, &error, || lease.trusted()).await;
                match released {
                    // The slice waits; this worker need not.
                    Ok(_) if queue::of_the_login(error.kind) => {
                        if self.told.is_news(claim.job_id, error.kind) {
                            let (_, sentence) = action(error.kind);
                            tracing::warn!(database.name = %self.database, job.id = claim.job_id, job.name = %claim.name, error = %error.message, "{sentence}");
                        }
                        Ok(())
                    }
                    Ok(_) => Err(error),
                    Err(lost) => Err(lost),
                }
            }
            Action::Fail | Action::Doubt if let Some(state) = queue::gone(&self.control, claim).await? => {
                self.tell(claim, Some(state));
                Ok(())
            }
            // A walk has tried again by itself.
            Action::Restart if claim.kind != SliceKind::Plan => self.fail(claim, error).await,
            Action::Again { .. } | Action::Restart if !hopeless => {
                self.tell(claim, queue::give_back(&self.control, claim, &error).await?);
                Err(error)
            }
            _ => self.fail(claim, error).await,
        }
    }

    async fn fail(&self, claim: &Claim, error: Error) -> Result<()> {
        tracing::error!(database.name = %self.database, job.id = claim.job_id, job.name = %claim.name, "job failed: {}", error.message);
        let hint = error.hint.clone().unwrap_or_else(|| "Mend the cause, then backfill.retry.".to_owned());
        match queue::fail(&self.control, claim, &error.hint(hint)).await? {
            // Said already, with its cause.
            Some(State::Failed) => self.count(State::Failed),
            state => self.tell(claim, state),
        }
        Ok(())
    }

    /// The plan of the table that holds the slice's rows, and the slice's end.
    async fn planned(&self, claim: &Claim) -> Result<(Plan, Key)> {
        match (&claim.plan, &claim.upper) {
            (Some(plan), Some(upper)) if plan.spread => {
                Ok((plan.at(queue::leaf(&self.control, claim).await?), upper.clone()))
            }
            (Some(plan), Some(upper)) => Ok((plan.clone(), upper.clone())),
            _ => Err(Error::new(Kind::Internal, "a slice without a plan, or without an end")),
        }
    }

    /// One line and one count for a job that ended, or paused, with this claim.
    fn tell(&self, claim: &Claim, state: Option<State>) {
        let Some(state) = state.filter(|state| state.has_ended() || *state == State::Paused) else { return };
        tracing::info!(database.name = %self.database, job.id = claim.job_id, job.name = %claim.name, "job {state}");
        self.count(state);
    }

    fn count(&self, state: State) {
        if state.has_ended() {
            metrics::job_finished(&self.database, &state.to_string());
        }
    }
}
