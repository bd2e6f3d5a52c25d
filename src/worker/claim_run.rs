//! Runs one claim of a slice, from the slice's checkpoint to the end of the slice. The worker runs
//! one batch after another as the gate admits them, and then retries the deferred rows.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Kind, Result};
use crate::execute::bounds::Bounds;
use crate::execute::executor::Executor;
use crate::execute::statement::batch::BatchKind;
use crate::job::batch::{Batch, Outcome};
use crate::job::claim::{Claim, Desired, SliceKind};
use crate::job::options::{Switch, Vacuum};
use crate::job::permit::Permit;
use crate::job::plan::Plan;
use crate::job::settings::JobSettings;
use crate::job::waiting::{Report, Waiting};
use crate::key::Key;
use crate::metrics::{self, Outcome as Counted};
use crate::pg::session;
use crate::queue::claim as queue;
use crate::queue::lease::Lease;
use crate::shutdown::Shutdown;
use crate::throttle::admit::gate::{Admission, Gate, Limits};
use crate::throttle::admit::hold_time::Waits;
use crate::verify;
use crate::walk::Walk;
use crate::window;
use crate::worker::claim_end::{ClaimEnd, Step};
use crate::worker::context::Context;
use crate::worker::dead_rows::DeadRows;
use crate::worker::progress::Progress;
use crate::worker::timers::Timers;

/// While the gate holds the worker, and while the daemon's vacuum runs, the worker checks at this
/// interval whether the claim must end and whether the job's options have changed.
pub(super) const POLL: Duration = Duration::from_millis(200);

/// The gate's decision about the next batch.
pub(super) enum Admitted {
    Go(Permit),
    /// The gate held the worker for a while, and the claim continues.
    AskAgain,
    /// The gate held the worker for a while, and the claim ended during that time.
    End(ClaimEnd),
}

/// The claim that a worker runs, and the worker's resources. Also contains the lease and the
/// shutdown signal, either of which can end the claim.
pub(super) struct Scope<'a> {
    pub context: &'a mut Context,
    pub claim: &'a Claim,
    pub lease: &'a Lease,
    pub stop: &'a Shutdown,
}

/// A claim that is running.
pub(super) struct ClaimRun<'a> {
    pub(super) scope: Scope<'a>,
    pub(super) plan: Plan,
    pub(super) settings: JobSettings,
    pub(super) executor: Executor,
    pub(super) walk: Walk,
    pub(super) gate: Gate,
    pub(super) progress: Progress,
    pub(super) timers: Timers,
    pub(super) dead_rows: DeadRows,
}

impl<'a> ClaimRun<'a> {
    /// Opens the session of the claim and registers it with the queue, so that a worker that takes
    /// over the slice can terminate this session.
    pub async fn begin(
        context: &'a mut Context,
        claim: &'a Claim,
        lease: &'a Lease,
        stop: &'a Shutdown,
        settings: JobSettings,
    ) -> Result<Self> {
        let (plan, upper) = planned(context, claim).await?;
        let bounds = bounds(session::batch_limit(&context.control).await?, &settings);
        let (plan, kind) = of_slice(context, claim, plan).await?;
        let is_sweep = claim.generation > 1 && claim.kind == SliceKind::Walk;
        let mut executor = Executor::open(&context.logins, claim, &plan, kind, bounds, context.guard.clone()).await?;
        if is_sweep && let Some(since) = queue::proof(&context.control, claim).await?.planned {
            executor.sweep_since(&since);
        }
        executor.use_standby(&context.logins, &context.control, claim).await;
        queue::register_backend(&context.control, claim, &session::backend(executor.session()).await?).await?;
        let mut walk = Walk::new(claim.checkpoint.clone(), upper);
        if let Some(loss) = context.losses.settle(&context.control, claim.slice_id).await? {
            if let Some(error) = loss.of_the_server() {
                context.losses.forget(claim.slice_id);
                return Err(error);
            }
            if let Some(suspects) = loss.suspects() {
                walk.narrow(suspects);
            }
        }
        let mut progress = Progress::new(claim.deferred);
        if let Some(interruption) = context.interrupted.take(claim) {
            // Until a batch commits, the job is still shown as waiting for the same reason.
            let (reason, text) = interruption.waiting;
            lease.report(Report { waiting: Some((reason.to_owned(), text)), ..Report::default() });
            progress.failures = interruption.failures;
            walk.resume(interruption.search);
        }
        let gate = context.throttle.gate(claim.job_id);
        Ok(Self {
            scope: Scope { context, claim, lease, stop },
            plan,
            settings,
            executor,
            walk,
            gate,
            progress,
            timers: Timers::new(),
            dead_rows: DeadRows::default(),
        })
    }

