//! Simulates a primary, its replica, an application and one or more daemons, to test the
//! controller. The simulation has its own time and no randomness. Batches are modelled as a flow of
//! WAL in proportion to the duty cycle. The tests check the replica's lag, the share of the
//! replica's free capacity that the daemons use, and how evenly the daemons work.

use std::time::Duration;

use tokio::time::Instant;

use crate::throttle::control::circumstances::Circumstances;
use crate::throttle::control::controller::Controller;
use crate::throttle::control::verdict::{Decision, Verdict};
use crate::throttle::measure::readings::Readings;
use crate::throttle::measure::replica_lag::replicas::ReplicaLag;
use crate::throttle::measure::replica_lag::walsender::{PrimaryState, Walsender};
use crate::throttle::measure::signal::Signal;

const STEP: Duration = Duration::from_millis(10);
/// Seconds between two polls of a daemon. The daemons poll at different times.
const POLL: f64 = 0.2;
/// Interval, in seconds, at which a daemon publishes its duty cycle to the other daemons.
const PUBLISH: f64 = 1.0;
/// Bytes of WAL per second that one slice writes if it runs without pauses.
const FULL: f64 = 50e6;

struct Daemon {
    slices: f64,
    lag: ReplicaLag,
    controller: Controller,
    readings: Readings,
    verdict: Verdict,
    /// Bytes per second that the daemon wrote, one value for each simulated step.
    wrote: Vec<f64>,
    published: f64,
    starts: f64,
}

/// Conditions of a simulation. Each function takes the time in seconds. Rates are in bytes per
/// second.
struct Conditions {
    /// Rate at which the replica can replay. 0 is a stall.
    replays: fn(f64) -> f64,
    application: fn(f64) -> f64,
    /// Whether the replica is disconnected. The primary does not list a disconnected replica.
    away: fn(f64) -> bool,
    /// Seconds between two reports that the replica sends.
    report_interval: f64,
    /// Lag limit in seconds.
    max_lag: f64,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { replays: |_| 15e6, application: |_| 0.0, away: |_| false, report_interval: 0.05, max_lag: 1.0 }
    }
}

/// The state of the simulation at one step.
struct Moment {
    at: f64,
    /// Seconds since the primary wrote the WAL record that the replica replays now.
    lag: f64,
    /// Bytes per second that the daemons write.
    ours: f64,
    /// Bytes per second that the replica could replay in addition to the application's own WAL.
    room: f64,
}

struct Run {
    moments: Vec<Moment>,
    wrote: Vec<Vec<f64>>,
}

