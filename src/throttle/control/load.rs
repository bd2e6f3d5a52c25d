//! Computes the duty cycle that load allows. It depends on the load gauges, and on whether there is
//! other load on the server. If there are several gauges, the one that allows the least growth
//! decides.
//!
//! Most gauges have zones instead of a target, because other sessions contribute to their values.
//! Below a utilization of [`EASY`], the duty cycle grows. At [`BUSY`] and above, it shrinks. At the
//! limit and above, it halves twice a second. Between [`EASY`] and [`BUSY`] it stays the same,
//! unless it is below [`FIRST_BESIDE_OTHERS`]. In that case it grows slowly. At such a low duty
//! cycle, a gauge above [`EASY`] is not caused by the job. Without this growth, the job would stay
//! at the lowest duty cycle until the real cause ends.
//!
//! The statement latency that backfilld adds ([`Signal::ProbeLatency`]) is the exception. It has a
//! target ([`PROBE_TARGET`]), because only the daemon's batches cause it.
//!
//! On an otherwise idle server whose gauges are low, jobs run at full speed. If there is other
//! load, the duty cycle begins at [`FIRST_BESIDE_OTHERS`] or lower, and grows to at most
//! [`MOST_BESIDE_OTHERS`] while the gauges allow it.

use std::time::Duration;

use tokio::time::Instant;

use crate::job::waiting::{Waiting, WaitingReason};
use crate::throttle::control::circumstances::{Circumstances, GAP, LEAST_DUTY_CYCLE, pressure};
use crate::throttle::control::verdict::{MOST_BESIDE_OTHERS, Pace};
use crate::throttle::measure::readings::Reading;
use crate::throttle::measure::signal::{Signal, SignalKind};

/// Utilizations at which one zone of load ends and the next begins. The duty cycle grows below
/// `EASY`, and shrinks at `BUSY` and above.
const EASY: f64 = 0.4;
const BUSY: f64 = 0.7;
/// Factors by which the duty cycle changes in one second, depending on the utilization:
///
/// - `LOAD_GROWTH` below `EASY`;
/// - `LOAD_SHRINKAGE` between `BUSY` and the limit;
/// - `LOAD_HALVING` at the limit and above;
/// - `LOAD_RECOVERY` between `EASY` and `BUSY`, while the duty cycle is below
///   [`FIRST_BESIDE_OTHERS`].
const LOAD_GROWTH: f64 = 2.0;
const LOAD_SHRINKAGE: f64 = 0.5;
const LOAD_HALVING: f64 = 0.25;
const LOAD_RECOVERY: f64 = 1.02;
/// Duty cycle with which jobs begin if there is other load.
const FIRST_BESIDE_OTHERS: f64 = 0.1;
/// If there is other load, and more than this time has passed since the last job ended, the next
/// job starts at [`FIRST_BESIDE_OTHERS`] or lower.
const RESET_AFTER: Duration = Duration::from_secs(10);
/// The load law keeps the added statement latency ([`Signal::ProbeLatency`]) at this utilization.
const PROBE_TARGET: f64 = 0.5;
/// In one second, the duty cycle changes by the factor [`PROBE_TARGET`] / utilization, raised to
/// this power. The utilization is that of the added statement latency. This latency is a mean over
/// several seconds, so the duty cycle would oscillate with a higher power.
const PROBE_ANSWER: f64 = 0.15;
/// Maximum factor by which the duty cycle grows in one second while there is other load and the
/// duty cycle is at least [`FIRST_BESIDE_OTHERS`].
const PROBE_GROWTH: f64 = 1.3;

/// State of the control law for load.
#[derive(Debug, Default)]
pub struct Load {
    last: Option<State>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    at: Instant,
    duty_cycle: f64,
    other_load: bool,
    worked_at: Option<Instant>,
}

