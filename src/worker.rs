//! The story: claim a slice, walk it, verify. One of these loops for each slice that the daemon walks at once.

mod split;

use std::time::Duration;

use deadpool_postgres::Pool;
use serde_json::Value;
use tokio::time::Instant;

use crate::error::{Error, Kind, Result};
use crate::execute::executor::Executor;
use crate::execute::statement::Passage;
use crate::fault;
use crate::job::claim::{Claim, Desired, Outcome, SliceKind};
use crate::job::options::{Options, Switch};
use crate::job::plan::Plan;
use crate::job::retry::{Action, action, at_fault, backoff, too_slow, waits_for};
use crate::job::state::State;
use crate::key::Key;
use crate::metrics::{self, Outcome as Counted};
use crate::pg::pools::{Logins, control};
use crate::pg::session;
use crate::queue::claim as queue;
use crate::queue::lease::{Lease, Leases};
use crate::queue::wakeup::Wakeups;
use crate::shutdown::Shutdown;
use crate::throttle::Throttle;
use crate::throttle::gate::{Admission, Limits};
use crate::walk::Walk;
use crate::walk::meter::Meter;
use crate::{plan, verify};
use split::Split;

/// How long a gate may keep the worker from looking at a pause, a tune or a shutdown.
const LOOK: Duration = Duration::from_millis(200);
/// Between two tries of a batch: a pause or a cancel must not wait longer for a row that somebody has locked.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// A batch of one row that ran out of time this often is not going to be quicker.
const ONE_ROW_ATTEMPTS: u32 = 25;
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
    /// The lease ran out. Nothing is ours to give back.
    Lost,
}

