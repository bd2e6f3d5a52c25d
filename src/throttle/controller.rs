//! The control law: readings in, a pace out. Pure, so that it can be tried against any weather; `simulator.rs` does.
//!
//! The duty is the share of the time in which batches run. What budgets leave of it (`budgets.rs`) and what load leaves (`load.rs`)
//! are two laws; the smaller duty counts.

mod budgets;
mod load;

use std::time::Duration;

use tokio::time::Instant;

use budgets::Budgets;
use load::{Load, MOST_IN_COMPANY};

use super::reading::{MAX_AGE, Reading, Readings, Reason};

/// Not 0: a trickle keeps WAL flowing, without which a standby's position is not told afresh.
const LEAST_DUTY: f64 = 0.005;
/// Samples that are further apart tell nothing of how fast a budget moves.
const GAP: Duration = Duration::from_secs(3);

/// Whether the next batch may start.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    Go(Pace),
    Hold { reason: Reason, text: String },
}

/// How fast.
#[derive(Debug, Clone, PartialEq)]
pub struct Pace {
    /// Share of the time in which batches may run, above 0 and up to 1: after a batch that took `d` comes a pause of
    /// `d * (1 / duty - 1)`.
    pub duty: f64,
    /// What keeps the duty below 1.
    pub because: Option<(Reason, String)>,
    /// Others are at work on the server: batches are to be small.
    pub in_company: bool,
}

impl Pace {
    pub const FULL: Self = Self { duty: 1.0, because: None, in_company: false };

    /// Whether it is slower than it would be with no more than company.
    pub fn is_slowed(&self) -> bool {
        self.duty < MOST_IN_COMPANY
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::FULL
    }
}

/// What is known beside the readings when the pace is set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Circumstances {
    pub now: Instant,
    /// Whether batches run at all: an idle daemon learns nothing of what its work would do.
    pub working: bool,
    /// The mean duty that budgets leave other daemons at work on this database; none if there are none.
    pub others: Option<f64>,
}

/// The memory of the law. One for each database, applied where the readings are made, so that every slice, the view and
/// the log tell the same.
#[derive(Debug, Default)]
pub struct Controller {
    budgets: Budgets,
    load: Load,
}

impl Controller {
    /// Marks the budgets that hold, and sets the pace for all others.
    pub fn steer(&mut self, readings: &mut Readings, circumstances: Circumstances) {
        self.budgets.mark(&mut readings.list);
        let budget = self.budgets.pace(&readings.list, circumstances);
        readings.budget_duty = self.budgets.duty();
        let in_company = readings.in_company();
        let load = self.load.pace(&readings.list, in_company, circumstances);
        let slower = if load.duty < budget.duty { load } else { budget };
        readings.pace = Pace { in_company, ..slower };
    }
}

fn pressure(reading: &Reading) -> f64 {
    reading.pressure().unwrap_or(f64::INFINITY)
}

/// May a batch start at `now`, and at what pace?
///
/// No readings at all from a database that answers means that it has no replica: go.
pub fn decide(readings: &Readings, now: Instant) -> Decision {
    if let Some(text) = deaf(readings, now) {
        return Decision::Hold { reason: Reason::ReplicaLag, text };
    }
    if let Some((reason, text)) = readings.unread.clone() {
        return Decision::Hold { reason, text };
    }
    let tightest = |reading: &&Reading| reading.utilization().unwrap_or(f64::INFINITY);
    let by_tightness = |a: &&Reading, b: &&Reading| tightest(a).total_cmp(&tightest(b));

    if let Some(reading) = readings.list.iter().filter(|reading| reading.hold(now).is_some()).max_by(by_tightness) {
        let text = reading.hold(now).unwrap_or_else(|| reading.describe());
        return Decision::Hold { reason: reading.signal.reason(), text };
    }
    Decision::Go(readings.pace.clone())
}

