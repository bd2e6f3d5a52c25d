//! Computes the duty cycle that budgets allow. A budget that reaches its limit holds jobs until its
//! utilization falls below [`RESUME`]. Below the limit, the duty cycle depends on the tightest
//! budget, which is the one with the highest [`Reading::pressure`]. A pressure below the target
//! makes the duty cycle grow, and a pressure above the target makes it shrink. The target is
//! [`TARGET`], or lower for some minutes after a budget came too close to its limit. The change of
//! the duty cycle at each sample also depends on the speed at which the pressure changes. So the
//! pressure settles at the target, instead of reaching the limit repeatedly. Several daemons on one
//! database converge to the same duty cycle.
//!
//! The pressure is the utilization of the present value or of the forecast, whichever is higher.
//! The forecast is included, because the lag itself rises only some time after the WAL was written.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use crate::job::waiting::Waiting;
use crate::throttle::control::circumstances::{Circumstances, GAP, LEAST_DUTY_CYCLE, pressure};
use crate::throttle::control::verdict::Pace;
use crate::throttle::measure::readings::{Reading, ReadingId};
use crate::throttle::measure::signal::{Signal, SignalKind};

/// The pressure at which the controller holds the tightest budget while conditions are steady.
const TARGET: f64 = 0.6;
/// While the utilization of the tightest budget is `TOO_NEAR` or higher, the safety margin grows:
/// the target shrinks at the rate `CAUTION` (per second), down to `LEAST_TARGET`. Afterwards the
/// target returns to [`TARGET`] with a time constant of `FORGET` seconds.
const TOO_NEAR: f64 = 0.85;
const CAUTION: f64 = 1.0;
const LEAST_TARGET: f64 = 0.35;
const FORGET: f64 = 120.0;
/// A budget that holds jobs releases them when its utilization falls below this value. With a value
/// closer to 1, jobs would start and stop with each sample.
const RESUME: f64 = 0.7;
/// Duty cycle with which jobs begin if there is a budget.
const FIRST_DUTY_CYCLE: f64 = 0.02;
/// If the pressure differs from the target, the duty cycle is multiplied by a factor in each
/// second. `GROWTH` is the upper bound of this factor, and `SHRINKAGE` is the lower bound.
const GROWTH: f64 = 2.5;
const SHRINKAGE: f64 = 0.02;
/// Strength of the duty cycle's response to the distance from the target (`ANSWER`, per second) and
/// to the change of the pressure (`DAMPING`). With these two values, the duty cycle settles without
/// oscillation (see `simulator`). For replica lag in seconds, `ANSWER` is divided by the limit in
/// seconds, so a replica with a higher limit settles more slowly.
const ANSWER: f64 = 1.5;
const DAMPING: f64 = 2.5;
/// Maximum effect of the damping between two samples. The bound is the same for increases and
/// decreases. With different bounds, a replica that reports its position in steps would be treated
/// like a replica that falls behind.
const JERK: f64 = 0.5;
/// Factor by which the duty cycle is multiplied after a hold. The duty cycle before the hold was
/// too high.
const AFTER_HOLD: f64 = 0.5;
/// Rate, per second, at which the daemons that share a database converge to the same duty cycle.
const UNION: f64 = 1.0;

/// State of the control law for budgets.
#[derive(Debug, Default)]
pub struct Budgets {
    hysteresis: Hysteresis,
    duty_cycle: Option<f64>,
    /// Time of the last sample, and the pressure of the tightest budget at that time.
    last: Option<(Instant, f64)>,
    held: bool,
    /// Amount by which the current target is below [`TARGET`], because a budget came too close to
    /// its limit.
    caution: f64,
}

impl Budgets {
    /// Returns the budgets that hold jobs, each with its reason.
    pub fn holds(&mut self, list: &[Reading]) -> BTreeMap<ReadingId, String> {
        self.hysteresis.holds(list)
    }

    /// Returns the duty cycle that budgets allow. Returns none if there is no budget.
    pub fn duty_cycle(&self) -> Option<f64> {
        self.duty_cycle
    }