impl Load {
    /// Returns the pace that load allows. On an otherwise idle server whose gauges are low, this is
    /// full speed. While no job runs, the gauges are ignored, because the daemon does not cause
    /// their values. During that time, the duty cycle grows if there is no other load. When other
    /// load begins, the duty cycle is reduced to at most [`FIRST_BESIDE_OTHERS`], and then stays
    /// the same until a job runs.
    pub fn pace(&mut self, list: &[Reading], other_load: bool, circumstances: &Circumstances) -> Pace {
        let Circumstances { now, working, .. } = *circumstances;
        // On an otherwise idle server, the probe latency is ignored, because the batches delay no
        // other session.
        let counts = |reading: &&Reading| {
            reading.kind == SignalKind::Load && (other_load || reading.signal != Signal::ProbeLatency)
        };
        let before = self.last.unwrap_or(State { at: now, duty_cycle: 1.0, other_load: false, worked_at: None });
        let known =
            list.iter().filter(counts).filter_map(|reading| Some((growth(reading, before.duty_cycle)?, reading)));
        let worst = known.min_by(|(a, one), (b, two)| a.total_cmp(b).then(pressure(two).total_cmp(&pressure(one))));
        let elapsed = now.saturating_duration_since(before.at).min(GAP).as_secs_f64();
        let most_growth =
            if other_load && before.duty_cycle >= FIRST_BESIDE_OTHERS { PROBE_GROWTH } else { LOAD_GROWTH };
        let factor = match worst {
            _ if !working && other_load => 1.0,
            _ if !working => LOAD_GROWTH,
            // There are gauges, but none of them can be read, so the duty cycle stays the same.
            None if list.iter().any(|reading| counts(&reading)) => 1.0,
            None => most_growth,
            Some((factor, _)) => factor.min(most_growth),
        };
        let most = if other_load { MOST_BESIDE_OTHERS } else { 1.0 };
        let mut duty_cycle = before.duty_cycle * factor.powf(elapsed);
        let rested = before.worked_at.is_none_or(|at| now.saturating_duration_since(at) > RESET_AFTER);
        if other_load && (!before.other_load || working && rested) {
            duty_cycle = duty_cycle.min(FIRST_BESIDE_OTHERS);
        }
        duty_cycle = duty_cycle.clamp(LEAST_DUTY_CYCLE, most);
        let worked_at = if working { Some(now) } else { before.worked_at };
        self.last = Some(State { at: now, duty_cycle, other_load, worked_at });
        let because = (duty_cycle < 1.0).then(|| {
            let shown = worst.filter(|(_, reading)| !other_load || pressure(reading) >= EASY);
            let what = match shown {
                Some((_, reading)) => reading.describe(),
                None if other_load => "other sessions are active".to_owned(),
                None => "the load cannot be read".to_owned(),
            };
            let reason = shown.map_or(WaitingReason::Load, |(_, reading)| reading.signal.waiting_reason());
            Waiting::new(reason, format!("{what}: batches run {:.0} % of the time", (duty_cycle * 100.0).max(1.0)))
        });
        Pace { duty_cycle, because, other_load }
    }
}

