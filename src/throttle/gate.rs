//! The gate before each batch of one slice.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Throttle;
use super::allowed::Share;
use super::batches::Running;
use super::controller::{Decision, Pace, decide};
use super::pacer::Pacer;
use super::reading::{Readings, Reason};
use super::vacuum;

/// With a rate limit a batch is worth at most this much of the time: ten small steps a second are not felt.
const BATCH_WORTH: Duration = Duration::from_millis(100);
/// A batch that scans more because few rows matched changes a second's worth of rows at most, when all do of a sudden.
const MOST_SPARSE: f64 = 10.0;
/// What a batch adds counts for the last ten or so.
const FADES: f64 = 0.9;
/// How long a batch should take where the job does not say: where nobody else is at work, and where others are.
const TARGET_ALONE: Duration = Duration::from_millis(10);
const TARGET_IN_COMPANY: Duration = Duration::from_millis(2);

/// What the job allows. For a job of several slices the caller gives each its share of the rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    pub max_rows_per_second: Option<f64>,
    /// Off: only `max_rows_per_second` counts, no budget holds.
    pub throttle_on: bool,
    /// The table on which batches make way for autovacuum; none if they don't.
    pub makes_way_on: Option<u32>,
}

/// Whether the next batch may start now.
#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    Go,
    /// Not yet: look around, then ask again.
    Hold {
        reason: Reason,
        text: String,
    },
}

/// Where few rows match the filter, a batch may scan more of them for as many changes.
#[derive(Debug, Default)]
struct Sparse {
    scanned: f64,
    changed: f64,
}

impl Sparse {
    #[allow(clippy::cast_precision_loss)]
    fn add(&mut self, scanned: u64, changed: u64) {
        self.scanned = self.scanned * FADES + scanned as f64;
        self.changed = self.changed * FADES + changed as f64;
    }

    /// Rows that are scanned for one that is changed, over the last batches.
    fn factor(&self) -> f64 {
        if self.scanned > 0.0 { (self.scanned / self.changed.max(1.0)).clamp(1.0, MOST_SPARSE) } else { 1.0 }
    }
}

/// One for each slice that is being walked.
#[derive(Debug)]
pub struct Gate {
    throttle: Throttle,
    job_id: i64,
    readings: watch::Receiver<Arc<Readings>>,
    pacer: Pacer,
    share: Share,
    sparse: Sparse,
    /// From admission to what it cost.
    running: Option<Running>,
    /// Why the last batch waited for its turn, if it was for the pace.
    paced: Option<(Reason, String)>,
}

impl Gate {
    pub(super) fn new(throttle: Throttle, job_id: i64, readings: watch::Receiver<Arc<Readings>>) -> Self {
        let share = throttle.shared.allowed.share();
        let pacer = throttle.shared.debts.take(job_id);
        Self { throttle, job_id, readings, pacer, share, sparse: Sparse::default(), running: None, paced: None }
    }

    /// Waits until the next batch may start, but not much longer than `max_wait`, so that the caller can look for a
    /// pause or a shutdown in between. It may be dropped at any time: what was waited off stays so.
    pub async fn admit(&mut self, limits: Limits, max_wait: Duration) -> Admission {
        let deadline = Instant::now() + max_wait;
        self.paced = None;
        loop {
            let now = Instant::now();
            self.readings.mark_unchanged();
            let decision = self.decision(limits, now);
            match &decision {
                Decision::Go(pace) => self.share.go(limits.max_rows_per_second, pace),
                Decision::Hold { .. } => self.share.hold(),
            }
            let (duty, slowed) =
                if let Decision::Go(pace) = &decision { (pace.duty, pace.is_slowed()) } else { (1.0, false) };
            // Also while a budget holds: the debt of the last batch is paid by the same wait.
            let paid = self.pacer.pay(limits.max_rows_per_second, duty);
            let (reason, text, wait) = match (decision, paid) {
                (Decision::Hold { reason, text }, paid) => {
                    (reason, text, paid.map_or_else(|unpaid| unpaid.wait, |()| max_wait))
                }
                (Decision::Go(_), Ok(())) => {
                    self.running = Some(self.throttle.shared.batches.begin());
                    return Admission::Go;
                }
                (Decision::Go(Pace { because: Some(why), .. }), Err(unpaid)) if !unpaid.by_rate => {
                    self.paced = slowed.then(|| why.clone());
                    (why.0, why.1, unpaid.wait)
                }
                (Decision::Go(_), Err(unpaid)) => {
                    let rate = limits.max_rows_per_second.unwrap_or_default();
                    (Reason::Rate, format!("no more than {rate} rows a second (max_rows_per_second)"), unpaid.wait)
                }
            };
            if now >= deadline {
                return Admission::Hold { reason, text };
            }
            let until = deadline.min(now + wait.min(max_wait));
            tokio::select! {
                Ok(()) = self.readings.changed(), if limits.throttle_on => {}
                () = tokio::time::sleep_until(until) => {}
            }
            self.throttle.count_hold(reason, now.elapsed());
        }
    }

