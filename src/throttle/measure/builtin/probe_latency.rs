//! Load: by how much longer a statement takes because of our batches, measured with a tiny
//! statement of our own, the probe.
//!
//! There is a burst of probes each second. The excess of all statements on average is the excess of
//! a probe that runs beside a batch, times the share of probes that do. The two are measured apart:
//! the first needs many probes and changes slowly, and the second is what the throttle changes. The
//! usual time of a probe is known from before the work and from the pauses between batches, so a
//! server that becomes slow for reasons of its own is not taken for one that our batches slow down.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::error::Result;
use crate::throttle::in_flight::InFlight;
use crate::throttle::measure::poll::{Poll, Sample};

/// Probes in one poll, and the time from one to the next, which is uneven so that probes don't fall
/// into step with batches.
const PROBES: usize = 32;
const APART: [Duration; 3] = [Duration::from_millis(4), Duration::from_millis(8), Duration::from_millis(6)];
/// How far back probes that ran beside a batch are averaged, and how far back their share is
/// counted.
const SLOWNESS: Duration = Duration::from_secs(30);
const SHARE: Duration = Duration::from_secs(6);
/// Fewer probes beside a batch say nothing.
const FEW: usize = 20;
/// A probe that takes more than so many times the usual counts as so many times: it met something
/// rare.
const AT_MOST: f64 = 3.0;
/// The weight of one quiet probe in the usual time: at rest, and between batches, where the mean
/// covers about half a minute.
const WEIGHT_AT_REST: f64 = 0.05;
const WEIGHT_AT_WORK: f64 = 0.005;
/// So many quiet probes are needed before the usual time is relied on; until then it is their mean.
const LEARNT: f64 = 20.0;

/// It names a schema, by which `statement_time` recognizes our statements.
const PROBE: &str = "select 1::pg_catalog.int4";

/// The time that probes took, in seconds. Pure.
#[derive(Debug, Default)]
struct Latency {
    usual: f64,
    /// How many quiet probes it was learnt from.
    learnt: f64,
    /// The probes of the last [`SLOWNESS`].
    recent: VecDeque<Probe>,
}

/// One probe.
#[derive(Debug, Clone, Copy)]
struct Probe {
    at: Instant,
    seconds: f64,
    /// It did not run beside a batch.
    quiet: bool,
}

impl Latency {
    /// Whether a probe does not run beside a batch: none is `running` when it starts, and the first
    /// that begins does so `begun` after that, when a probe has usually ended. How long this probe
    /// takes must not decide: the longer it takes, for whatever reason, the more batches begin
    /// meanwhile, and the noise of a busy machine would be blamed on them.
    fn is_quiet(&self, running: bool, begun: Option<Duration>) -> bool {
        !running && begun.is_none_or(|begun| begun.as_secs_f64() >= self.usual)
    }

    fn take(&mut self, probe: Probe, working: bool) {
        let known = self.learnt >= LEARNT;
        let seconds = if known { probe.seconds.min(self.usual * AT_MOST) } else { probe.seconds };
        if probe.quiet {
            self.learnt += 1.0;
            let weight = if working { WEIGHT_AT_WORK } else { WEIGHT_AT_REST };
            self.usual += (seconds - self.usual) * if known { weight } else { 1.0 / self.learnt };
        }
        if working {
            self.recent.push_back(Probe { seconds, ..probe });
        } else {
            self.recent.clear();
        }
        while self.recent.front().is_some_and(|first| probe.at.saturating_duration_since(first.at) > SLOWNESS) {
            self.recent.pop_front();
        }
    }

    /// By which share of what is usual a statement takes longer; none while too little is known.
    fn excess(&self) -> Option<f64> {
        let last = self.recent.back()?.at;
        let busy: Vec<f64> = self.recent.iter().filter(|probe| !probe.quiet).map(|probe| probe.seconds).collect();
        if busy.len() < FEW || self.learnt < LEARNT || self.usual <= 0.0 {
            return None;
        }
        let slower = busy.iter().sum::<f64>() / busy.len() as f64 / self.usual - 1.0;
        let lately = || self.recent.iter().filter(|probe| last.saturating_duration_since(probe.at) <= SHARE);
        let share = lately().filter(|probe| !probe.quiet).count() as f64 / lately().count() as f64;
        Some(share * slower.max(0.0))
    }
}

pub struct ProbeLatency {
    limit: Option<f64>,
    batches: InFlight,
    latency: Latency,
}

impl ProbeLatency {
    pub fn new(limit: Option<f64>, batches: InFlight) -> Self {
        Self { limit, batches, latency: Latency::default() }
    }
}

