//! Decides when the next batch of a slice may start and how many rows it may scan. After each
//! batch, the gate makes the slice wait as long as the cost of the batch requires.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::job::permit::Permit;
use crate::job::waiting::{Report, Waiting, WaitingReason};
use crate::throttle::admit::batch_size::{self, BatchSize};
use crate::throttle::admit::carry_over::CarryOver;
use crate::throttle::admit::hold_time::{HoldTime, LONGEST_PAUSE, Waits};
use crate::throttle::admit::network::Network;
use crate::throttle::admit::pacer::Pacer;
use crate::throttle::admit::rate_gauge::{RateGauge, SliceRate};
use crate::throttle::control::verdict::{Decision, Pace};
use crate::throttle::in_flight::{InFlight, InFlightBatch};
use crate::throttle::snapshot::Snapshot;

/// Limits that the job sets. If a job has several slices, the caller gives each slice its share of
/// the rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    pub max_rows_per_second: Option<f64>,
    /// If false, signals and autovacuum are ignored, and only `max_rows_per_second` makes batches
    /// wait.
    pub throttle_on: bool,
    /// OID of a table. While autovacuum runs on this table, batches wait. None if batches do not
    /// wait for autovacuum.
    pub waits_for_vacuum_of: Option<u32>,
    pub max_batch_rows: u32,
    /// Target time of a batch. If this is none, the gate chooses the target time.
    pub target: Option<Duration>,
    /// Whether batches are kept small enough for an even rate. False for a verification, because a
    /// verification changes no rows.
    pub even_rate: bool,
}

/// Whether the next batch may start now.
#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    Go(Permit),
    /// No batch may start yet. The caller checks for a pause, a `tune` or a shutdown, and then
    /// calls [`Gate::admit`] again.
    Wait {
        waiting: Waiting,
        how: Waits,
    },
}

/// Holds the state that all gates of one database share. All clones share the same state.
#[derive(Debug, Clone)]
pub struct Gates {
    in_flight: InFlight,
    rates: RateGauge,
    carry_over: CarryOver,
    hold_time: HoldTime,
}

impl Gates {
    /// Creates the state. `database` is the database's name in the configuration, for labels.
    pub fn new(database: String) -> Self {
        Self {
            in_flight: InFlight::default(),
            rates: RateGauge::default(),
            carry_over: CarryOver::default(),
            hold_time: HoldTime::new(database),
        }
    }

    /// Opens a gate for one slice of the job. The slice first pays the amount that an earlier slice
    /// of the job still owes.
    pub fn open(&self, job_id: i64, snapshots: watch::Receiver<Arc<Snapshot>>) -> Gate {
        Gate {
            gates: self.clone(),
            job_id,
            snapshots,
            pacer: self.carry_over.take(job_id),
            rate: self.rates.slice(),
            size: BatchSize::default(),
            running: None,
            paced: None,
            network: Network::default(),
            idle_since: Instant::now(),
        }
    }

    pub fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    /// Returns the rows per second that all slices together may change. Returns none if a slice has
    /// no limit, if the limit of a slice is not known yet, or if no slice is active.
    pub fn rows_per_second(&self) -> Option<f64> {
        self.rates.rows_per_second()
    }
}

/// The gate of one slice that this daemon walks or verifies.
#[derive(Debug)]
pub struct Gate {
    gates: Gates,
    job_id: i64,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    pacer: Pacer,
    rate: SliceRate,
    size: BatchSize,
    /// The running batch, from its admission until it is settled.
    running: Option<InFlightBatch>,
    /// Reason for the wait in the last call of [`Gate::admit`], if a slower pace or the rate limit
    /// caused the wait.
    paced: Option<Waiting>,
    network: Network,
    /// Time at which the last batch ended, or at which the gate was opened.
    idle_since: Instant,
}

