//! One claim of a slice, from its checkpoint to its end: batch after batch as the gate admits them, and last of all
//! the rows that were set aside on the way.

mod aside;
mod mend;
mod vacuum;
mod waits;

use std::time::Duration;

use tokio::time::Instant;

use self::waits::Waits;
use super::split::Split;
use super::trouble::Failures;
use super::{End, Worker};
use crate::error::{Error, Result};
use crate::execute::executor::{Bounds, Executor};
use crate::execute::statement::Passage;
use crate::job::claim::{Claim, Desired, Outcome, SliceKind};
use crate::job::options::{Options, Switch, Vacuum};
use crate::job::permit::Permit;
use crate::job::plan::Plan;
use crate::job::waiting::Waiting;
use crate::key::{Batch, Key};
use crate::metrics::{self, Outcome as Counted};
use crate::pg::pools::control;
use crate::pg::session;
use crate::queue::claim as queue;
use crate::queue::lease::Lease;
use crate::shutdown::Shutdown;
use crate::throttle::admit::gate::{Admission, Gate, Limits};
use crate::verify;
use crate::walk::Walk;
use crate::window::{self, Window};

/// How long a gate may keep the worker from looking at a pause, a tune or a shutdown.
const LOOK: Duration = Duration::from_millis(200);

fn victim_wait(options: &Options) -> Duration {
    Duration::from_millis(options.max_victim_wait_ms.into())
}

/// It was read when the slice was claimed, and a tune is checked by `enqueue`'s rules: what is none now is none of ours.
fn window_of(options: &Options) -> Option<Window> {
    options.window.as_ref().and_then(|window| Window::read(window).ok())
}

/// What the gate said about the next batch.
enum Admitted {
    Go(Permit),
    /// It held for a while, and nothing else came meanwhile.
    AskAgain,
    /// It held for a while, in which the claim's end came.
    End(End),
}

/// A claim at work.
pub(super) struct Work<'a> {
    worker: &'a mut Worker,
    claim: &'a Claim,
    lease: &'a Lease,
    stop: &'a Shutdown,
    plan: Plan,
    options: Options,
    window: Option<Window>,
    revision: i32,
    executor: Executor,
    walk: Walk,
    gate: Gate,
    split: Split,
    failures: Failures,
    /// Failures in a row of batches that have no row: the statement itself is at fault, by a trigger of its own.
    rowless: u32,
    /// Rows set aside by this slice so far.
    aside: u64,
    /// Rows left behind one after the other, of which nobody knows whether they are at fault.
    doubted: u32,
    dead: vacuum::Dead,
    waits: Waits,
}

impl<'a> Work<'a> {
    /// Opens the claim's own connection and tells the queue which it is, so that a takeover can end it.
    pub async fn begin(worker: &'a mut Worker, claim: &'a Claim, lease: &'a Lease, stop: &'a Shutdown) -> Result<Self> {
        let (plan, upper) = worker.planned(claim).await?;
        let options = Options::read(&worker.defaults, &claim.options);
        let limit = session::batch_limit(&*control(&worker.control).await?).await?;
        let bounds = Bounds { limit, victim_wait: victim_wait(&options) };
        let passage = match claim.kind {
            SliceKind::Verify => {
                let proof = queue::proof(&worker.control, claim).await?;
                let by = if proof.by_expression { verify::By::Expression } else { verify::By::Filter };
                // Where rows begin to match by themselves, an old row is none that was missed.
                let since = proof.planned.filter(|_| by == verify::By::Expression || !plan.filter_varies);
                Passage::Count { condition: verify::counted(&plan, by), since }
            }
            SliceKind::Walk | SliceKind::Plan => Passage::Change,
        };
        let plan = if claim.generation > 1 && claim.kind == SliceKind::Walk { verify::of_sweep(plan) } else { plan };
        let executor = Executor::open(&worker.logins, claim, &plan, passage, bounds, worker.guard.clone()).await?;
        queue::seat(&worker.control, claim, &session::backend(executor.session()).await?).await?;
        let mut walk = Walk::new(claim.checkpoint.position.clone(), upper, claim.checkpoint.done);
        if let Some(loss) = worker.losses.look(&worker.control, claim.slice_id).await? {
            if let Some(error) = loss.of_the_server() {
                worker.losses.forget(claim.slice_id);
                return Err(error);
            }
            if let Some(suspects) = loss.suspects() {
                walk.narrow(suspects);
            }
        }
        let (gate, revision, aside) = (worker.throttle.gate(claim.job_id), claim.revision, claim.deferred);
        let split = Split::new();
        Ok(Self {
            worker,
            claim,
            lease,
            stop,
            plan,
            window: window_of(&options),
            options,
            revision,
            executor,
            walk,
            gate,
            split,
            failures: Failures::default(),
            rowless: 0,
            aside,
            doubted: 0,
            dead: vacuum::Dead::default(),
            waits: Waits::default(),
        })
    }