impl Worker {
    /// Works until the drain, and then finishes the batch in flight; a hard stop cancels that.
    pub async fn run(mut self, stop: Shutdown) {
        let mut failures = 0;
        while !stop.drain.is_cancelled() {
            self.wakeups.mark_unchanged();
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
                Ok(()) = self.wakeups.changed(), if failures == 0 => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Claims one slice and works on it to the end of the claim; false if there is none.
    async fn turn(&mut self, stop: &Shutdown) -> Result<bool> {
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
            SliceKind::Plan => self.plan(&claim).await,
            SliceKind::Walk if claim.upper.is_none() => self.plan_leaf(&claim).await,
            SliceKind::Walk | SliceKind::Verify => self.walk(&claim, &lease, stop).await,
        };
        fault::point("before_giving_back")?;
        match ended {
            Ok(End::Passed) => self.tell(&claim, queue::finish(&self.control, &claim).await?),
            Ok(End::Stopped) => self.tell(&claim, queue::release(&self.control, &claim).await?),
            Ok(End::Planned(state)) => self.tell(&claim, state),
            Ok(End::Lost) => {}
            Err(error) => self.give_up(&claim, &lease, error).await?,
        }
        Ok(true)
    }

    async fn plan(&self, claim: &Claim) -> Result<End> {
        let executor = plan::open(&self.logins, claim).await?;
        queue::seat(&self.control, claim, &session::backend(&executor).await?).await?;
        let made = plan::make(&self.control, &executor.client, claim, &self.defaults)
            .await
            .map_err(plan::expressions::refuse)?;
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
        let parts = plan::leaves::attached(&self.control, &executor.client, claim, &self.defaults).await?;
        Ok(End::Planned(queue::save_leaf(&self.control, claim, &parts).await?))
    }

    async fn walk(&mut self, claim: &Claim, lease: &Lease, stop: &Shutdown) -> Result<End> {
        if claim.checkpoint.done {
            return Ok(End::Passed); // The last holder ended between its last batch and saying so.
        }
        let (plan, upper) = self.planned(claim).await?;
        let mut options = Options::read(&self.defaults, &claim.options);
        let (mut revision, mut live, mut attempt) = (claim.revision, 1, 0);
        let mut executor = self.seat(claim, &plan, &options).await?;
        let mut walk = Walk::new(claim.checkpoint.position.clone(), upper, false, &options);
        let mut gate = self.throttle.gate();
        let mut meter = Meter::new();
        let mut split = Split::new();
        loop {
            if stop.drain.is_cancelled() {
                return Ok(End::Stopped);
            }
            if !lease.trusted() {
                tracing::warn!(database.name = %self.database, job.id = claim.job_id, slice = claim.ordinal, "lease ran out; another worker may have the slice");
                return Ok(End::Lost);
            }
            if let Some(seen) = lease.seen() {
                live = seen.live;
            }
            if live < options.slices
                && let Some(end) = split.look(self, claim, &executor, &plan, &walk, options.slices).await?
            {
                return Ok(end);
            }
            let limits = Limits {
                max_rows_per_second: options.max_rows_per_second.map(|rate| rate / f64::from(live)),
                throttle_on: options.throttle == Switch::On,
            };
            let Some(batch) = walk.next(gate.batch_rows_cap(limits)) else { return Ok(End::Passed) };
            if let Admission::Hold { reason, text } = gate.admit(limits, LOOK).await {
                lease.report(meter.rate(), Some((reason.as_str().to_owned(), text)));
                // No batch asks meanwhile what is wanted, so look.
                if let Some(end) = self.look(claim, &mut revision, &mut options, &mut walk).await? {
                    return Ok(end);
                }
                continue;
            }
            let started = Instant::now();
            match executor.run(claim, &batch, &stop.hard).await {
                Ok(outcome) => {
                    (attempt, self.worked) = (0, true);
                    let took = started.elapsed();
                    walk.feedback(&batch, &outcome);
                    gate.settle(outcome.changed, took);
                    lease.report(meter.count(outcome.scanned), None);
                    self.count(claim, &outcome, took);
                    if outcome.desired != Desired::Running && !outcome.checkpoint.done {
                        return Ok(End::Stopped);
                    }
                    if outcome.revision != revision {
                        revision = outcome.revision;
                        options = self.tuned(claim, &mut walk).await?;
                    }
                }
                Err(error) => {
                    attempt += 1;
                    gate.settle(0, started.elapsed());
                    let (what, sentence) = action(error.kind);
                    self.log_trouble(claim, &error, sentence, attempt);
                    match what {
                        Action::Again { .. }
                            if error.kind == Kind::Cancelled && batch.rows == 1 && attempt > ONE_ROW_ATTEMPTS =>
                        {
                            return Err(too_slow(&batch, error));
                        }
                        Action::Again { smaller } => {
                            if smaller {
                                walk.shrink();
                            }
                            lease.report(meter.rate(), Some((waits_for(error.kind).to_owned(), sentence.to_owned())));
                            let pause = backoff(attempt).min(LONGEST_PAUSE);
                            let _ = stop.drain.run_until_cancelled(tokio::time::sleep(pause)).await;
                            if let Some(end) = self.look(claim, &mut revision, &mut options, &mut walk).await? {
                                return Ok(end);
                            }
                        }
                        // Raised by the job's own code, if the claim is still ours.
                        Action::Stop if queue::look(&self.control, claim).await?.is_some() => {
                            let hint = "No other daemon holds the slice: look for a function or a trigger of the table that raises it.";
                            return Err(Error { kind: Kind::Data, hint: Some(hint.to_owned()), ..error });
                        }
                        Action::Prepare if attempt < 5 => executor.forget_statements(),
                        Action::Isolate if batch.rows > 1 => walk.shrink(),
                        Action::Isolate => return Err(at_fault(&batch, error)),
                        Action::Prepare | Action::Reconnect | Action::Stop | Action::Fail => return Err(error),
                    }
                }
            }
        }
    }

    /// Opens the claim's own connection and tells the queue which it is, so that a takeover can end it.
    async fn seat(&self, claim: &Claim, plan: &Plan, options: &Options) -> Result<Executor> {
        let limit = session::batch_limit(&*control(&self.control).await?).await?;
        let lock_wait = Duration::from_millis(options.max_victim_wait_ms.max(10).into());
        let passage = match claim.kind {
            SliceKind::Verify => Passage::Count(verify::still_needs_work(plan)),
            SliceKind::Walk | SliceKind::Plan => Passage::Change,
        };
        let executor = Executor::open(&self.logins, claim, plan, passage, limit, lock_wait).await?;
        queue::seat(&self.control, claim, &session::backend(executor.session()).await?).await?;
        Ok(executor)
    }

    /// What is wanted now: an end of this claim, or other options.
    async fn look(
        &self,
        claim: &Claim,
        revision: &mut i32,
        options: &mut Options,
        walk: &mut Walk,
    ) -> Result<Option<End>> {
        let Some((desired, now)) = queue::look(&self.control, claim).await? else { return Ok(Some(End::Lost)) };
        if desired != Desired::Running {
            return Ok(Some(End::Stopped));
        }
        if now != *revision {
            *revision = now;
            *options = self.tuned(claim, walk).await?;
        }
        Ok(None)
    }

    async fn tuned(&self, claim: &Claim, walk: &mut Walk) -> Result<Options> {
        let options = Options::read(&self.defaults, &queue::options(&self.control, claim).await?);
        walk.tune(&options);
        Ok(options)
    }

    /// Ends a claim that failed, as the table of errors says.
    async fn give_up(&self, claim: &Claim, lease: &Lease, error: Error) -> Result<()> {
        let (what, _) = action(error.kind);
        // Locks pass; a statement that ran out of its minute again and again does not.
        let hopeless =
            claim.kind == SliceKind::Plan && error.kind == Kind::Cancelled && claim.attempts >= PLAN_ATTEMPTS;
        match what {
            Action::Stop => {
                metrics::write_fenced(&self.database);
                tracing::warn!(database.name = %self.database, job.id = claim.job_id, slice = claim.ordinal, "{}", error.message);
                Ok(())
            }
            Action::Reconnect => {
                // The checkpoint is read again with the next claim: what was acknowledged may not be durable (P1).
                let released = queue::release_once_connected(&self.control, claim, || lease.trusted()).await;
                Err(released.err().unwrap_or(error))
            }
            Action::Fail if let Some(state) = queue::gone(&self.control, claim).await? => {
                self.tell(claim, Some(state));
                Ok(())
            }
            Action::Again { .. } if !hopeless => {
                self.tell(claim, queue::release(&self.control, claim).await?);
                Err(error)
            }
            _ => {
                tracing::error!(database.name = %self.database, job.id = claim.job_id, job.name = %claim.name, "job failed: {}", error.message);
                let hint = error.hint.clone().unwrap_or_else(|| "Mend the cause, then backfill.retry.".to_owned());
                self.tell(claim, queue::fail(&self.control, claim, &error.hint(hint)).await?);
                Ok(())
            }
        }
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
        if state.has_ended() {
            metrics::job_finished(&self.database, &state.to_string());
        }
    }

    /// A verification reads rows; it is not progress of the job.
    fn count(&self, claim: &Claim, outcome: &Outcome, took: Duration) {
        if claim.kind == SliceKind::Walk {
            let (changed, scanned) = (outcome.changed, outcome.scanned);
            metrics::batch_done(&self.database, &claim.name, Counted::Committed, changed, scanned, took);
        }
    }

    fn log_trouble(&self, claim: &Claim, error: &Error, sentence: &str, attempt: u32) {
        let counted = if error.kind == Kind::Fenced { Counted::Fenced } else { Counted::Retried };
        metrics::batch_done(&self.database, &claim.name, counted, 0, 0, Duration::ZERO);
        if attempt == 1 {
            tracing::info!(database.name = %self.database, job.id = claim.job_id, slice = claim.ordinal, error = %error.message, "{sentence}");
        }
    }
}