impl Gate {
    /// Waits until the next batch may start, but not much longer than `max_wait`. The caller can
    /// then check for a pause or a shutdown, and call this function again. The future may be
    /// dropped at any time, because the time already waited counts toward the pause.
    pub async fn admit(&mut self, limits: Limits, max_wait: Duration) -> Admission {
        let deadline = Instant::now() + max_wait;
        self.paced = None;
        loop {
            let now = Instant::now();
            self.snapshots.mark_unchanged();
            let decision = self.decision(limits, now);
            match &decision {
                Decision::Go(pace) => self.rate.go(limits.max_rows_per_second, pace),
                Decision::Hold(_) => self.rate.hold(),
            }
            let (duty_cycle, slowed) =
                if let Decision::Go(pace) = &decision { (pace.duty_cycle, pace.is_slowed()) } else { (1.0, false) };
            // This call is made during a hold, too, so that the time of the hold counts towards the
            // cost of the last batch.
            let paid = self.pacer.pay(limits.max_rows_per_second, duty_cycle);
            let (waiting, wait, left) = match (decision, paid) {
                (Decision::Hold(waiting), paid) => {
                    (waiting, paid.map_or_else(|unpaid| unpaid.wait, |()| max_wait), Duration::MAX)
                }
                (Decision::Go(pace), Ok(())) => {
                    self.running = Some(self.gates.in_flight.begin());
                    let target = batch_size::target(limits.target, pace.other_load, self.network.time());
                    let rate = limits.max_rows_per_second.filter(|_| limits.even_rate);
                    return Admission::Go(self.size.permit(target, limits.max_batch_rows, rate));
                }
                (Decision::Go(Pace { because: Some(because), .. }), Err(unpaid)) if !unpaid.by_rate => {
                    self.paced = slowed.then(|| because.clone());
                    (because, unpaid.wait, unpaid.left)
                }
                (Decision::Go(_), Err(unpaid)) => {
                    let rate = limits.max_rows_per_second.unwrap_or_default();
                    // A share of a rate may have many digits, so it is rounded. A share below 0.01
                    // is shown as 0.01, and not as 0.
                    let rate = ((rate * 100.0).round() / 100.0).max(0.01);
                    let text = format!("limited to {rate} rows per second (this slice's share of max_rows_per_second)");
                    let waiting = Waiting::new(WaitingReason::Rate, text);
                    self.paced = Some(waiting.clone());
                    (waiting, unpaid.wait, unpaid.left)
                }
            };
            let pause = self.idle_since.elapsed().saturating_add(left);
            let how = if pause > LONGEST_PAUSE { Waits::Held } else { Waits::Throttled };
            if now >= deadline {
                return Admission::Wait { waiting, how };
            }
            let until = deadline.min(now + wait.min(max_wait));
            tokio::select! {
                Ok(()) = self.snapshots.changed(), if limits.throttle_on => {}
                () = tokio::time::sleep_until(until) => {}
            }
            self.gates.hold_time.add(waiting.reason, how, now.elapsed());
        }
    }

    /// Records the cost of a batch. The cost consists of the `rows` that the batch changed and the
    /// time that the batch `took`. This time begins when the batch is admitted and ends when the
    /// server has returned the result. If the batch failed because of a lock timeout, the time does
    /// not include the lock wait. The next `admit` waits until this cost is paid at the limits that
    /// its caller passes. The batch did not use the server while its messages were on the network,
    /// so this time counts as a pause.
    pub fn settle(&mut self, rows: u64, took: Duration) {
        self.running = None;
        self.idle_since = Instant::now();
        let network = self.network.time().min(took);
        self.pacer.owe(rows, took.saturating_sub(network));
        self.pacer.waited(network);
        self.rate.settle(rows, took);
    }

    /// Returns the reason if a signal or autovacuum on the table holds the job now. Returns none if
    /// only the pace or a rate limit slows the job down.
    pub fn held(&self, limits: Limits) -> Option<Waiting> {
        match self.decision(limits, Instant::now()) {
            Decision::Hold(waiting) => Some(waiting),
            Decision::Go(_) => None,
        }
    }

    /// Returns whether only the job's own rate limit, if any, can slow the job down. This is the
    /// case if the job ignores signals (`throttle_on` is false), or if all of these are true:
    ///
    /// - The server is otherwise idle.
    /// - Neither a signal nor autovacuum holds the job.
    /// - No signal lowers the duty cycle.
    pub fn at_full_speed(&self, limits: Limits) -> bool {
        matches!(self.decision(limits, Instant::now()), Decision::Go(pace) if pace.duty_cycle >= 1.0 && !pace.other_load)
    }