impl Poll for ProbeLatency {
    fn poll<'a>(&'a mut self, client: &'a Client, working: bool) -> BoxFuture<'a, Result<Vec<Sample>>> {
        Box::pin(async move {
            let probe = client.prepare_typed(PROBE, &[]).await?;
            for apart in APART.iter().cycle().take(PROBES) {
                tokio::time::sleep(*apart).await;
                let (running, at) = (self.batches.mark(), Instant::now());
                client.query(&probe, &[]).await?;
                let seconds = at.elapsed().as_secs_f64();
                let begun = self.batches.begun().map(|begun| begun.saturating_duration_since(at));
                let quiet = self.latency.is_quiet(running, begun);
                self.latency.take(Probe { at, seconds, quiet }, working);
            }
            let excess = self.latency.excess().filter(|_| working);
            Ok(excess.map(|excess| Sample::of_server(excess, self.limit)).into_iter().collect())
        })
    }

    fn without_transaction(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes probes of so many microseconds, each 10 ms after the other.
    fn take(latency: &mut Latency, now: &mut Instant, probes: u32, working: bool, each: impl Fn(u32) -> (f64, bool)) {
        for number in 0..probes {
            *now += Duration::from_millis(10);
            let (micros, quiet) = each(number);
            latency.take(Probe { at: *now, seconds: micros / 1e6, quiet }, working);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_statement_takes_is_compared_with_what_it_takes_between_batches() {
        let (mut latency, mut now) = (Latency::default(), Instant::now());
        take(&mut latency, &mut now, 100, false, |_| (100.0, true));
        assert_eq!(latency.excess(), None, "no job is at work");
        // A batch runs for half of the time, and doubles what a probe takes.
        take(&mut latency, &mut now, 1000, true, |number| if number % 2 == 0 { (100.0, true) } else { (200.0, false) });
        let excess = latency.excess().expect("known");
        assert!((excess - 0.5).abs() < 0.01, "{excess}");
        take(&mut latency, &mut now, 700, true, |_| (100.0, true));
        assert!(latency.excess().expect("known") < 0.01, "there are hardly any batches now");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_became_slow_for_reasons_of_its_own_is_not_blamed_on_batches_for_ever() {
        let (mut latency, mut now) = (Latency::default(), Instant::now());
        take(&mut latency, &mut now, 100, false, |_| (100.0, true));
        take(&mut latency, &mut now, 60, true, |number| (200.0, number % 2 == 0));
        assert!(latency.excess().expect("known") > 0.3);
        take(&mut latency, &mut now, 6000, true, |number| (200.0, number % 2 == 0));
        assert!(latency.excess().expect("known") < 0.02);
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_that_met_something_rare_hardly_counts() {
        let (mut latency, mut now) = (Latency::default(), Instant::now());
        take(&mut latency, &mut now, 100, false, |_| (100.0, true));
        take(
            &mut latency,
            &mut now,
            500,
            true,
            |number| if number == 8 { (1e6, false) } else { (100.0, number % 2 == 1) },
        );
        assert!(latency.excess().expect("known") < 0.05);
    }

    #[tokio::test(start_paused = true)]
    async fn the_noise_of_a_machine_is_not_blamed_on_batches_that_happen_to_run_meanwhile() {
        let (mut latency, mut now) = (Latency::default(), Instant::now());
        take(&mut latency, &mut now, 100, false, |_| (150.0, true));
        // One in ten takes ten times as long; a batch of 0.4 ms runs in each 2 ms, and slows
        // nothing down.
        for number in 0..3000_u64 {
            now += Duration::from_millis(10);
            let micros = if number % 10 == 3 { 1000 } else { 100 };
            let next = Duration::from_micros(number * 130 % 2000);
            let (running, begun) = (next > Duration::from_micros(1600), next);
            let begun = (begun < Duration::from_micros(micros)).then_some(begun);
            let quiet = latency.is_quiet(running, begun);
            latency.take(Probe { at: now, seconds: Duration::from_micros(micros).as_secs_f64(), quiet }, true);
        }
        let excess = latency.excess().expect("known");
        assert!(excess < 0.03, "{excess}");
    }

    #[tokio::test(start_paused = true)]
    async fn work_from_the_first_moment_on_is_compared_with_its_pauses() {
        let (mut latency, mut now) = (Latency::default(), Instant::now());
        take(&mut latency, &mut now, 15, true, |_| (200.0, false));
        assert_eq!(latency.excess(), None);
        take(&mut latency, &mut now, 500, true, |number| if number % 4 == 0 { (100.0, true) } else { (200.0, false) });
        let excess = latency.excess().expect("known");
        assert!((excess - 0.75).abs() < 0.05, "{excess}");
    }
}
