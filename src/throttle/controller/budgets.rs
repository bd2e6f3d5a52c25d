//! What budgets leave of the duty. One that reaches its limit holds the work until it is back under [`RESUME`] of it. Below the
//! limit the duty follows the tightest: it grows while there is room and shrinks when there is not, by as much as the budget is
//! off its [`TARGET`] and by how fast it moves there, so that it comes to rest at the target instead of bouncing off the limit.
//! A budget is taken for what it will become by what is written now ([`Reading::pressure`]), for lag itself shows late.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::{Circumstances, GAP, LEAST_DUTY, Pace, pressure};
use crate::throttle::reading::{Kind, Reading, Signal};

/// The share of its limit at which a budget is held, in weather that does not change much.
const TARGET: f64 = 0.6;
/// A budget that comes nearer to its limit than this was not kept well: it is held at less from then on, the less the longer that
/// lasts (per second), and at as much as before only after some minutes without it (seconds).
const TOO_NEAR: f64 = 0.85;
const CAUTION: f64 = 1.0;
const LEAST_TARGET: f64 = 0.35;
const FORGET: f64 = 120.0;
/// A budget that holds lets go below this. Nearer to 1 the work would start and stop with each sample.
const RESUME: f64 = 0.7;
/// The duty that a work begins with where there is a budget to keep. More is earned.
const FIRST_DUTY: f64 = 0.02;
/// The most by which the duty grows in a second, however much room there is, and by which it shrinks.
const GROWTH: f64 = 2.5;
const SHRINKAGE: f64 = 0.02;
/// How strongly the duty answers to the distance from the target (per second), and to movement: together they come to
/// rest without a swing in about as many seconds as a budget of seconds allows.
const ANSWER: f64 = 1.5;
const DAMPING: f64 = 2.5;
/// As much up as down, so that a replica that tells of itself in steps is not taken for one that falls behind.
const JERK: f64 = 0.5;
/// What is left of the duty after a hold: what led to it was too much.
const AFTER_HOLD: f64 = 0.5;
/// How fast daemons that share a database come to the same duty, per second.
const UNION: f64 = 1.0;

/// The memory of budgets.
#[derive(Debug, Default)]
pub struct Budgets {
    hysteresis: Hysteresis,
    duty: Option<f64>,
    /// The tightest one's pressure at the last sample.
    last: Option<(Instant, f64)>,
    held: bool,
    /// By how much less than [`TARGET`] they are held: what went wrong is remembered.
    caution: f64,
}

impl Budgets {
    /// Marks those that hold, with the reason.
    pub fn mark(&mut self, list: &mut [Reading]) {
        self.hysteresis.apply(list);
    }

    /// What they leave; none where there is none to keep.
    pub fn duty(&self) -> Option<f64> {
        self.duty
    }

    /// Full speed without any.
    pub fn pace(&mut self, list: &[Reading], Circumstances { now, working, others }: Circumstances) -> Pace {
        let budgets = || list.iter().filter(|reading| reading.kind == Kind::Budget);
        let Some(tightest) = budgets().max_by(|a, b| pressure(a).total_cmp(&pressure(b))) else {
            (self.duty, self.last, self.held) = (None, None, false);
            return Pace::FULL;
        };
        let holding = budgets().any(|reading| reading.holding);
        let pressure = pressure(tightest).min(10.0);
        let target = self.target(tightest, now, working);
        let before = self.last.replace((now, pressure)).filter(|_| working && !holding);
        let was_held = std::mem::replace(&mut self.held, holding);
        let mut duty = self.duty.unwrap_or(FIRST_DUTY);
        if was_held && !holding {
            duty *= AFTER_HOLD;
        } else if let Some((at, last)) = before
            && now > at
            && now - at < GAP
        {
            let elapsed = (now - at).as_secs_f64();
            // A budget of seconds is filled by its own seconds; of bytes, by what is off target as well.
            let own_time = if tightest.signal == Signal::ReplicaLagSeconds { tightest.limit.max(0.1) } else { 1.0 };
            let answer = ANSWER / own_time * (target - pressure) * elapsed;
            let damping = (DAMPING * (last - pressure)).clamp(-JERK, JERK);
            duty *= answer.exp().clamp(SHRINKAGE.powf(elapsed), GROWTH.powf(elapsed)) * damping.exp();
            if let Some(others) = others.filter(|others| *others > 0.0) {
                duty *= (others / duty).powf((UNION * elapsed).min(1.0));
            }
        }
        let duty = duty.clamp(LEAST_DUTY, 1.0);
        self.duty = Some(duty);
        let because = (duty < 1.0).then(|| {
            let text = format!("{}: working {:.0}% of the time", tightest.describe(), (duty * 100.0).max(1.0));
            (tightest.signal.reason(), text)
        });
        Pace { duty, because, ..Pace::FULL }
    }