    fn decision(&self, limits: Limits, now: Instant) -> Decision {
        if !limits.throttle_on {
            return Decision::Go(Pace::FULL);
        }
        let snapshot = self.snapshots.borrow();
        let vacuum = limits.waits_for_vacuum_of.and_then(|table| vacuum(&snapshot, table, now));
        vacuum.map_or_else(|| snapshot.decide(now), Decision::Hold)
    }

    /// Returns the reason why batches run at a slower pace, including the job's own rate limit and
    /// a slow network. Returns none if batches run at full speed, or at the fastest pace that is
    /// possible while other sessions are active.
    pub fn paced(&self) -> Option<Waiting> {
        self.paced.clone().or_else(|| Some(Waiting::new(WaitingReason::Load, self.network.tell()?)))
    }

    /// Adapts the batch size after a commit. `asked` is the number of rows that the batch should
    /// have scanned under `permit`. `took` is the time that the server needed for the batch, and
    /// `total` the time until its answer arrived.
    pub fn committed(&mut self, permit: &Permit, asked: u32, scanned: u64, took: Duration, total: Duration) {
        self.network.measured(total, took);
        self.size.committed(permit, asked, scanned, took);
    }

    /// Records how many of the scanned rows a batch changed.
    pub fn matched(&mut self, scanned: u64, changed: u64) {
        self.size.matched(scanned, changed);
    }

    /// Halves the batch size after a failure that a smaller batch may avoid. For example, the batch
    /// blocked another session or reached its time limit.
    pub fn shrink(&mut self) {
        self.size.shrink();
    }

    /// Counts rows that the walk scanned.
    pub fn scanned(&mut self, rows: u64) {
        self.rate.scanned(rows);
    }

    /// Returns the rates of the slice, for its next heartbeat.
    pub fn report(&mut self) -> Report {
        self.rate.report()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let pacer = std::mem::replace(&mut self.pacer, Pacer::new());
        self.gates.carry_over.leave(self.job_id, pacer);
    }
}

