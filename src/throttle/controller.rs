//! The control law: readings in, a decision out. Pure, so that it can be tried against any weather.
//!
//! The first law is simple. A budget that reaches its limit holds the work until it is back under [`RESUME`] of it;
//! between [`EASE`] and the limit the duty, which is the share of the time in which batches run, falls in a straight
//! line from 1 to [`LEAST_DUTY`]. Gauges of load do not steer yet.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::reading::{Kind, MAX_AGE, Reading, Readings, Reason, Signal};

/// Up to this utilization a budget does not slow the work.
const EASE: f64 = 0.5;
/// A budget that holds lets go below this. Nearer to 1 the work would start and stop with each sample.
const RESUME: f64 = 0.7;
/// The duty at the limit. Not 0: a trickle keeps WAL flowing, without which a standby's position is not told afresh.
const LEAST_DUTY: f64 = 0.1;

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
}

impl Pace {
    pub const FULL: Self = Self { duty: 1.0, because: None };
}

/// Which budgets hold; the only memory of this law. One for each database, applied where the readings are made, so
/// that every slice, the view and the log tell the same.
#[derive(Debug, Default)]
pub struct Hysteresis {
    held: BTreeSet<(Signal, String)>,
}

impl Hysteresis {
    /// Marks the budgets that hold, with the reason.
    pub fn apply(&mut self, readings: &mut [Reading]) {
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

/// May a batch start at `now`, and at what pace?
///
/// No readings at all from a database that answers means that it has no replica: go.
pub fn decide(readings: &Readings, now: Instant) -> Decision {
    if let Some(text) = deaf(readings, now) {
        return Decision::Hold { reason: Reason::ReplicaLag, text };
    }
    let budgets = || readings.list.iter().filter(|reading| reading.kind == Kind::Budget);
    let tightest = |reading: &&Reading| reading.utilization().unwrap_or(f64::INFINITY);
    let by_tightness = |a: &&Reading, b: &&Reading| tightest(a).total_cmp(&tightest(b));

    if let Some(reading) = budgets().filter(|reading| reading.hold(now).is_some()).max_by(by_tightness) {
        let text = reading.hold(now).unwrap_or_else(|| reading.describe());
        return Decision::Hold { reason: reading.signal.reason(), text };
    }
    let Some(reading) = budgets().max_by(by_tightness) else { return Decision::Go(Pace::FULL) };
    let duty = duty(tightest(&reading));
    let because = (duty < 1.0).then(|| {
        let text = format!("{}: working {:.0}% of the time", reading.describe(), duty * 100.0);
        (reading.signal.reason(), text)
    });
    Decision::Go(Pace { duty, because })
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

fn duty(utilization: f64) -> f64 {
    let above = (utilization - EASE) / (1.0 - EASE);
    (1.0 - (1.0 - LEAST_DUTY) * above).clamp(LEAST_DUTY, 1.0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn lag(value: f64, at: Instant) -> Reading {
        Reading::budget(Signal::ReplicaLagSeconds, "s1", value, 1.0, at)
    }

    fn fresh(list: Vec<Reading>, at: Instant) -> Readings {
        Readings { heard_at: Some(at), trouble: None, list }
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

    #[tokio::test]
    async fn a_budget_at_its_limit_holds_until_it_is_well_below() {
        let now = Instant::now();
        let mut hysteresis = Hysteresis::default();
        let mut holds = |value: f64| {
            let mut list = vec![lag(value, now)];
            hysteresis.apply(&mut list);
            match decide(&fresh(list, now), now) {
                Decision::Hold { text, .. } => Some(text),
                Decision::Go(_) => None,
            }
        };
        assert_eq!(holds(0.9), None);
        assert_eq!(holds(1.0).as_deref(), Some("s1 is 1.0 s behind (limit 1.0 s)"));
        assert_eq!(holds(0.8).as_deref(), Some("s1 is 0.8 s behind (limit 1.0 s), goes on under 0.7 s"));
        assert_eq!(holds(0.69), None);
        assert_eq!(holds(0.9), None);
    }

    #[tokio::test]
    async fn the_duty_falls_in_a_straight_line_from_half_the_limit() {
        for (utilization, want) in [(0.0, 1.0), (0.5, 1.0), (0.75, 0.55), (1.0, 0.1), (7.0, 0.1)] {
            assert!((duty(utilization) - want).abs() < 1e-9, "{utilization}");
        }
        let now = Instant::now();
        let Decision::Go(pace) = decide(&fresh(vec![lag(0.75, now)], now), now) else { panic!("held") };
        let (reason, text) = pace.because.expect("a slower pace has a reason");
        assert_eq!(reason, Reason::ReplicaLag);
        assert_eq!(text, "s1 is 0.8 s behind (limit 1.0 s): working 55% of the time");
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
            let now = Instant::now() + Duration::from_secs(60);
            let mut hysteresis = Hysteresis::default();
            for sample in samples {
                let mut list: Vec<Reading> = sample
                    .into_iter()
                    .map(|(seconds, source, value, limit, age)| Reading {
                        signal: if seconds { Signal::ReplicaLagSeconds } else { Signal::ReplicaLagBytes },
                        source: format!("s{source}"),
                        kind: Kind::Budget,
                        value,
                        limit,
                        at: now - Duration::from_millis(age),
                        holding: false,
                        reason: None,
                    })
                    .collect();
                hysteresis.apply(&mut list);
                for reading in &list {
                    prop_assert_eq!(reading.holding, reading.reason.is_some());
                }
                let must_hold = list.iter().any(|reading| {
                    reading.age(now) > MAX_AGE || reading.utilization().is_none_or(|utilization| utilization >= 1.0)
                });
                match decide(&fresh(list, now), now) {
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
