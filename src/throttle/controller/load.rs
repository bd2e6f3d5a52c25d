//! What gauges of load, and company, leave of the duty. Gauges have no point to rest at, and zones instead: below [`EASY`] the duty
//! grows, from [`BUSY`] on it shrinks, and above the limit it halves twice a second. In between it stays, but where it is hardly
//! any: what is busy beside less than [`FIRST_IN_COMPANY`] is so for reasons of its own, and the work would be left a trickle for as
//! long as it is. The probe's excess alone has a point to rest at, for it is ours.
//!
//! Where nobody else is at work the work runs at full speed. In company it begins with [`FIRST_IN_COMPANY`] and earns
//! more, up to [`MOST_IN_COMPANY`].

use std::time::Duration;

use tokio::time::Instant;

use super::{Circumstances, GAP, LEAST_DUTY, Pace, pressure};
use crate::throttle::reading::{Kind, Reading, Reason, Signal};

/// Where zones of load begin, as shares of the limit: the duty grows below the first, and shrinks from the second on.
const EASY: f64 = 0.4;
const BUSY: f64 = 0.7;
/// By so much in a second.
const LOAD_GROWTH: f64 = 2.0;
const LOAD_SHRINKAGE: f64 = 0.5;
const LOAD_HALVING: f64 = 0.25;
const LOAD_RECOVERY: f64 = 1.02;
/// The duty that work begins with where others are at work, and the most that it earns there: without pauses nobody could tell
/// what the server is like without us.
const FIRST_IN_COMPANY: f64 = 0.1;
pub const MOST_IN_COMPANY: f64 = 0.8;
/// After a rest of so long the work begins anew.
const REST: Duration = Duration::from_secs(10);
/// The share of its limit at which the probe's excess is held, how strongly the duty answers to its distance (per second; it
/// is a mean of seconds, so that a stronger answer would swing), and by how much it may grow in a second, once it is back where it
/// began.
const PROBE_TARGET: f64 = 0.5;
const PROBE_ANSWER: f64 = 0.15;
const PROBE_GROWTH: f64 = 1.3;

/// The memory of load.
#[derive(Debug, Default)]
pub struct Load {
    last: Option<State>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    at: Instant,
    duty: f64,
    in_company: bool,
    worked_at: Option<Instant>,
}

impl Load {
    /// Full speed without any, and while nobody works: what they show then is not ours.
    pub fn pace(
        &mut self,
        list: &[Reading],
        in_company: bool,
        Circumstances { now, working, .. }: Circumstances,
    ) -> Pace {
        // Where nobody else is there, nobody waits longer because of us.
        let counts =
            |reading: &&Reading| reading.kind == Kind::Load && (in_company || reading.signal != Signal::ProbeLatency);
        let before = self.last.unwrap_or(State { at: now, duty: 1.0, in_company: false, worked_at: None });
        let known = list.iter().filter(counts).filter_map(|reading| Some((growth(reading, before.duty)?, reading)));
        let worst = known.min_by(|(a, one), (b, two)| a.total_cmp(b).then(pressure(two).total_cmp(&pressure(one))));
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
        self.last = Some(State { at: now, duty, in_company, worked_at });
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
}

/// By which a gauge lets the duty of now grow in a second; none if it can't be read.
fn growth(reading: &Reading, duty: f64) -> Option<f64> {
    let utilization = reading.utilization()?;
    Some(match utilization {
        _ if reading.signal == Signal::ProbeLatency => {
            (PROBE_TARGET / utilization.max(1e-3)).powf(PROBE_ANSWER).clamp(LOAD_HALVING, LOAD_GROWTH)
        }
        _ if utilization < EASY => LOAD_GROWTH,
        _ if utilization < BUSY && duty < FIRST_IN_COMPANY => LOAD_RECOVERY,
        _ if utilization < BUSY => 1.0,
        _ if utilization < 1.0 => LOAD_SHRINKAGE,
        _ => LOAD_HALVING,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::throttle::controller::Controller;
    use crate::throttle::controller::tests::steered;
    use crate::throttle::reading::COMPANY;

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
        // Nor is it left one for as long as somebody else is busy: that is not ours.
        assert!((0.05..0.06).contains(&pace_after(Some(5.0), 120).duty));
        assert!((pace_after(Some(5.0), 600).duty - FIRST_IN_COMPANY).abs() < 0.001);
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
}