fn run(conditions: &Conditions, daemons: &[(f64, f64)], seconds: f64) -> Run {
    let start = Instant::now() + Duration::from_secs(3600);
    let rule = crate::config::replica::ReplicaRule {
        max_lag: Duration::from_secs_f64(conditions.max_lag),
        max_lag_bytes: 1 << 40,
        ..crate::config::replica::ReplicaRule::default()
    };
    let mut daemons: Vec<Daemon> = daemons
        .iter()
        .map(|&(slices, starts)| Daemon {
            slices,
            lag: ReplicaLag::new(vec![rule.clone()]),
            controller: Controller::default(),
            readings: Readings::default(),
            verdict: Verdict::default(),
            wrote: Vec::new(),
            published: 0.0,
            starts,
        })
        .collect();
    let (mut written, mut replayed, mut shown) = (1e9, 1e9, 1e9);
    let mut when: std::collections::VecDeque<(f64, f64)> = [(0.0, written)].into();
    let mut moments = Vec::new();
    let steps = (seconds / STEP.as_secs_f64()) as u32;
    for step in 0..steps {
        let at = f64::from(step) * STEP.as_secs_f64();
        let now = start + STEP * step;
        let due = |every: f64, offset: f64| {
            ((at + offset) / every).floor() > ((at + offset - STEP.as_secs_f64()) / every).floor()
        };
        if due(conditions.report_interval, 0.0) {
            shown = replayed;
        }
        let published: Vec<f64> = daemons.iter().map(|daemon| daemon.published).collect();
        for (n, daemon) in daemons.iter_mut().enumerate() {
            if due(POLL, n as f64 * 0.037) {
                let walsender = Walsender {
                    pid: 1,
                    application_name: "s1".to_owned(),
                    state: Some("streaming".to_owned()),
                    replay_lsn: Some(shown as u64),
                    ..Walsender::default()
                };
                let walsenders = if (conditions.away)(at) { vec![] } else { vec![walsender] };
                let primary = PrimaryState { at: now, primary_lsn: written as u64, fix: String::new(), walsenders };
                let list = daemon.lag.observe(&primary, &[]);
                daemon.readings = Readings { sampled_at: Some(now), list, ..Readings::default() };
                let of_others: Vec<f64> = published
                    .iter()
                    .enumerate()
                    .filter(|(m, published)| *m != n && **published > 0.0)
                    .map(|(_, published)| *published)
                    .collect();
                let other_daemons =
                    (!of_others.is_empty()).then(|| of_others.iter().sum::<f64>() / of_others.len() as f64);
                let working = at >= daemon.starts;
                let circumstances = Circumstances { now, working, other_daemons };
                daemon.verdict = daemon.controller.steer(&daemon.readings, &circumstances);
            }
            if due(PUBLISH, n as f64 * 0.11) {
                daemon.published = if at >= daemon.starts { daemon.verdict.pace.duty_cycle } else { 0.0 };
            }
        }
        let mut ours = 0.0;
        for daemon in &mut daemons {
            let flow = match daemon.verdict.decide(&daemon.readings, now) {
                Decision::Go(pace) if at >= daemon.starts => pace.duty_cycle * daemon.slices * FULL,
                _ => 0.0,
            };
            daemon.wrote.push(flow);
            ours += flow;
        }
        let application = (conditions.application)(at);
        written += (ours + application) * STEP.as_secs_f64();
        when.push_back((at + STEP.as_secs_f64(), written));
        let replays = (conditions.replays)(at);
        replayed = f64::min(replayed + replays * STEP.as_secs_f64(), written);
        while when.len() > 1 && when[1].1 <= replayed {
            when.pop_front();
        }
        let lag = if replayed >= written { 0.0 } else { at - when[0].0 };
        moments.push(Moment { at, lag, ours, room: (replays - application).max(0.0) });
    }
    Run { moments, wrote: daemons.into_iter().map(|daemon| daemon.wrote).collect() }
}

/// Returns the mean of a series, and the standard deviation as a share of the mean.
fn spread(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
    (mean, variance.sqrt() / mean)
}

impl Run {
    fn from(&self, from: f64, to: f64) -> impl Iterator<Item = &Moment> {
        self.moments.iter().filter(move |moment| (from..to).contains(&moment.at))
    }

    /// Returns the share of time in which the lag is above its limit.
    fn above(&self, limit: f64, from: f64, to: f64) -> f64 {
        let all = self.from(from, to).count();
        self.from(from, to).filter(|moment| moment.lag > limit).count() as f64 / all as f64
    }

    /// Returns which share of the replica's free capacity the daemons use. Free capacity is what
    /// the application does not use.
    fn used(&self, from: f64, to: f64) -> f64 {
        let (ours, room) = self.from(from, to).fold((0.0, 0.0), |(ours, room), m| (ours + m.ours, room + m.room));
        ours / room
    }

    /// Returns how much the daemons' flow varies: the standard deviation of the flow's per-second
    /// means, divided by the average of these means.
    fn swing(&self, from: f64, to: f64) -> f64 {
        let seconds: Vec<f64> = (from as u32..to as u32)
            .map(|second| {
                let (sum, count) = self
                    .from(f64::from(second), f64::from(second + 1))
                    .fold((0.0, 0.0), |(sum, count), moment| (sum + moment.ours, count + 1.0));
                sum / count
            })
            .collect();
        spread(&seconds).1
    }