/// Returns the factor by which the duty cycle may change in one second, for this reading of a
/// gauge. Returns none if the gauge cannot be read.
fn growth(reading: &Reading, duty_cycle: f64) -> Option<f64> {
    let utilization = reading.utilization()?;
    Some(match utilization {
        _ if reading.signal == Signal::ProbeLatency => {
            (PROBE_TARGET / utilization.max(1e-3)).powf(PROBE_ANSWER).clamp(LOAD_HALVING, LOAD_GROWTH)
        }
        _ if utilization < EASY => LOAD_GROWTH,
        _ if utilization < BUSY && duty_cycle < FIRST_BESIDE_OTHERS => LOAD_RECOVERY,
        _ if utilization < BUSY => 1.0,
        _ if utilization < 1.0 => LOAD_SHRINKAGE,
        _ => LOAD_HALVING,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::throttle::control::samples::fresh;
    use crate::throttle::measure::readings::OTHER_SESSIONS_ACTIVE;

    /// Returns the pace that load alone allows while batches run.
    fn paced(load: &mut Load, list: Vec<Reading>, now: Instant) -> Pace {
        let readings = fresh(list, now);
        let circumstances = Circumstances { now, working: true, other_daemons: None };
        load.pace(&readings.list, readings.other_sessions_active(), &circumstances)
    }

    #[tokio::test(start_paused = true)]
    async fn load_has_zones_and_an_unread_gauge_changes_nothing() {
        let mut now = Instant::now();
        let mut load = Load::default();
        let mut pace_after = |value: Option<f64>, seconds: u64| {
            let mut pace = Pace::FULL;
            for _ in 0..seconds * 5 {
                now += Duration::from_millis(200);
                let gauge =
                    Reading { kind: SignalKind::Load, value, ..Reading::budget(Signal::User, "depth", 0.0, 10.0, now) };
                pace = paced(&mut load, vec![gauge], now);
            }
            pace
        };
        assert_eq!(pace_after(Some(6.0), 5), Pace::FULL);
        let busy = pace_after(Some(8.0), 2);
        assert!((busy.duty_cycle - 0.25).abs() < 0.01, "{busy:?}");
        assert_eq!(busy.because.unwrap().text, "signal depth is 8 (limit 10): batches run 25 % of the time");
        assert!((pace_after(None, 10).duty_cycle - 0.25).abs() < 0.01);
        assert!((pace_after(Some(5.0), 10).duty_cycle - 0.25).abs() < 0.01);
        assert!((pace_after(Some(11.0), 1).duty_cycle - 0.0625).abs() < 0.01);
        assert!(
            (pace_after(Some(99.0), 60).duty_cycle - LEAST_DUTY_CYCLE).abs() < 1e-9,
            "the minimum duty cycle remains"
        );
        // The gauge stays at half of its limit although the duty cycle is at its minimum, so the
        // daemon does not cause this value. The duty cycle recovers slowly.
        assert!((0.05..0.06).contains(&pace_after(Some(5.0), 120).duty_cycle));
        assert!((pace_after(Some(5.0), 600).duty_cycle - FIRST_BESIDE_OTHERS).abs() < 0.001);
        assert_eq!(pace_after(Some(0.0), 10), Pace::FULL);
    }

    fn others(there: bool, at: Instant) -> Reading {
        let value = f64::from(u8::from(there));
        Reading {
            kind: SignalKind::Shown,
            ..Reading::budget(Signal::ActiveSessions, OTHER_SESSIONS_ACTIVE, value, f64::INFINITY, at)
        }
    }

    fn probe(excess: f64, at: Instant) -> Reading {
        Reading { kind: SignalKind::Load, ..Reading::budget(Signal::ProbeLatency, "server", excess, 0.25, at) }
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_run_at_full_speed_on_an_idle_server_and_speed_up_gradually_beside_other_load() {
        let mut now = Instant::now();
        let mut load = Load::default();
        let mut pace_after = |active: bool, excess: f64, seconds: u64| {
            let mut pace = Pace::FULL;
            for _ in 0..seconds * 5 {
                now += Duration::from_millis(200);
                pace = paced(&mut load, vec![others(active, now), probe(excess, now)], now);
            }
            pace
        };
        assert_eq!(pace_after(false, 9.0, 5), Pace::FULL, "the probe does not count on an idle server");
        let first = pace_after(true, 0.0, 1);
        assert!(first.other_load && first.is_slowed() && (0.1..0.14).contains(&first.duty_cycle), "{first:?}");
        assert_eq!(first.because.unwrap().text, "other sessions are active: batches run 12 % of the time");
        let earned = pace_after(true, 0.0, 10);
        assert!((earned.duty_cycle - MOST_BESIDE_OTHERS).abs() < 1e-9 && !earned.is_slowed(), "{earned:?}");
        let slow = pace_after(true, 0.5, 10);
        assert!(slow.duty_cycle < 0.25 && slow.duty_cycle > 0.02, "{slow:?}");
        assert!(
            slow.because
                .unwrap()
                .text
                .starts_with("statement latency has risen by 50% because of backfilld (limit 25%)")
        );
        assert_eq!(pace_after(false, 0.5, 10), Pace::FULL);
        assert!((pace_after(true, 0.0, 1).duty_cycle - 0.12).abs() < 0.02, "the duty cycle starts again");
    }

    #[tokio::test(start_paused = true)]
    async fn the_duty_cycle_settles_where_the_probe_is_below_its_limit() {
        // While a batch runs, a statement takes 1.6 times as long as without a batch. The probe
        // reports the mean of the last 5 s.
        let mut now = Instant::now();
        let mut load = Load::default();
        let (mut duty_cycle, mut recent) = (FIRST_BESIDE_OTHERS, std::collections::VecDeque::new());
        let mut over = 0;
        for step in 0..600 {
            now += Duration::from_millis(200);
            recent.push_back(duty_cycle * 0.6);
            if recent.len() > 25 {
                recent.pop_front();
            }
            let excess = recent.iter().sum::<f64>() / recent.len() as f64;
            over += u32::from(step > 50 && excess > 0.25);
            duty_cycle = paced(&mut load, vec![others(true, now), probe(excess, now)], now).duty_cycle;
        }
        assert_eq!(over, 0);
        assert!((duty_cycle * 0.6 / 0.25 - PROBE_TARGET).abs() < 0.02, "{duty_cycle}");
    }
}