/// Why the readings as a whole can't be trusted.
fn deaf(readings: &Readings, now: Instant) -> Option<String> {
    let cause = readings.trouble.as_deref().map(|trouble| format!(": {trouble}")).unwrap_or_default();
    match readings.heard_at.map(|at| now.saturating_duration_since(at)) {
        None => Some(format!("replica lag has not been read yet{cause}")),
        Some(age) if age > MAX_AGE => {
            Some(format!("replica lag has not been read for {:.1} s{cause}", age.as_secs_f64()))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod simulator;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::throttle::reading::{Kind, Signal};

    pub(super) fn lag(value: f64, at: Instant) -> Reading {
        Reading::budget(Signal::ReplicaLagSeconds, "s1", value, 1.0, at)
    }

    pub(super) fn fresh(list: Vec<Reading>, at: Instant) -> Readings {
        Readings { heard_at: Some(at), list, ..Readings::default() }
    }

    pub(super) fn steered(controller: &mut Controller, list: Vec<Reading>, now: Instant) -> Readings {
        let mut readings = fresh(list, now);
        controller.steer(&mut readings, Circumstances { now, working: true, others: None });
        readings
    }

    #[tokio::test]
    async fn a_database_without_replicas_goes_at_full_speed() {
        let now = Instant::now();
        assert_eq!(decide(&fresh(vec![], now), now), Decision::Go(Pace::FULL));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_not_good_news() {
        let now = Instant::now();
        let Decision::Hold { text, .. } = decide(&Readings::default(), now) else { panic!("went on unheard") };
        assert_eq!(text, "replica lag has not been read yet");
        let readings = Readings { trouble: Some("no answer within 2 s".to_owned()), ..fresh(vec![], now) };
        assert_eq!(decide(&readings, now), Decision::Go(Pace::FULL));
        let later = now + Duration::from_secs(5);
        let Decision::Hold { text, .. } = decide(&readings, later) else { panic!("went on unheard") };
        assert_eq!(text, "replica lag has not been read for 5.0 s: no answer within 2 s");
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_are_told_is_what_budgets_leave_and_not_what_this_daemon_hears_of_load() {
        let mut controller = Controller::default();
        let mut now = Instant::now();
        for _ in 0..50 {
            now += Duration::from_millis(200);
            let busy = Reading { kind: Kind::Load, ..Reading::budget(Signal::User, "sensor", 5.0, 1.0, now) };
            let readings = steered(&mut controller, vec![lag(0.0, now), busy], now);
            assert!(readings.pace.duty <= readings.budget_duty.expect("a budget is there"));
        }
        let readings = steered(&mut controller, vec![lag(0.0, now)], now);
        assert!(readings.budget_duty > Some(0.9) && readings.pace.duty < 0.1, "{readings:?}");
        assert_eq!(steered(&mut controller, vec![], now).budget_duty, None);
    }

    fn any_reading() -> impl Strategy<Value = (bool, u8, Option<f64>, f64, u64)> {
        let value = prop::option::of(prop_oneof![Just(f64::NAN), Just(f64::INFINITY), -1.0..3.0]);
        (any::<bool>(), 0u8..3, value, 0.0..2.0, 0u64..6000)
    }

    proptest! {
        #[test]
        fn whatever_the_weather_the_law_is_kept(
            samples in prop::collection::vec(prop::collection::vec(any_reading(), 0..5), 1..6),
        ) {
            let mut now = Instant::now() + Duration::from_secs(60);
            let mut controller = Controller::default();
            for sample in samples {
                now += Duration::from_millis(200);
                let list: Vec<Reading> = sample
                    .into_iter()
                    .map(|(seconds, source, value, limit, age)| Reading {
                        signal: if seconds { Signal::ReplicaLagSeconds } else { Signal::ReplicaLagBytes },
                        source: format!("s{source}"),
                        kind: Kind::Budget,
                        value,
                        limit,
                        forecast: value.map(|value| value * 1.5),
                        at: now - Duration::from_millis(age),
                        max_age: MAX_AGE,
                        holding: false,
                        reason: None,
                    })
                    .collect();
                let readings = steered(&mut controller, list, now);
                for reading in &readings.list {
                    prop_assert_eq!(reading.holding, reading.reason.is_some());
                }
                let must_hold = readings.list.iter().any(|reading| {
                    reading.age(now) > MAX_AGE || reading.utilization().is_none_or(|utilization| utilization >= 1.0)
                });
                match decide(&readings, now) {
                    Decision::Hold { text, .. } => prop_assert!(!text.is_empty()),
                    Decision::Go(pace) => {
                        prop_assert!(!must_hold);
                        prop_assert!((LEAST_DUTY..=1.0).contains(&pace.duty));
                        prop_assert_eq!(pace.duty < 1.0, pace.because.is_some());
                    }
                }
            }
        }
    }
}