    /// Returns how much each daemon wrote from the time `from` on, relative to its fair share.
    fn fairness(&self, from: f64) -> Vec<f64> {
        let first = (from / STEP.as_secs_f64()) as usize;
        let wrote: Vec<f64> = self.wrote.iter().map(|flow| flow[first..].iter().sum()).collect();
        let fair = wrote.iter().sum::<f64>() / wrote.len() as f64;
        wrote.iter().map(|wrote| wrote / fair).collect()
    }

    fn report(&self, limit: f64, from: f64, to: f64) -> String {
        format!(
            "above {:.2}%, used {:.1}%, swing {:.2}, longest lag {:.2} s",
            100.0 * self.above(limit, from, to),
            100.0 * self.used(from, to),
            self.swing(from, to),
            self.from(from, to).map(|moment| moment.lag).fold(0.0, f64::max)
        )
    }
}

/// Replay rate, in bytes per second, of a replica that replays for 10 ms of every 100 ms. Other
/// load on its machine makes the rate vary from second to second.
fn uneven(at: f64) -> f64 {
    let factor = 1.0 + 0.35 * (at * 0.9).sin() + 0.25 * (at * 3.7).sin() + 0.2 * (at * 11.0).sin();
    if (at * 100.0).round() % 10.0 < 1.0 { 150e6 * factor } else { 0.0 }
}

#[test]
fn lag_is_held_under_its_limit_and_the_capacity_is_used() {
    for (name, conditions, slices) in [
        ("a third of our speed", Conditions::default(), 1.0),
        ("a twentieth", Conditions { replays: |_| 2.5e6, ..Conditions::default() }, 1.0),
        ("a hundredth, many slices", Conditions { replays: |_| 2.0e6, ..Conditions::default() }, 4.0),
        ("a far region", Conditions { max_lag: 10.0, ..Conditions::default() }, 1.0),
        ("a tight limit", Conditions { max_lag: 0.5, ..Conditions::default() }, 1.0),
        ("a report every half second", Conditions { report_interval: 0.5, ..Conditions::default() }, 1.0),
        (
            "bursts of the application",
            Conditions { application: |at| if at % 20.0 < 5.0 { 7e6 } else { 0.0 }, ..Conditions::default() },
            1.0,
        ),
        (
            "a replica whose replay speed varies",
            Conditions { replays: uneven, report_interval: 0.1, ..Conditions::default() },
            1.0,
        ),
        (
            "a replica that slows down and recovers",
            Conditions { replays: |at| if at % 40.0 < 20.0 { 15e6 } else { 10.5e6 }, ..Conditions::default() },
            1.0,
        ),
    ] {
        let run = run(&conditions, &[(slices, 0.0)], 120.0);
        let report = format!("{name}: {}", run.report(conditions.max_lag, 10.0, 120.0));
        println!("{report}");
        assert!(run.above(conditions.max_lag, 2.0, 120.0) < 0.01, "{report}");
        assert!(run.used(10.0, 120.0) > 0.9, "{report}");
        // The controller itself must not oscillate, so in steady conditions the flow must be nearly
        // the same in each second.
        let most = match name {
            "bursts of the application"
            | "a replica that slows down and recovers"
            | "a replica whose replay speed varies" => 1.0,
            "a report every half second" => 0.25,
            _ => 0.1,
        };
        assert!(run.swing(30.0, 120.0) < most, "{report}");
    }
}

#[test]
fn jobs_reach_full_speed_if_there_is_room_for_all_of_it() {
    let run = run(&Conditions { replays: |_| 500e6, ..Conditions::default() }, &[(1.0, 0.0)], 30.0);
    let (ours, _) = spread(&run.from(7.0, 30.0).map(|moment| moment.ours).collect::<Vec<_>>());
    assert!(ours > 0.99 * FULL, "{ours}");
}

/// When the replay speed falls by half, the WAL records that are already waiting take twice as long
/// to replay. So the controller cannot keep the lag under its limit. But the lag must be back under
/// the limit within 2.5 s.
#[test]
fn a_replica_that_suddenly_halves_its_speed_is_behind_only_briefly() {
    let conditions = Conditions { replays: |at| if at < 40.0 { 15e6 } else { 7.5e6 }, ..Conditions::default() };
    let run = run(&conditions, &[(1.0, 0.0)], 80.0);
    assert!(run.above(1.0, 42.5, 80.0) < 0.001, "{}", run.report(1.0, 42.5, 80.0));
    assert!(run.used(45.0, 80.0) > 0.9, "{}", run.report(1.0, 45.0, 80.0));
}