/// Returns the reason for the hold if batches on the table must wait for autovacuum, otherwise
/// none.
fn vacuum(snapshot: &Snapshot, table: u32, now: Instant) -> Option<Waiting> {
    let left = snapshot.readings.vacuums.time_left(table, now)?.as_secs_f64().ceil();
    let text = format!("pausing for autovacuum on this table (at most {left:.0} s)");
    Some(Waiting::new(WaitingReason::Vacuum, text))
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::throttle::control::circumstances::Circumstances;
    use crate::throttle::control::controller::Controller;
    use crate::throttle::measure::readings::{Reading, Readings};
    use crate::throttle::measure::signal::Signal;

    const FREE: Limits = Limits {
        max_rows_per_second: None,
        throttle_on: true,
        waits_for_vacuum_of: None,
        max_batch_rows: 5000,
        target: None,
        even_rate: true,
    };

    fn at_rate(rate: f64) -> Limits {
        Limits { max_rows_per_second: Some(rate), ..FREE }
    }

    /// Holds the gates of one database, and publishes snapshots to these gates in the same way as
    /// the regulator does.
    struct Bench {
        gates: Gates,
        snapshots: watch::Sender<Arc<Snapshot>>,
    }

    impl Bench {
        fn new() -> Self {
            Self { gates: Gates::new("main".to_owned()), snapshots: watch::Sender::default() }
        }

        fn gate(&self, job_id: i64) -> Gate {
            self.gates.open(job_id, self.snapshots.subscribe())
        }

        /// Publishes a snapshot with one replica that is `lag_seconds` behind, or with no replica.
        fn publish(&self, lag_seconds: Option<f64>) {
            let at = Instant::now();
            let lag = |value| Reading::budget(Signal::ReplicaLagSeconds, "s1", value, 1.0, at);
            let list: Vec<Reading> = lag_seconds.map(lag).into_iter().collect();
            let readings = Readings { sampled_at: Some(at), list, ..Readings::default() };
            let circumstances = Circumstances { now: at, working: true, other_daemons: None };
            let verdict = Controller::default().steer(&readings, &circumstances);
            self.snapshots.send_replace(Arc::new(Snapshot { readings, verdict }));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_batch_starts_before_the_first_reading() {
        let bench = Bench::new();
        let mut gate = bench.gate(1);
        let start = Instant::now();
        let held = gate.admit(FREE, Duration::from_millis(300)).await;
        let text = "replica lag has not been read yet".to_owned();
        assert_eq!(held, Admission::Wait { waiting: Waiting::new(WaitingReason::ReplicaLag, text), how: Waits::Held });
        assert_eq!(start.elapsed(), Duration::from_millis(300));
        bench.publish(None);
        assert!(matches!(gate.admit(FREE, Duration::ZERO).await, Admission::Go(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_ends_with_the_reading_that_ends_it() {
        let bench = Bench::new();
        bench.publish(Some(1.5));
        let mut gate = bench.gate(1);
        let start = Instant::now();
        let (admission, ()) = tokio::join!(gate.admit(FREE, Duration::from_secs(60)), async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            bench.publish(Some(0.1));
        });
        assert!(matches!(admission, Admission::Go(_)));
        assert_eq!(start.elapsed(), Duration::from_millis(700));
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_of_many_small_slices_keeps_its_rate() {
        let bench = Bench::new();
        let start = Instant::now();
        for _ in 0..100 {
            let mut gate = bench.gate(1);
            loop {
                bench.publish(None);
                if matches!(gate.admit(at_rate(1000.0), Duration::from_millis(200)).await, Admission::Go(_)) {
                    break;
                }
            }
            gate.settle(50, Duration::from_millis(1));
        }
        let took = start.elapsed().as_secs_f64();
        assert!((4.8..5.2).contains(&took), "5000 rows at 1000 a second in {took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_pays_for_the_last_batch() {
        let bench = Bench::new();
        bench.publish(Some(1.5));
        let mut gate = bench.gate(1);
        gate.settle(500, Duration::ZERO);
        let start = Instant::now();
        // The worker spawns this future, so the future must be able to move between threads.
        let waiting = tokio::spawn(async move { gate.admit(at_rate(1000.0), Duration::from_secs(60)).await });
        tokio::time::sleep(Duration::from_millis(700)).await;
        bench.publish(Some(0.1));
        assert!(matches!(waiting.await.expect("no panic"), Admission::Go(_)));
        assert_eq!(start.elapsed(), Duration::from_millis(700));
    }

    #[tokio::test(start_paused = true)]
    async fn with_the_throttle_off_only_the_rate_counts() {
        let bench = Bench::new();
        let mut gate = bench.gate(1);
        let off = Limits { throttle_on: false, ..FREE };
        assert!(matches!(gate.admit(off, Duration::ZERO).await, Admission::Go(_)));
        gate.settle(10, Duration::from_millis(5));
        let slow = Limits { max_rows_per_second: Some(10.0), ..off };
        let held = gate.admit(slow, Duration::from_millis(100)).await;
        let text = "limited to 10 rows per second (this slice's share of max_rows_per_second)".to_owned();
        assert_eq!(held, Admission::Wait { waiting: Waiting::new(WaitingReason::Rate, text), how: Waits::Throttled });
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_in_parts_or_interrupted_is_no_longer_than_one_wait() {
        let bench = Bench::new();
        bench.publish(None);
        let mut gate = bench.gate(1);
        gate.settle(100, Duration::ZERO);
        let start = Instant::now();
        loop {
            bench.publish(None);
            let turn = gate.admit(at_rate(50.0), Duration::from_millis(37));
            match tokio::time::timeout(Duration::from_millis(23), turn).await {
                Ok(Admission::Go(_)) => break,
                Ok(Admission::Wait { waiting, .. }) => assert_eq!(waiting.reason, WaitingReason::Rate),
                Err(_dropped) => {}
            }
        }
        let waited = start.elapsed().as_secs_f64();
        assert!((waited - 2.0).abs() < 0.04, "{waited}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_below_its_limit_slows_jobs_by_its_duty_cycle_and_is_reported() {
        let bench = Bench::new();
        bench.publish(Some(0.9));
        let mut gate = bench.gate(1);
        gate.settle(100, Duration::from_millis(100));
        let Admission::Wait { waiting, how } = gate.admit(FREE, Duration::from_millis(50)).await else {
            panic!("the batch did not wait");
        };
        assert_eq!((waiting.reason, how), (WaitingReason::ReplicaLag, Waits::Throttled));
        assert_eq!(waiting.text, "s1 is 0.9 s behind (limit 1.0 s): batches run 2 % of the time");
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_keeps_an_even_rate_and_suits_the_other_load() {
        let bench = Bench::new();
        bench.publish(None);
        let permit = |admission: Admission| match admission {
            Admission::Go(permit) => permit,
            Admission::Wait { waiting, .. } => panic!("{waiting:?}"),
        };
        let admit = async |limits| permit(bench.gate(1).admit(limits, Duration::ZERO).await);
        let on_idle_server = admit(FREE).await;
        assert_eq!(on_idle_server, Permit { max_rows: 100, target: Duration::from_millis(10) });
        assert_eq!(admit(at_rate(50.0)).await.max_rows, 5);
        assert_eq!(admit(Limits { even_rate: false, ..at_rate(50.0) }).await.max_rows, 100);
        assert_eq!(admit(Limits { max_batch_rows: 7, ..FREE }).await.max_rows, 7);
        bench.snapshots.send_modify(|snapshot| Arc::make_mut(snapshot).verdict.pace.other_load = true);
        let beside_others = Permit { max_rows: 20, target: Duration::from_millis(2) };
        assert_eq!(admit(FREE).await, beside_others);
        assert_eq!(admit(Limits { throttle_on: false, ..FREE }).await, on_idle_server);
        assert_eq!(admit(Limits { target: Some(Duration::from_millis(10)), ..FREE }).await, on_idle_server);
    }

    /// Each batch spends a second on the network and 10 ms on the server.
    #[tokio::test(start_paused = true)]
    async fn time_on_the_network_is_no_cost_and_is_reported() {
        let bench = Bench::new();
        bench.publish(Some(0.9));
        let mut gate = bench.gate(1);
        let (total, server) = (Duration::from_millis(1035), Duration::from_millis(10));
        let start = Instant::now();
        for _ in 0..10 {
            bench.publish(Some(0.9));
            tokio::time::advance(total).await;
            gate.committed(&Permit { max_rows: 100, target: server }, 100, 100, server, total);
            gate.settle(100, total);
            // At a duty cycle of 2 %, a batch of 35 ms is followed by a pause of 1.7 s. The second
            // on the network counts as a part of this pause.
            while !matches!(gate.admit(FREE, Duration::from_secs(60)).await, Admission::Go(_)) {
                bench.publish(Some(0.9));
            }
        }
        let took = start.elapsed().as_secs_f64();
        assert!((10.0..22.0).contains(&took), "{took}");
        bench.publish(None);
        assert!(matches!(gate.admit(FREE, Duration::from_secs(60)).await, Admission::Go(_)));
        let told = gate.paced().map(|waiting| waiting.text);
        assert_eq!(told.as_deref(), Some("the network to the server is slow: it adds 1000 ms to each batch"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_of_more_than_five_seconds_counts_as_held() {
        let bench = Bench::new();
        bench.publish(None);
        let mut gate = bench.gate(1);
        gate.settle(1, Duration::ZERO);
        for (rate, expected) in [(1.0, Waits::Throttled), (0.25, Waits::Throttled), (0.1, Waits::Held)] {
            bench.publish(None);
            match gate.admit(at_rate(rate), Duration::from_millis(10)).await {
                Admission::Wait { how, .. } => assert_eq!(how, expected, "{rate}"),
                Admission::Go(_) => panic!("the batch did not wait"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn held_time_is_counted_by_reason() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let _guard = metrics::set_default_local_recorder(&recorder);
        let bench = Bench::new();
        bench.publish(Some(3.0));
        let mut gates = [bench.gate(1), bench.gate(1)];
        for gate in &mut gates {
            bench.publish(Some(3.0));
            for _ in 0..3 {
                gate.admit(FREE, Duration::from_millis(600)).await;
            }
        }
        let page = handle.render();
        assert!(page.contains("backfilld_hold_seconds_total{database=\"main\",reason=\"replica_lag\"} 3\n"), "{page}");
    }
}