    /// What the batch cost: `rows` that it changed, and the time that it `took` from admission to answer. The next
    /// `admit` waits it off, under the limits that then hold.
    pub fn settle(&mut self, rows: u64, took: Duration) {
        self.running = None;
        self.pacer.owe(rows, took);
        self.share.settle(rows, took);
    }

    /// What holds the work now, beside its pace and its rate.
    pub fn held(&self, limits: Limits) -> Option<(Reason, String)> {
        match self.decision(limits, Instant::now()) {
            Decision::Hold { reason, text } => Some((reason, text)),
            Decision::Go(_) => None,
        }
    }

    /// Whether nothing slows the work down: nobody else is there, and no budget has to be kept.
    pub fn at_full_speed(&self, limits: Limits) -> bool {
        matches!(self.decision(limits, Instant::now()), Decision::Go(pace) if pace.duty >= 1.0 && !pace.in_company)
    }

    fn decision(&self, limits: Limits, now: Instant) -> Decision {
        if !limits.throttle_on {
            return Decision::Go(Pace::FULL);
        }
        let readings = self.readings.borrow();
        let way = limits.makes_way_on.and_then(|table| making_way(&readings, table, now));
        way.unwrap_or_else(|| decide(&readings, now))
    }

    /// How long the next batch should take: as the job says, or as fits those who are there.
    pub fn batch_target(&self, limits: Limits, told: Option<u32>) -> Duration {
        let in_company = limits.throttle_on && self.readings.borrow().pace.in_company;
        let fitting = if in_company { TARGET_IN_COMPANY } else { TARGET_ALONE };
        told.map_or(fitting, |millis| Duration::from_millis(millis.into()))
    }

    /// Why batches go on at a slower pace; none where they do so at their own rate, or at the pace that company allows.
    pub fn paced(&self) -> Option<&(Reason, String)> {
        self.paced.as_ref()
    }

    /// The most rows that a batch may scan for an even pace of those that it changes; none without a rate limit.
    pub fn batch_rows_cap(&self, limits: Limits) -> Option<u64> {
        limits.max_rows_per_second.map(|rate| (rate * BATCH_WORTH.as_secs_f64() * self.sparse.factor()).max(1.0) as u64)
    }

    /// How many of the rows that a batch scanned it changed.
    pub fn scanned(&mut self, scanned: u64, changed: u64) {
        self.sparse.add(scanned, changed);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let pacer = std::mem::replace(&mut self.pacer, Pacer::new());
        self.throttle.shared.debts.leave(self.job_id, pacer);
    }
}

