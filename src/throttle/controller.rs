//! The control law: readings in, a pace out. Pure, so that it can be tried against any weather; `simulator.rs` does.
//!
//! A budget that reaches its limit holds the work until it is back under [`RESUME`] of it. Below the limit the duty, which
//! is the share of the time in which batches run, follows the tightest budget: it grows while there is room and shrinks
//! when there is not, by as much as the budget is off its [`TARGET`] and by how fast it moves there, so that it comes to
//! rest at the target instead of bouncing off the limit. A budget is taken for what it will become by what is written
//! now ([`Reading::pressure`]), for lag itself shows late.
//!
//! Gauges of load have no point to rest at, and zones instead: below [`EASY`] the duty grows, from [`BUSY`] on it shrinks,
//! and above the limit it halves twice a second. The probe's excess alone has a point to rest at, for it is ours. Of budgets
//! and gauges the smaller duty counts.
//!
//! Where nobody else is at work the work runs at full speed. In company it begins with [`FIRST_IN_COMPANY`] and earns
//! more, up to [`MOST_IN_COMPANY`].

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::reading::{Kind, MAX_AGE, Reading, Readings, Reason, Signal};

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
/// Not 0: a trickle keeps WAL flowing, without which a standby's position is not told afresh.
const LEAST_DUTY: f64 = 0.005;
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
/// Where zones of load begin, as shares of the limit: the duty grows below the first, and shrinks from the second on.
const EASY: f64 = 0.4;
const BUSY: f64 = 0.7;
/// By so much in a second.
const LOAD_GROWTH: f64 = 2.0;
const LOAD_SHRINKAGE: f64 = 0.5;
const LOAD_HALVING: f64 = 0.25;
/// The duty that work begins with where others are at work, and the most that it earns there: without pauses nobody could tell
/// what the server is like without us.
const FIRST_IN_COMPANY: f64 = 0.1;
const MOST_IN_COMPANY: f64 = 0.8;
/// After a rest of so long the work begins anew.
const REST: Duration = Duration::from_secs(10);
/// The share of its limit at which the probe's excess is held, how strongly the duty answers to its distance (per second; it
/// is a mean of seconds, so that a stronger answer would swing), and by how much it may grow in a second, once it is back where it
/// began.
const PROBE_TARGET: f64 = 0.5;
const PROBE_ANSWER: f64 = 0.15;
const PROBE_GROWTH: f64 = 1.3;
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
    hysteresis: Hysteresis,
    duty: Option<f64>,
    load: Option<Load>,
    /// The tightest budget's pressure at the last sample.
    last: Option<(Instant, f64)>,
    held: bool,
    /// By how much less than [`TARGET`] budgets are held: what went wrong is remembered.
    caution: f64,
}

/// What load leaves of the duty.
#[derive(Debug, Clone, Copy)]
struct Load {
    at: Instant,
    duty: f64,
    in_company: bool,
    worked_at: Option<Instant>,
}

impl Controller {
    /// Marks the budgets that hold, and sets the pace for all others.
    pub fn steer(&mut self, readings: &mut Readings, circumstances: Circumstances) {
        self.hysteresis.apply(&mut readings.list);
        let budget = self.by_budgets(&readings.list, circumstances);
        readings.budget_duty = self.duty;
        let in_company = readings.in_company();
        let load = self.by_load(&readings.list, in_company, circumstances);
        let slower = if load.duty < budget.duty { load } else { budget };
        readings.pace = Pace { in_company, ..slower };
    }