    /// Returns the pace that budgets allow, or full speed if there is no budget. `holding` is true
    /// if at least one budget holds jobs.
    pub fn pace(&mut self, list: &[Reading], holding: bool, circumstances: &Circumstances) -> Pace {
        let Circumstances { now, working, other_daemons } = *circumstances;
        let budgets = || list.iter().filter(|reading| reading.kind == SignalKind::Budget);
        let Some(tightest) = budgets().max_by(|a, b| pressure(a).total_cmp(&pressure(b))) else {
            (self.duty_cycle, self.last, self.held) = (None, None, false);
            return Pace::FULL;
        };
        let pressure = pressure(tightest).min(10.0);
        let target = self.target(tightest, now, working);
        let before = self.last.replace((now, pressure)).filter(|_| working && !holding);
        let was_held = std::mem::replace(&mut self.held, holding);
        let mut duty_cycle = self.duty_cycle.unwrap_or(FIRST_DUTY_CYCLE);
        if was_held && !holding {
            duty_cycle *= AFTER_HOLD;
        } else if let Some((at, last)) = before
            && now > at
            && now - at < GAP
        {
            let elapsed = (now - at).as_secs_f64();
            // Lag in seconds grows by at most 1 s per second. So replica lag takes longer to reach
            // a higher limit, and the response to it is slower. For other budgets, the time scale
            // is 1 s.
            let own_time = if tightest.signal == Signal::ReplicaLagSeconds { tightest.limit.max(0.1) } else { 1.0 };
            let answer = ANSWER / own_time * (target - pressure) * elapsed;
            let damping = (DAMPING * (last - pressure)).clamp(-JERK, JERK);
            duty_cycle *= answer.exp().clamp(SHRINKAGE.powf(elapsed), GROWTH.powf(elapsed)) * damping.exp();
            if let Some(others) = other_daemons.filter(|others| *others > 0.0) {
                duty_cycle *= (others / duty_cycle).powf((UNION * elapsed).min(1.0));
            }
        }
        let duty_cycle = duty_cycle.clamp(LEAST_DUTY_CYCLE, 1.0);
        self.duty_cycle = Some(duty_cycle);
        let because = (duty_cycle < 1.0).then(|| {
            let text =
                format!("{}: batches run {:.0} % of the time", tightest.describe(), (duty_cycle * 100.0).max(1.0));
            Waiting::new(tightest.signal.waiting_reason(), text)
        });
        Pace { duty_cycle, because, ..Pace::FULL }
    }

    /// Updates the safety margin, and returns the pressure at which the tightest budget should be
    /// kept now.
    fn target(&mut self, tightest: &Reading, now: Instant, working: bool) -> f64 {
        if let Some((at, _)) = self.last.filter(|_| working) {
            let elapsed = now.saturating_duration_since(at).min(GAP).as_secs_f64();
            let target = TARGET - self.caution;
            let near = tightest.utilization().is_some_and(|utilization| utilization >= TOO_NEAR);
            let next =
                if near { target * (-CAUTION * elapsed).exp() } else { target + self.caution * elapsed / FORGET };
            self.caution = TARGET - next.clamp(LEAST_TARGET, TARGET);
        }
        TARGET - self.caution
    }
}

/// Remembers the budgets that held jobs at the last sample. Each of these budgets holds jobs until
/// its utilization falls below [`RESUME`].
#[derive(Debug, Default)]
struct Hysteresis {
    held: BTreeSet<ReadingId>,
}