fn making_way(readings: &Readings, table: u32, now: Instant) -> Option<Decision> {
    let left = vacuum::makes_way(&readings.vacuums, table, now)?;
    let text = format!("autovacuum is on the table; making way for at most {:.0} s more", left.as_secs_f64().ceil());
    Some(Decision::Hold { reason: Reason::Vacuum, text })
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::throttle::controller::{Circumstances, Controller};
    use crate::throttle::reading::{Reading, Signal};

    const FREE: Limits = Limits { max_rows_per_second: None, throttle_on: true, makes_way_on: None };

    fn at_rate(rate: f64) -> Limits {
        Limits { max_rows_per_second: Some(rate), ..FREE }
    }

    /// What the sampler would publish with one replica this far behind.
    fn hear(throttle: &Throttle, lag_seconds: Option<f64>) {
        let at = Instant::now();
        let lag = |value| Reading::budget(Signal::ReplicaLagSeconds, "s1", value, 1.0, at);
        let list: Vec<Reading> = lag_seconds.map(lag).into_iter().collect();
        let mut readings = Readings { heard_at: Some(at), list, ..Readings::default() };
        Controller::default().steer(&mut readings, Circumstances { now: at, working: true, others: None });
        throttle.publish(readings);
    }

    fn throttle() -> Throttle {
        Throttle::new("main".to_owned(), vec![], &[])
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_passes_before_the_first_reading() {
        let throttle = throttle();
        let mut gate = throttle.gate(1);
        let start = Instant::now();
        let held = gate.admit(FREE, Duration::from_millis(300)).await;
        let text = "replica lag has not been read yet".to_owned();
        assert_eq!(held, Admission::Hold { reason: Reason::ReplicaLag, text });
        assert_eq!(start.elapsed(), Duration::from_millis(300));
        hear(&throttle, None);
        assert_eq!(gate.admit(FREE, Duration::ZERO).await, Admission::Go);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_ends_with_the_reading_that_ends_it() {
        let throttle = throttle();
        hear(&throttle, Some(1.5));
        let mut gate = throttle.gate(1);
        let start = Instant::now();
        let (admission, ()) = tokio::join!(gate.admit(FREE, Duration::from_secs(60)), async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            hear(&throttle, Some(0.1));
        });
        assert_eq!(admission, Admission::Go);
        assert_eq!(start.elapsed(), Duration::from_millis(700));
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_of_many_small_slices_keeps_its_rate() {
        let throttle = throttle();
        let start = Instant::now();
        for _ in 0..100 {
            let mut gate = throttle.gate(1);
            loop {
                hear(&throttle, None);
                if gate.admit(at_rate(1000.0), Duration::from_millis(200)).await == Admission::Go {
                    break;
                }
            }
            gate.settle(50, Duration::from_millis(1));
        }
        let took = start.elapsed().as_secs_f64();
        assert!((4.8..5.2).contains(&took), "5000 rows at 1000 a second in {took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_pays_the_debt_of_the_last_batch() {
        let throttle = throttle();
        hear(&throttle, Some(1.5));
        let mut gate = throttle.gate(1);
        gate.settle(500, Duration::ZERO);
        let start = Instant::now();
        // Spawned, as a worker is: the future must be able to move between threads.
        let waiting = tokio::spawn(async move { gate.admit(at_rate(1000.0), Duration::from_secs(60)).await });
        tokio::time::sleep(Duration::from_millis(700)).await;
        hear(&throttle, Some(0.1));
        assert_eq!(waiting.await.expect("no panic"), Admission::Go);
        assert_eq!(start.elapsed(), Duration::from_millis(700));
    }

    #[tokio::test(start_paused = true)]
    async fn with_the_throttle_off_only_the_rate_counts() {
        let throttle = throttle();
        let mut gate = throttle.gate(1);
        let off = Limits { throttle_on: false, ..FREE };
        assert_eq!(gate.admit(off, Duration::ZERO).await, Admission::Go);
        gate.settle(10, Duration::from_millis(5));
        let slow = Limits { max_rows_per_second: Some(10.0), ..off };
        let held = gate.admit(slow, Duration::from_millis(100)).await;
        let text = "no more than 10 rows a second (max_rows_per_second)".to_owned();
        assert_eq!(held, Admission::Hold { reason: Reason::Rate, text });
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_in_short_turns_or_broken_off_is_no_longer_than_one_wait() {
        let throttle = throttle();
        hear(&throttle, None);
        let mut gate = throttle.gate(1);
        gate.settle(100, Duration::ZERO);
        let start = Instant::now();
        loop {
            hear(&throttle, None);
            let turn = gate.admit(at_rate(50.0), Duration::from_millis(37));
            match tokio::time::timeout(Duration::from_millis(23), turn).await {
                Ok(Admission::Go) => break,
                Ok(Admission::Hold { reason, .. }) => assert_eq!(reason, Reason::Rate),
                Err(_dropped) => {}
            }
        }
        let waited = start.elapsed().as_secs_f64();
        assert!((waited - 2.0).abs() < 0.04, "{waited}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_that_eases_slows_by_its_duty_and_says_so() {
        let throttle = throttle();
        hear(&throttle, Some(0.9));
        let mut gate = throttle.gate(1);
        gate.settle(100, Duration::from_millis(100));
        let Admission::Hold { reason, text } = gate.admit(FREE, Duration::from_millis(50)).await else {
            panic!("went on at full speed");
        };
        assert_eq!(reason, Reason::ReplicaLag);
        assert_eq!(text, "s1 is 0.9 s behind (limit 1.0 s): working 2% of the time");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_paces_batches_evenly() {
        let gate = throttle().gate(1);
        assert_eq!(gate.batch_rows_cap(FREE), None);
        assert_eq!(gate.batch_rows_cap(at_rate(1000.0)), Some(100));
        assert_eq!(gate.batch_rows_cap(at_rate(3.0)), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn where_few_rows_match_a_batch_scans_more_of_them() {
        let mut gate = throttle().gate(1);
        let cap = |gate: &Gate| gate.batch_rows_cap(at_rate(1000.0)).expect("a rate");
        gate.scanned(100, 100);
        assert_eq!(cap(&gate), 100);
        for _ in 0..100 {
            gate.scanned(100, 50);
        }
        assert!(cap(&gate).abs_diff(200) <= 1, "{}", cap(&gate));
        for _ in 0..100 {
            gate.scanned(100, 0);
        }
        assert_eq!(cap(&gate), 1000);
        for _ in 0..20 {
            gate.scanned(1000, 1000);
        }
        assert!(cap(&gate) <= 110, "{}", cap(&gate));
    }

    #[tokio::test(start_paused = true)]
    async fn held_time_is_counted_by_reason() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let _guard = metrics::set_default_local_recorder(&recorder);
        let throttle = throttle();
        hear(&throttle, Some(3.0));
        let mut gates = [throttle.gate(1), throttle.gate(1)];
        for gate in &mut gates {
            hear(&throttle, Some(3.0));
            for _ in 0..3 {
                gate.admit(FREE, Duration::from_millis(600)).await;
            }
        }
        let page = handle.render();
        assert!(page.contains("backfilld_hold_seconds_total{database=\"main\",reason=\"replica_lag\"} 3\n"), "{page}");
    }
}