    pub async fn run(mut self) -> Result<ClaimEnd> {
        let end = self.walk().await;
        if end.is_ok()
            && let Some(written) = self.executor.written_at_last().await
        {
            metrics::written(self.scope.context.database(), &self.scope.claim.name, written);
        }
        end
    }

    /// Walks to the slice's end, and then retries the deferred rows.
    async fn walk(&mut self) -> Result<ClaimEnd> {
        loop {
            if let Some(end) = self.must_end() {
                return Ok(end);
            }
            if let Step::End(end) = self.leave_share().await? {
                return Ok(end);
            }
            if let Step::End(end) = self.split_if_due().await? {
                return Ok(end);
            }
            if self.walk.is_done() {
                break;
            }
            self.renew_limit().await;
            let permit = match self.admit().await? {
                Admitted::Go(permit) => permit,
                Admitted::AskAgain => continue,
                Admitted::End(end) => return Ok(end),
            };
            if let Step::End(end) = self.run_batch(permit).await? {
                return Ok(end);
            }
        }
        self.retry_deferred_rows().await
    }

    async fn run_batch(&mut self, permit: Permit) -> Result<Step> {
        let batch = self.walk.next(&permit);
        let started = Instant::now();
        // The key is read before the batch runs. If the key were read after a failure, a row that
        // was inserted in between could be quarantined instead of the row that failed.
        let (key, tried) = match self.known_row(&batch).await {
            Ok(Some(key)) if let Some((error, time)) = self.deadly_row() => {
                match self.scope.stop.drain.run_until_cancelled(self.executor.survives(time)).await {
                    Some(Ok(())) => return self.skip_row(&batch, &key, Some(&error)).await,
                    Some(Err(error)) => {
                        self.scope.context.losses.acquit(self.scope.claim.slice_id);
                        (None, Err(error))
                    }
                    None => return Ok(Step::Continue),
                }
            }
            Ok(key) => (key, self.attempt(&batch).await),
            Err(error) => (None, Err(error)),
        };
        match tried {
            Ok(None) => {
                self.gate.settle(0, started.elapsed());
                self.poll_desired().await
            }
            Ok(Some(outcome)) => {
                self.gate.committed(&permit, batch.rows, outcome.scanned, outcome.took, started.elapsed());
                self.walk.feedback(&outcome);
                self.progress.failures.clear_doubts();
                self.committed(&outcome, started.elapsed()).await
            }
            Err(error) => {
                self.gate.settle(0, self.executor.busy(&error, started.elapsed()));
                self.handle_failure(&batch, key.as_ref(), started.elapsed(), error).await
            }
        }
    }

    /// Returns the key of the row that makes batches fail, if the batch is known to consist of this
    /// row only. Always returns none for a verification, which cannot skip a row.
    async fn known_row(&mut self, batch: &Batch) -> Result<Option<Key>> {
        if self.walk.stands_alone() && self.scope.claim.kind == SliceKind::Walk {
            return self.executor.next_key(batch).await;
        }
        Ok(None)
    }

    /// Returns the error with which to quarantine the isolated row, if the row may have caused too
    /// many lost connections. The real cause may be something that ends every session of the job,
    /// whichever row it works on. So the session must first survive the returned time without
    /// working on the row.
    fn deadly_row(&self) -> Option<(Error, Duration)> {
        let loss = self.scope.context.losses.of(self.scope.claim.slice_id)?;
        Some((loss.of_the_row()?, loss.probe()))
    }