    pub async fn run(mut self) -> Result<End> {
        let end = self.walk().await;
        if end.is_ok()
            && let Some(written) = self.executor.written_at_last().await
        {
            metrics::written(&self.worker.database, &self.claim.name, written);
        }
        end
    }

    /// Walks to the slice's end, and then back to what was set aside.
    async fn walk(&mut self) -> Result<End> {
        loop {
            if let Some(end) = self.must_end() {
                return Ok(end);
            }
            if let Some(end) = self.cut().await? {
                return Ok(end);
            }
            if self.walk.is_done() {
                break;
            }
            let permit = match self.admitted().await? {
                Admitted::Go(permit) => permit,
                Admitted::AskAgain => continue,
                Admitted::End(end) => return Ok(end),
            };
            let batch = self.walk.next(&permit);
            let started = Instant::now();
            // Read before the last try, so that no other row is taken for the one that failed.
            let (key, tried) = match self.suspect(&batch).await {
                Ok(Some(key)) if let Some(error) = self.deadly() => {
                    match self.leave_behind(&batch, &key, Some(&error)).await? {
                        Some(end) => return Ok(end),
                        None => continue,
                    }
                }
                Ok(key) => (key, self.executor.run(self.claim, &batch, &self.stop.hard).await),
                Err(error) => (None, Err(error)),
            };
            let end = match tried {
                Ok(outcome) => {
                    self.gate.committed(&permit, batch.rows, outcome.scanned, outcome.took);
                    self.walk.feedback(&outcome);
                    self.doubted = 0;
                    self.passed(&outcome, started.elapsed()).await?
                }
                Err(error) => {
                    self.gate.settle(0, self.executor.busy(&error, started.elapsed()));
                    self.mend(&batch, key.as_ref(), error).await?
                }
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
        self.return_to_rows().await
    }

    /// Cuts the slice in two where the job has fewer at work than it wants.
    async fn cut(&mut self) -> Result<Option<End>> {
        if self.lease.seen().map_or(1, |seen| seen.live.max(1)) >= self.options.slices {
            return Ok(None);
        }
        let Self { worker, claim, executor, plan, walk, options, split, .. } = self;
        split.look(worker, claim, executor, plan, walk, options.slices).await
    }

    /// The key of the row that is known to fail, if the batch is that row.
    async fn suspect(&mut self, batch: &Batch) -> Result<Option<Key>> {
        if self.walk.stands_alone() && self.claim.kind == SliceKind::Walk {
            return self.executor.next_key(batch).await;
        }
        Ok(None)
    }

    /// Why the row that stands alone is not even tried.
    fn deadly(&self) -> Option<Error> {
        self.worker.losses.of(self.claim.slice_id).and_then(|loss| loss.of_the_row())
    }

    fn must_end(&self) -> Option<End> {
        if self.stop.drain.is_cancelled() || window::closed_until(&self.worker.window).is_some() {
            return Some(End::Stopped);
        }
        if let Some(until) = window::closed_until(&self.window) {
            return Some(End::Closed(until));
        }
        if !self.lease.trusted() {
            let claim = self.claim;
            tracing::warn!(database.name = %self.worker.database, job.id = claim.job_id, job.name = %claim.name, job.slice = claim.ordinal, "lease ran out; another worker may have the slice");
            return Some(End::Lost);
        }
        None
    }

    fn limits(&self) -> Limits {
        let sharers = self.lease.sharers(self.options.slices);
        Limits {
            max_rows_per_second: self.options.max_rows_per_second.map(|rate| rate / f64::from(sharers)),
            throttle_on: self.options.throttle == Switch::On,
            waits_for_vacuum_of: (self.options.vacuum == Vacuum::Wait).then_some(self.plan.relation),
            max_batch_rows: self.options.max_batch_rows,
            target: self.options.target_batch_ms.map(|millis| Duration::from_millis(millis.into())),
            even_rate: self.claim.kind == SliceKind::Walk,
        }
    }

    async fn admitted(&mut self) -> Result<Admitted> {
        match self.gate.admit(self.limits(), LOOK).await {
            Admission::Go(permit) => {
                if let Some(waited) = self.waits.go(Instant::now()) {
                    let claim = self.claim;
                    tracing::info!(database.name = %self.worker.database, job.id = claim.job_id, job.name = %claim.name, job.slice = claim.ordinal, seconds = waited.as_secs(), "goes on");
                }
                Ok(Admitted::Go(permit))
            }
            Admission::Hold(Waiting { reason, text }) => {
                if self.waits.hold(reason, Instant::now()) {
                    let claim = self.claim;
                    tracing::info!(database.name = %self.worker.database, job.id = claim.job_id, job.name = %claim.name, job.slice = claim.ordinal, reason = reason.as_str(), "waits: {text}");
                }
                self.lease.report(self.gate.rows_per_second(), Some((reason.as_str().to_owned(), text)));
                // No batch asks meanwhile what is wanted, so look.
                Ok(self.look().await?.map_or(Admitted::AskAgain, Admitted::End))
            }
        }
    }

    /// A batch was committed; what its answer says is wanted now.
    async fn passed(&mut self, outcome: &Outcome, took: Duration) -> Result<Option<End>> {
        self.failures.clear();
        self.rowless = 0;
        self.worker.worked = true;
        self.aside += outcome.locked;
        if self.aside >= mend::MOST_ASIDE {
            self.walk.fast();
        }
        self.gate.settle(outcome.changed, took);
        let paced = self.gate.paced().map(|waiting| (waiting.reason.as_str().to_owned(), waiting.text.clone()));
        self.gate.scanned(outcome.scanned);
        self.lease.report(self.gate.rows_per_second(), paced);
        // A verification reads rows; it is not progress of the job.
        if self.claim.kind == SliceKind::Walk {
            let (changed, scanned) = (outcome.changed, outcome.scanned);
            self.gate.matched(scanned, changed);
            metrics::batch_done(&self.worker.database, &self.claim.name, Counted::Committed, changed, scanned, took);
            self.refused(outcome.refused);
            if let Some(written) = self.executor.written(changed).await {
                metrics::written(&self.worker.database, &self.claim.name, written);
            }
            if let Some(end) = self.vacuum_if_due(changed).await? {
                return Ok(Some(end));
            }
        }
        if outcome.checkpoint.done && self.aside == 0 {
            return Ok(None); // Nothing is left that could stop.
        }
        self.wanted(outcome.desired, outcome.revision).await
    }

    fn refused(&self, rows: u64) {
        if rows > 0 {
            metrics::rows_quarantined(&self.worker.database, &self.claim.name, rows);
        }
    }

    async fn wanted(&mut self, desired: Desired, revision: i32) -> Result<Option<End>> {
        if desired != Desired::Running {
            return Ok(Some(End::Stopped));
        }
        if revision != self.revision {
            self.revision = revision;
            let own = queue::options(&self.worker.control, self.claim).await?;
            self.options = Options::read(&self.worker.defaults, &own);
            self.window = window_of(&self.options);
            self.executor.set_victim_wait(victim_wait(&self.options)).await?;
        }
        Ok(None)
    }

    /// What is wanted now, when no batch has asked: an end of this claim, or other options.
    async fn look(&mut self) -> Result<Option<End>> {
        match queue::look(&self.worker.control, self.claim).await? {
            Some((desired, revision)) => self.wanted(desired, revision).await,
            None => Ok(Some(End::Lost)),
        }
    }
}
