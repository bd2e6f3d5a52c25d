//! Turns readings into a verdict. The controller does no I/O, so that tests can simulate any load.
//!
//! The duty cycle is the share of time in which batches run. One law computes the duty cycle that
//! budgets allow (`budgets`). Another law computes the duty cycle that load allows (`load`). The
//! lower of the two duty cycles applies.

use crate::throttle::control::budgets::Budgets;
use crate::throttle::control::circumstances::Circumstances;
use crate::throttle::control::load::Load;
use crate::throttle::control::verdict::{Pace, Verdict};
use crate::throttle::measure::readings::Readings;

/// Holds the state of the two control laws, one for budgets and one for load. Each database has one
/// controller.
#[derive(Debug, Default)]
pub struct Controller {
    budgets: Budgets,
    load: Load,
}

impl Controller {
    /// Computes the verdict from the readings. The verdict contains the budgets that hold jobs, and
    /// the pace of jobs that are not held.
    pub fn steer(&mut self, readings: &Readings, circumstances: &Circumstances) -> Verdict {
        let holds = self.budgets.holds(&readings.list);
        let budget = self.budgets.pace(&readings.list, !holds.is_empty(), circumstances);
        let other_load = readings.other_sessions_active();
        let load = self.load.pace(&readings.list, other_load, circumstances);
        let slower = if load.duty_cycle < budget.duty_cycle { load } else { budget };
        let pace = Pace { other_load, ..slower };
        Verdict { pace, budget_duty_cycle: self.budgets.duty_cycle(), holds }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::*;
    use crate::throttle::control::circumstances::LEAST_DUTY_CYCLE;
    use crate::throttle::control::samples::{fresh, lag};
    use crate::throttle::control::verdict::Decision;
    use crate::throttle::measure::readings::{MAX_AGE, Reading};
    use crate::throttle::measure::signal::{Signal, SignalKind};
    use crate::throttle::snapshot::Snapshot;

    /// Returns the snapshot that the daemon would publish for these readings while batches run.
    fn steered(controller: &mut Controller, list: Vec<Reading>, now: Instant) -> Snapshot {
        let readings = fresh(list, now);
        let verdict = controller.steer(&readings, &Circumstances { now, working: true, other_daemons: None });
        Snapshot { readings, verdict }
    }

    #[tokio::test]
    async fn a_job_runs_at_full_speed_without_replicas() {
        let now = Instant::now();
        assert_eq!(Verdict::default().decide(&fresh(vec![], now), now), Decision::Go(Pace::FULL));
    }

    #[tokio::test(start_paused = true)]
    async fn readings_that_are_missing_or_stale_hold_jobs() {
        let now = Instant::now();
        let decide = |readings: &Readings, now| Verdict::default().decide(readings, now);
        let Decision::Hold(waiting) = decide(&Readings::default(), now) else { panic!("not held without a reading") };
        assert_eq!(waiting.text, "replica lag has not been read yet");
        let readings = Readings { failure: Some("no response within 2 s".to_owned()), ..fresh(vec![], now) };
        assert_eq!(decide(&readings, now), Decision::Go(Pace::FULL));
        let later = now + Duration::from_secs(5);
        let Decision::Hold(waiting) = decide(&readings, later) else { panic!("not held with stale readings") };
        assert_eq!(waiting.text, "replica lag has not been read for 5.0 s: no response within 2 s");
    }

    #[tokio::test(start_paused = true)]
    async fn the_published_duty_cycle_is_that_of_budgets_and_not_that_of_load() {
        let mut controller = Controller::default();
        let mut now = Instant::now();
        for _ in 0..50 {
            now += Duration::from_millis(200);
            let busy = Reading { kind: SignalKind::Load, ..Reading::budget(Signal::User, "sensor", 5.0, 1.0, now) };
            let verdict = steered(&mut controller, vec![lag(0.0, now), busy], now).verdict;
            assert!(verdict.pace.duty_cycle <= verdict.budget_duty_cycle.expect("there is a budget"));
        }
        let verdict = steered(&mut controller, vec![lag(0.0, now)], now).verdict;
        assert!(verdict.budget_duty_cycle > Some(0.9) && verdict.pace.duty_cycle < 0.1, "{verdict:?}");
        assert_eq!(steered(&mut controller, vec![], now).verdict.budget_duty_cycle, None);
    }

    fn any_reading() -> impl Strategy<Value = (bool, u8, Option<f64>, f64, u64)> {
        let value = prop::option::of(prop_oneof![Just(f64::NAN), Just(f64::INFINITY), -1.0..3.0]);
        (any::<bool>(), 0u8..3, value, 0.0..2.0, 0u64..6000)
    }

    proptest! {
        #[test]
        fn the_control_law_holds_for_any_readings(
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
                        kind: SignalKind::Budget,
                        value,
                        limit,
                        forecast: value.map(|value| value * 1.5),
                        at: now - Duration::from_millis(age),
                        max_age: MAX_AGE,
                        must_hold: false,
                        note: None,
                    })
                    .collect();
                let snapshot = steered(&mut controller, list, now);
                for (reading, hold) in snapshot.holds(now) {
                    let over = reading.is_stale(now) || reading.utilization().is_none_or(|utilization| utilization >= 1.0);
                    prop_assert!(!over || hold.is_some(), "{:?}", reading);
                    prop_assert!(hold.is_none_or(|text| !text.is_empty()));
                }
                let must_hold = snapshot.readings.list.iter().any(|reading| {
                    reading.age(now) > MAX_AGE || reading.utilization().is_none_or(|utilization| utilization >= 1.0)
                });
                match snapshot.decide(now) {
                    Decision::Hold(waiting) => prop_assert!(!waiting.text.is_empty()),
                    Decision::Go(pace) => {
                        prop_assert!(!must_hold);
                        prop_assert!((LEAST_DUTY_CYCLE..=1.0).contains(&pace.duty_cycle));
                        prop_assert_eq!(pace.duty_cycle < 1.0, pace.because.is_some());
                    }
                }
            }
        }
    }
}