    pub(super) fn must_end(&self) -> Option<ClaimEnd> {
        let now = self.scope.context.settings.clock.now();
        let is_closed = window::closed_until(&self.scope.context.settings.window, now).is_some();
        if self.scope.stop.drain.is_cancelled() || is_closed {
            return Some(ClaimEnd::Stopped);
        }
        if let Some(until) = window::closed_until(&self.settings.window, now) {
            return Some(ClaimEnd::Closed(until));
        }
        if !self.scope.lease.trusted() {
            tracing::warn!("the lease was not renewed; another worker may have claimed the slice");
            return Some(ClaimEnd::Lost);
        }
        None
    }

    /// Ends the claim if the job's role holds too many workers while another role waits for a
    /// worker. The slice continues when a worker is free for the job's role.
    pub(super) async fn leave_share(&mut self) -> Result<Step> {
        if self.timers.share.is_owed(self.scope.context, self.scope.lease).await? {
            tracing::debug!("released the slice because a job of another role was waiting for a worker");
            return Ok(Step::End(ClaimEnd::Stopped));
        }
        Ok(Step::Continue)
    }

    pub(super) fn limits(&self) -> Limits {
        let options = &self.settings.options;
        let sharers = self.scope.lease.sharers(options.slices);
        Limits {
            max_rows_per_second: options.max_rows_per_second.map(|rate| rate / f64::from(sharers)),
            throttle_on: options.throttle == Switch::On,
            waits_for_vacuum_of: (options.vacuum == Vacuum::Wait).then_some(self.plan.relation),
            max_batch_rows: options.max_batch_rows,
            target: options.target_batch_ms.map(|millis| Duration::from_millis(millis.into())),
            even_rate: self.scope.claim.kind == SliceKind::Walk,
        }
    }

    pub(super) async fn admit(&mut self) -> Result<Admitted> {
        match self.gate.admit(self.limits(), POLL).await {
            Admission::Go(permit) => {
                if let Some(waited) = self.progress.hold_log.go(Instant::now()) {
                    tracing::info!(seconds = waited.as_secs(), "resumed");
                }
                Ok(Admitted::Go(permit))
            }
            Admission::Wait { waiting: Waiting { reason, text }, how } => {
                if self.progress.hold_log.hold(reason, Instant::now()) {
                    tracing::info!(reason = reason.as_str(), "waits: {text}");
                }
                match how {
                    Waits::Held => self.report(Some((reason.as_str().to_owned(), text))),
                    Waits::Throttled => self.report_throttled(Some((reason.throttles_as().to_owned(), text))),
                }
                // While the gate holds the worker, no batch reports the desired state of the job,
                // so the worker polls this state.
                Ok(match self.poll_desired().await? {
                    Step::Continue => Admitted::AskAgain,
                    Step::End(end) => Admitted::End(end),
                })
            }
        }
    }

    /// Passes the rates and the waiting reason to the lease's next heartbeat. `waiting` consists of
    /// a value of `waiting_reason` and a sentence.
    pub(super) fn report(&mut self, waiting: Option<(String, String)>) {
        self.scope.lease.report(Report { waiting, ..self.gate.report() });
    }

    /// Passes the rates to the lease's next heartbeat, and the reason why the slice is slower than
    /// it could be. `throttled` consists of a value of `throttled_by` and a sentence.
    fn report_throttled(&mut self, throttled: Option<(String, String)>) {
        self.scope.lease.report(Report { throttled, ..self.gate.report() });
    }

    /// Accounts for a batch that committed, or for a row that the walk passed without changing it.
    /// Then acts on the desired state that the statement returned.
    pub(super) async fn committed(&mut self, outcome: &Outcome, took: Duration) -> Result<Step> {
        self.progress.committed(outcome);
        if !self.progress.may_defer_more() {
            self.walk.fast();
        }
        self.gate.settle(outcome.changed, took);
        let throttled = self.gate.paced().map(|waiting| (waiting.reason.throttles_as().to_owned(), waiting.text));
        self.gate.scanned(outcome.scanned);
        self.report_throttled(throttled);
        // A verification only reads rows, so its batches do not count as progress of the job.
        if self.scope.claim.kind == SliceKind::Walk
            && let Step::End(end) = self.count(outcome, took).await?
        {
            return Ok(Step::End(end));
        }
        if outcome.checkpoint.done && !self.progress.has_deferred_rows() {
            return Ok(Step::Continue); // The slice is finished, so there is nothing left to stop.
        }
        self.follow(outcome.desired, outcome.revision).await
    }