    /// What gauges of load, and company, allow. Full speed without any, and while nobody works: what they show then is
    /// not ours.
    fn by_load(
        &mut self,
        list: &[Reading],
        in_company: bool,
        Circumstances { now, working, .. }: Circumstances,
    ) -> Pace {
        // Where nobody else is there, nobody waits longer because of us.
        let counts =
            |reading: &&Reading| reading.kind == Kind::Load && (in_company || reading.signal != Signal::ProbeLatency);
        let known = list.iter().filter(counts).filter_map(|reading| Some((growth(reading)?, reading)));
        let worst = known.min_by(|(a, one), (b, two)| a.total_cmp(b).then(pressure(two).total_cmp(&pressure(one))));
        let before = self.load.unwrap_or(Load { at: now, duty: 1.0, in_company: false, worked_at: None });
        let elapsed = now.saturating_duration_since(before.at).min(GAP).as_secs_f64();
        let most_growth = if in_company && before.duty >= FIRST_IN_COMPANY { PROBE_GROWTH } else { LOAD_GROWTH };
        let factor = match worst {
            _ if !working && in_company => 1.0,
            _ if !working => LOAD_GROWTH,
            // None of them can be read: as it is.
            None if list.iter().any(|reading| counts(&reading)) => 1.0,
            None => most_growth,
            Some((factor, _)) => factor.min(most_growth),
        };
        let most = if in_company { MOST_IN_COMPANY } else { 1.0 };
        let mut duty = before.duty * factor.powf(elapsed);
        let rested = before.worked_at.is_none_or(|at| now.saturating_duration_since(at) > REST);
        if in_company && (!before.in_company || working && rested) {
            duty = duty.min(FIRST_IN_COMPANY);
        }
        duty = duty.clamp(LEAST_DUTY, most);
        let worked_at = if working { Some(now) } else { before.worked_at };
        self.load = Some(Load { at: now, duty, in_company, worked_at });
        let because = (duty < 1.0).then(|| {
            let shown = worst.filter(|(_, reading)| !in_company || pressure(reading) >= EASY);
            let what = match shown {
                Some((_, reading)) => reading.describe(),
                None if in_company => "others are at work on the server".to_owned(),
                None => "load can't be read".to_owned(),
            };
            let reason = shown.map_or(Reason::Load, |(_, reading)| reading.signal.reason());
            (reason, format!("{what}: working {:.0}% of the time", (duty * 100.0).max(1.0)))
        });
        Pace { duty, because, in_company }
    }