#[test]
fn a_stall_holds_jobs_and_they_recover_without_an_overshoot() {
    let conditions =
        Conditions { replays: |at| if (30.0..38.0).contains(&at) { 0.0 } else { 15e6 }, ..Conditions::default() };
    let run = run(&conditions, &[(1.0, 0.0)], 90.0);
    assert!(run.above(1.0, 2.0, 30.0) < 0.01);
    // From 0.5 s after the start of the stall to the end of the stall, the daemon writes less WAL
    // in total than the replica normally replays in 1 s (the lag limit).
    let into: f64 = run.from(30.5, 38.0).map(|moment| moment.ours * STEP.as_secs_f64()).sum();
    assert!(into < 15e6, "{into}");
    let after = run.report(1.0, 40.0, 90.0);
    assert!(run.above(1.0, 39.5, 90.0) < 0.01, "{after}");
    assert!(run.used(48.0, 90.0) > 0.9, "{after}");
}

#[test]
fn a_replica_that_vanishes_holds_for_its_grace_and_counts_again_when_it_returns() {
    let conditions = Conditions {
        away: |at| (30.0..36.0).contains(&at),
        replays: |at| if (30.0..36.0).contains(&at) { 0.0 } else { 15e6 },
        ..Conditions::default()
    };
    let run = run(&conditions, &[(1.0, 0.0)], 80.0);
    let blind: f64 = run.from(30.3, 36.0).map(|moment| moment.ours).sum();
    assert!(blind == 0.0, "the daemon wrote WAL without knowing the lag");
    assert!(run.above(1.0, 37.5, 80.0) < 0.01, "{}", run.report(1.0, 37.5, 80.0));
    assert!(run.used(46.0, 80.0) > 0.9, "{}", run.report(1.0, 46.0, 80.0));
}

#[test]
fn daemons_share_fairly_whenever_they_begin() {
    for count in [2_u32, 4, 8] {
        let daemons: Vec<(f64, f64)> = (0..count).map(|n| (1.0, f64::from(n) * 3.0)).collect();
        let late = f64::from(count) * 3.0;
        let run = run(&Conditions::default(), &daemons, 200.0);
        let report =
            format!("{count} daemons: {}, {:?}", run.report(1.0, late + 10.0, 200.0), run.fairness(late + 5.0));
        println!("{report}");
        assert!(run.above(1.0, 2.0, 200.0) < 0.01, "{report}");
        assert!(run.used(late + 10.0, 200.0) > 0.9, "{report}");
        assert!(run.fairness(late + 5.0).iter().all(|share| (0.8..1.2).contains(share)), "{report}");
    }
}

#[test]
fn stale_readings_hold_jobs() {
    // The readings do not change, because nothing polls after the first sample.
    let start = Instant::now();
    let mut readings = Readings::default();
    let mut lag = ReplicaLag::new(vec![]);
    let walsender = Walsender {
        pid: 1,
        application_name: "s1".to_owned(),
        state: Some("streaming".to_owned()),
        replay_lsn: Some(10),
        ..Walsender::default()
    };
    let primary = PrimaryState { at: start, primary_lsn: 10, fix: String::new(), walsenders: vec![walsender] };
    readings.list = lag.observe(&primary, &[]);
    readings.sampled_at = Some(start);
    let circumstances = Circumstances { now: start, working: true, other_daemons: None };
    let verdict = Controller::default().steer(&readings, &circumstances);
    assert!(matches!(verdict.decide(&readings, start), Decision::Go(_)));
    let Decision::Hold(waiting) = verdict.decide(&readings, start + Duration::from_secs(3)) else {
        panic!("the batch was not held")
    };
    assert!(waiting.text.contains("has not been read for 3.0 s"), "{waiting:?}");
    assert_eq!(readings.list[0].signal, Signal::ReplicaLagSeconds);
}