    /// Where the tightest budget is held now.
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

/// Which budgets hold.
#[derive(Debug, Default)]
struct Hysteresis {
    held: BTreeSet<(Signal, String)>,
}

impl Hysteresis {
    /// Marks the budgets that hold, with the reason.
    fn apply(&mut self, readings: &mut [Reading]) {
        let mut held = BTreeSet::new();
        for reading in readings.iter_mut().filter(|reading| reading.kind == Kind::Budget) {
            let key = (reading.signal, reading.source.clone());
            let threshold = if self.held.contains(&key) { RESUME } else { 1.0 };
            reading.holding = reading.utilization().is_none_or(|utilization| utilization >= threshold);
            if !reading.holding {
                continue;
            }
            held.insert(key);
            if reading.reason.is_none() {
                let waits = reading.utilization().is_some_and(|utilization| utilization < 1.0);
                let resume = waits.then(|| format!(", goes on under {}", reading.signal.show(reading.limit * RESUME)));
                reading.reason = Some(reading.describe() + &resume.unwrap_or_default());
            }
        }
        self.held = held;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::throttle::controller::tests::{fresh, lag, steered};
    use crate::throttle::controller::{Controller, Decision, decide};

    #[tokio::test]
    async fn a_budget_at_its_limit_holds_until_it_is_well_below() {
        let now = Instant::now();
        let mut controller = Controller::default();
        let mut holds = |value: f64| match decide(&steered(&mut controller, vec![lag(value, now)], now), now) {
            Decision::Hold { text, .. } => Some(text),
            Decision::Go(_) => None,
        };
        assert_eq!(holds(0.9), None);
        assert_eq!(holds(1.0).as_deref(), Some("s1 is 1.0 s behind (limit 1.0 s)"));
        assert_eq!(holds(0.8).as_deref(), Some("s1 is 0.8 s behind (limit 1.0 s), goes on under 0.7 s"));
        assert_eq!(holds(0.69), None);
        assert_eq!(holds(0.9), None);
    }

    #[tokio::test(start_paused = true)]
    async fn speed_is_earned_kept_at_the_target_and_halved_after_a_hold() {
        let mut now = Instant::now();
        let mut controller = Controller::default();
        let mut duty_after = |value: f64, forecast: Option<f64>, samples: u32| {
            let mut duty = 0.0;
            for _ in 0..samples {
                now += Duration::from_millis(200);
                let readings = steered(&mut controller, vec![lag(value, now).becoming(forecast)], now);
                duty = readings.pace.duty;
                assert_eq!(duty < 1.0, readings.pace.because.is_some());
            }
            duty
        };
        assert!((duty_after(0.0, None, 1) - FIRST_DUTY).abs() < 1e-9);
        assert!((duty_after(0.0, None, 30) - 1.0).abs() < 1e-9, "with room it comes to full speed in seconds");
        // What lies ahead counts, not what is seen now.
        let shed = duty_after(0.1, Some(0.9), 1);
        assert!(shed < 0.6, "{shed}");
        let kept = duty_after(0.1, Some(TARGET), 1);
        assert!((duty_after(0.1, Some(TARGET), 20) - kept).abs() < 1e-9, "at the target it stays as it is");
        duty_after(1.1, None, 3);
        let resumed = duty_after(0.5, None, 1);
        assert!((resumed - kept * AFTER_HOLD).abs() < 1e-9, "{resumed} after {kept}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_daemon_learns_nothing_and_one_among_others_comes_to_their_duty() {
        let mut now = Instant::now();
        let mut controller = Controller::default();
        let mut duty_after = |working: bool, others: Option<f64>, samples: u32| {
            let mut duty = 0.0;
            for _ in 0..samples {
                now += Duration::from_millis(200);
                let mut readings = fresh(vec![lag(TARGET, now)], now);
                controller.steer(&mut readings, Circumstances { now, working, others });
                duty = readings.pace.duty;
            }
            duty
        };
        assert!((duty_after(false, Some(1.0), 50) - FIRST_DUTY).abs() < 1e-9);
        let met = duty_after(true, Some(0.8), 30);
        assert!((met - 0.8).abs() < 0.02, "{met}");
    }
}