    async fn count(&mut self, outcome: &Outcome, took: Duration) -> Result<Step> {
        let (changed, scanned) = (outcome.changed, outcome.scanned);
        self.gate.matched(scanned, changed);
        let (database, name) = (self.scope.context.database(), &self.scope.claim.name);
        metrics::batch_done(database, name, Counted::Committed, changed, scanned, took);
        metrics::rows_quarantined(database, name, outcome.quarantined);
        if let Some(written) = self.executor.written(changed).await {
            metrics::written(self.scope.context.database(), &self.scope.claim.name, written);
        }
        self.vacuum_if_due(changed).await
    }

    /// Ends the claim if the job should no longer run. Reads the job's options again if the
    /// revision shows that they may have changed.
    pub(super) async fn follow(&mut self, desired: Desired, revision: i32) -> Result<Step> {
        if desired != Desired::Running {
            return Ok(Step::End(ClaimEnd::Stopped));
        }
        if revision != self.settings.revision {
            let own = queue::options(&self.scope.context.control, self.scope.claim).await?;
            self.settings = JobSettings::read(&self.scope.context.settings.defaults, &own, revision)?;
            self.executor.set_bounds(bounds(self.executor.bounds().batch, &self.settings));
        }
        Ok(Step::Continue)
    }

    /// Reads `deadlock_timeout` again from time to time, so that a change takes effect while the
    /// claim runs. If the setting cannot be read, the last value is kept.
    async fn renew_limit(&mut self) {
        if !self.timers.limit_is_due() {
            return;
        }
        match session::batch_limit(&self.scope.context.control).await {
            Ok(limit) => self.executor.set_bounds(bounds(limit, &self.settings)),
            Err(error) => tracing::debug!(error = %error.message, "could not read deadlock_timeout"),
        }
    }

    /// Polls the desired state from the queue and passes this state to [`Self::follow`]. Used while
    /// no batch reports the desired state.
    pub(super) async fn poll_desired(&mut self) -> Result<Step> {
        match queue::poll_claim(&self.scope.context.control, self.scope.claim).await? {
            Some((desired, revision)) => self.follow(desired, revision).await,
            None => Ok(Step::End(ClaimEnd::Lost)),
        }
    }
}

/// Returns the time limits of the claim's statements. `batch` is the time limit of a batch.
fn bounds(batch: Duration, settings: &JobSettings) -> Bounds {
    Bounds { batch, row: settings.row_limit(), victim_wait: settings.victim_wait() }
}

/// Returns the plan of the table that holds the slice's rows, and the slice's upper bound.
async fn planned(context: &Context, claim: &Claim) -> Result<(Plan, Key)> {
    match (&claim.plan, &claim.upper) {
        (Some(plan), Some(upper)) if plan.spread => {
            Ok((plan.at(queue::leaf(&context.control, claim).await?), upper.clone()))
        }
        (Some(plan), Some(upper)) => Ok((plan.clone(), upper.clone())),
        _ => Err(Error::new(Kind::Internal, "a slice has no plan or no upper bound")),
    }
}

/// Returns the plan of the claim's slice and the work of its batches.
async fn of_slice(context: &Context, claim: &Claim, plan: Plan) -> Result<(Plan, BatchKind)> {
    if claim.kind != SliceKind::Verify {
        let plan = if claim.generation > 1 { verify::of_sweep(plan) } else { plan };
        return Ok((plan, BatchKind::Change));
    }
    let proof = queue::proof(&context.control, claim).await?;
    let by = if proof.by_expression { verify::By::Expression } else { verify::By::Filter };
    // If the filter depends on the clock or on other rows, a row can begin to match without being
    // written. Such a row looks as if the walk had missed it, because it has not been written since
    // planning.
    let since = proof.planned.filter(|_| by == verify::By::Expression || !plan.filter_varies);
    let kind = BatchKind::Count { condition: verify::counted(&plan, by), since };
    // A verification that compares all rows with the expressions never evaluates the filter.
    let filter = plan.filter.filter(|_| by == verify::By::Filter);
    Ok((Plan { filter, ..plan }, kind))
}