impl Hysteresis {
    fn holds(&mut self, readings: &[Reading]) -> BTreeMap<ReadingId, String> {
        let mut holds = BTreeMap::new();
        for reading in readings.iter().filter(|reading| reading.kind == SignalKind::Budget) {
            let key = reading.id();
            let threshold = if self.held.contains(&key) { RESUME } else { 1.0 };
            if reading.utilization().is_some_and(|utilization| utilization < threshold) {
                continue;
            }
            let text = reading.note.clone().unwrap_or_else(|| {
                let waits = reading.utilization().is_some_and(|utilization| utilization < 1.0);
                let resume = waits.then(|| format!(", resumes under {}", reading.signal.show(reading.limit * RESUME)));
                reading.describe() + &resume.unwrap_or_default()
            });
            holds.insert(key, text);
        }
        self.held = holds.keys().cloned().collect();
        holds
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::throttle::control::samples::{fresh, lag};
    use crate::throttle::control::verdict::{Decision, Verdict};

    /// Returns the law's verdict as if budgets were the only signals.
    fn steered(budgets: &mut Budgets, list: &[Reading], circumstances: &Circumstances) -> Verdict {
        let holds = budgets.holds(list);
        let pace = budgets.pace(list, !holds.is_empty(), circumstances);
        Verdict { pace, budget_duty_cycle: budgets.duty_cycle(), holds }
    }

    fn working(now: Instant) -> Circumstances {
        Circumstances { now, working: true, other_daemons: None }
    }

    #[tokio::test]
    async fn a_budget_at_its_limit_holds_until_it_is_well_below() {
        let now = Instant::now();
        let mut budgets = Budgets::default();
        let mut holds = |value: f64| {
            let readings = fresh(vec![lag(value, now)], now);
            match steered(&mut budgets, &readings.list, &working(now)).decide(&readings, now) {
                Decision::Hold(waiting) => Some(waiting.text),
                Decision::Go(_) => None,
            }
        };
        assert_eq!(holds(0.9), None);
        assert_eq!(holds(1.0).as_deref(), Some("s1 is 1.0 s behind (limit 1.0 s)"));
        assert_eq!(holds(0.8).as_deref(), Some("s1 is 0.8 s behind (limit 1.0 s), resumes under 0.7 s"));
        assert_eq!(holds(0.69), None);
        assert_eq!(holds(0.9), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_duty_cycle_grows_with_room_stays_at_the_target_and_is_halved_after_a_hold() {
        let mut now = Instant::now();
        let mut budgets = Budgets::default();
        let mut duty_cycle_after = |value: f64, forecast: Option<f64>, samples: u32| {
            let mut duty_cycle = 0.0;
            for _ in 0..samples {
                now += Duration::from_millis(200);
                let list = [lag(value, now).with_forecast(forecast)];
                let pace = steered(&mut budgets, &list, &working(now)).pace;
                duty_cycle = pace.duty_cycle;
                assert_eq!(duty_cycle < 1.0, pace.because.is_some());
            }
            duty_cycle
        };
        assert!((duty_cycle_after(0.0, None, 1) - FIRST_DUTY_CYCLE).abs() < 1e-9);
        assert!((duty_cycle_after(0.0, None, 30) - 1.0).abs() < 1e-9, "the duty cycle reaches full speed within 6 s");
        // The forecast is used, because it is higher than the present value.
        let shed = duty_cycle_after(0.1, Some(0.9), 1);
        assert!(shed < 0.6, "{shed}");
        let kept = duty_cycle_after(0.1, Some(TARGET), 1);
        assert!(
            (duty_cycle_after(0.1, Some(TARGET), 20) - kept).abs() < 1e-9,
            "the duty cycle stays the same at the target"
        );
        duty_cycle_after(1.1, None, 3);
        let resumed = duty_cycle_after(0.5, None, 1);
        assert!((resumed - kept * AFTER_HOLD).abs() < 1e-9, "{resumed} after {kept}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_daemon_learns_nothing_and_one_of_several_converges_to_their_duty_cycle() {
        let mut now = Instant::now();
        let mut budgets = Budgets::default();
        let mut duty_cycle_after = |working: bool, others: Option<f64>, samples: u32| {
            let mut duty_cycle = 0.0;
            for _ in 0..samples {
                now += Duration::from_millis(200);
                let circumstances = Circumstances { now, working, other_daemons: others };
                duty_cycle = steered(&mut budgets, &[lag(TARGET, now)], &circumstances).pace.duty_cycle;
            }
            duty_cycle
        };
        assert!((duty_cycle_after(false, Some(1.0), 50) - FIRST_DUTY_CYCLE).abs() < 1e-9);
        let met = duty_cycle_after(true, Some(0.8), 30);
        assert!((met - 0.8).abs() < 0.02, "{met}");
    }
}