    fn by_budgets(&mut self, list: &[Reading], Circumstances { now, working, others }: Circumstances) -> Pace {
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

/// By which a gauge lets the duty grow in a second; none if it can't be read.
fn growth(reading: &Reading) -> Option<f64> {
    let utilization = reading.utilization()?;
    Some(match utilization {
        _ if reading.signal == Signal::ProbeLatency => {
            (PROBE_TARGET / utilization.max(1e-3)).powf(PROBE_ANSWER).clamp(LOAD_HALVING, LOAD_GROWTH)
        }
        _ if utilization < EASY => LOAD_GROWTH,
        _ if utilization < BUSY => 1.0,
        _ if utilization < 1.0 => LOAD_SHRINKAGE,
        _ => LOAD_HALVING,
    })
}

fn pressure(reading: &Reading) -> f64 {
    reading.pressure().unwrap_or(f64::INFINITY)
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
    use crate::throttle::reading::COMPANY;

    fn lag(value: f64, at: Instant) -> Reading {
        Reading::budget(Signal::ReplicaLagSeconds, "s1", value, 1.0, at)
    }

    fn fresh(list: Vec<Reading>, at: Instant) -> Readings {
        Readings { heard_at: Some(at), list, ..Readings::default() }
    }

    fn steered(controller: &mut Controller, list: Vec<Reading>, now: Instant) -> Readings {
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

    #[tokio::test(start_paused = true)]
    async fn load_has_zones_and_an_unread_gauge_changes_nothing() {
        let mut now = Instant::now();
        let mut controller = Controller::default();
        let mut pace_after = |value: Option<f64>, seconds: u64| {
            let mut pace = Pace::FULL;
            for _ in 0..seconds * 5 {
                now += Duration::from_millis(200);
                let gauge =
                    Reading { kind: Kind::Load, value, ..Reading::budget(Signal::User, "depth", 0.0, 10.0, now) };
                pace = steered(&mut controller, vec![gauge], now).pace;
            }
            pace
        };
        assert_eq!(pace_after(Some(6.0), 5), Pace::FULL);
        let busy = pace_after(Some(8.0), 2);
        assert!((busy.duty - 0.25).abs() < 0.01, "{busy:?}");
        assert_eq!(busy.because.unwrap().1, "signal depth is 8 (limit 10): working 25% of the time");
        assert!((pace_after(None, 10).duty - 0.25).abs() < 0.01);
        assert!((pace_after(Some(5.0), 10).duty - 0.25).abs() < 0.01);
        assert!((pace_after(Some(11.0), 1).duty - 0.0625).abs() < 0.01);
        assert!((pace_after(Some(99.0), 60).duty - LEAST_DUTY).abs() < 1e-9, "a trickle is left");
        assert_eq!(pace_after(Some(0.0), 10), Pace::FULL);
    }

    fn others(there: bool, at: Instant) -> Reading {
        let value = f64::from(u8::from(there));
        Reading { kind: Kind::Shown, ..Reading::budget(Signal::ActiveSessions, COMPANY, value, f64::INFINITY, at) }
    }

    fn probe(excess: f64, at: Instant) -> Reading {
        Reading { kind: Kind::Load, ..Reading::budget(Signal::ProbeLatency, "server", excess, 0.25, at) }
    }

    #[tokio::test(start_paused = true)]
    async fn alone_the_work_is_at_full_speed_and_in_company_it_earns_its_pace() {
        let mut now = Instant::now();
        let mut controller = Controller::default();
        let mut pace_after = |company: bool, excess: f64, seconds: u64| {
            let mut pace = Pace::FULL;
            for _ in 0..seconds * 5 {
                now += Duration::from_millis(200);
                pace = steered(&mut controller, vec![others(company, now), probe(excess, now)], now).pace;
            }
            pace
        };
        assert_eq!(pace_after(false, 9.0, 5), Pace::FULL, "a slow probe is nobody's harm");
        let first = pace_after(true, 0.0, 1);
        assert!(first.in_company && first.is_slowed() && (0.1..0.14).contains(&first.duty), "{first:?}");
        assert_eq!(first.because.unwrap().1, "others are at work on the server: working 12% of the time");
        let earned = pace_after(true, 0.0, 10);
        assert!((earned.duty - MOST_IN_COMPANY).abs() < 1e-9 && !earned.is_slowed(), "{earned:?}");
        let slow = pace_after(true, 0.5, 10);
        assert!(slow.duty < 0.25 && slow.duty > 0.02, "{slow:?}");
        assert!(slow.because.unwrap().1.starts_with("a statement takes 50% longer because of the work (limit 25%)"));
        assert_eq!(pace_after(false, 0.5, 10), Pace::FULL);
        assert!((pace_after(true, 0.0, 1).duty - 0.12).abs() < 0.02, "anew");
    }

    #[tokio::test(start_paused = true)]
    async fn the_probe_comes_to_rest_below_its_limit() {
        // A batch makes a statement take 1.6 times as long; told is the mean of the last five seconds.
        let mut now = Instant::now();
        let mut controller = Controller::default();
        let (mut duty, mut told) = (FIRST_IN_COMPANY, std::collections::VecDeque::new());
        let mut over = 0;
        for step in 0..600 {
            now += Duration::from_millis(200);
            told.push_back(duty * 0.6);
            if told.len() > 25 {
                told.pop_front();
            }
            let excess = told.iter().sum::<f64>() / told.len() as f64;
            over += u32::from(step > 50 && excess > 0.25);
            duty = steered(&mut controller, vec![others(true, now), probe(excess, now)], now).pace.duty;
        }
        assert_eq!(over, 0);
        assert!((duty * 0.6 / 0.25 - PROBE_TARGET).abs() < 0.02, "{duty}");
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
