//! Load signal. The value is how much longer a statement takes because of the daemon's batches, as
//! a share of its usual time. The daemon measures this share with a tiny statement of its own, the
//! probe.
//!
//! While a job runs, the daemon runs a burst of probes in each interval (1 s by default). A probe
//! runs beside a batch if it runs at the same time as the batch. The value is the product of two
//! factors. The first factor is how much longer than usual a probe beside a batch takes, as a share
//! of the usual time. The second factor is the share of probes that run beside a batch. The first
//! factor is averaged over a longer time, because this factor needs many probes and changes slowly.
//! The second factor is counted over a shorter time, because the throttle changes this factor. The
//! usual time of a probe is measured while no job runs and in the pauses between batches. So a
//! server that becomes slow for other reasons is not mistaken for a server that the batches slow
//! down.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::error::Result;
use crate::throttle::in_flight::InFlight;
use crate::throttle::measure::poll::{Poll, Sample};

/// Number of probes in one poll.
const PROBES: usize = 32;
/// Pauses between probes. The pauses differ, so that probes do not fall into step with batches.
const APART: [Duration; 3] = [Duration::from_millis(4), Duration::from_millis(8), Duration::from_millis(6)];
/// For probes that run at the same time as a batch: length of the period over which their durations
/// are averaged.
const SLOWNESS: Duration = Duration::from_secs(30);
/// Length of the period over which the share of probes that run beside a batch is computed.
const SHARE: Duration = Duration::from_secs(6);
/// Minimum number of probes that must have run at the same time as a batch. Fewer probes give no
/// reliable mean.
const FEW: usize = 20;
/// The duration of a probe is capped at this multiple of the usual time, so that one rare event
/// does not distort the mean. The cap applies once the usual time is reliable ([`LEARNT`]).
const AT_MOST: f64 = 3.0;
/// The usual time is a weighted mean. The first constant is the weight of a new quiet probe while
/// no job runs. The second is its weight while a job runs. A probe is quiet if it did not run
/// beside a batch. While a job runs, the mean covers about the last 200 quiet probes.
const WEIGHT_AT_REST: f64 = 0.05;
const WEIGHT_AT_WORK: f64 = 0.005;
/// Number of quiet probes after which the usual time is reliable. Until then, the usual time is the
/// mean of all quiet probes.
const LEARNT: f64 = 20.0;

/// The statement of the probe. The statement names a schema, because `statement_time` recognizes
/// the daemon's statements by schema names.
const PROBE: &str = "select 1::pg_catalog.int4";

/// Holds the durations of probes, in seconds. Does no I/O and reads no clock.
#[derive(Debug, Default)]
struct Latency {
    usual: f64,
    /// Number of quiet probes from which the usual time was computed.
    learnt: f64,
    /// Probes of the most recent period of length [`SLOWNESS`]. Empty while no job runs.
    recent: VecDeque<Probe>,
}

/// One probe.
#[derive(Debug, Clone, Copy)]
struct Probe {
    at: Instant,
    seconds: f64,
    /// Whether no batch ran at the same time as the probe.
    quiet: bool,
}

impl Latency {
    /// Returns whether a probe was quiet, which means that it did not run beside a batch. A probe
    /// is quiet if no batch was `running` when it started, and no batch began within the usual time
    /// of a probe. `begun` is the time from the start of the probe to the start of the next batch,
    /// or none if no batch began.
    ///
    /// The actual duration of the probe is not used. The longer a probe takes, for any reason, the
    /// more batches begin during it. With the actual duration, the noise of a busy machine would be
    /// attributed to batches.
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

    /// Returns how much longer than usual a statement takes on average, as a share of the usual
    /// time. Returns none while too few probes are known.
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

    /// Records `probes` probes, one every 10 ms. The function `each` returns the duration of a
    /// probe in microseconds, and whether the probe is quiet.
    fn take(latency: &mut Latency, now: &mut Instant, probes: u32, working: bool, each: impl Fn(u32) -> (f64, bool)) {
        for number in 0..probes {
            *now += Duration::from_millis(10);
            let (micros, quiet) = each(number);
            latency.take(Probe { at: *now, seconds: micros / 1e6, quiet }, working);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_latency_during_batches_is_compared_with_that_between_batches() {
        let (mut latency, mut now) = (Latency::default(), Instant::now());
        take(&mut latency, &mut now, 100, false, |_| (100.0, true));
        assert_eq!(latency.excess(), None, "no job runs");
        // A batch runs during half of the probes, and these probes take twice as long as the
        // others.
        take(&mut latency, &mut now, 1000, true, |number| if number % 2 == 0 { (100.0, true) } else { (200.0, false) });
        let excess = latency.excess().expect("known");
        assert!((excess - 0.5).abs() < 0.01, "{excess}");
        take(&mut latency, &mut now, 700, true, |_| (100.0, true));
        assert!(latency.excess().expect("known") < 0.01, "no batch has run in the last 6 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_became_slower_is_not_blamed_on_batches_forever() {
        let (mut latency, mut now) = (Latency::default(), Instant::now());
        take(&mut latency, &mut now, 100, false, |_| (100.0, true));
        take(&mut latency, &mut now, 60, true, |number| (200.0, number % 2 == 0));
        assert!(latency.excess().expect("known") > 0.3);
        take(&mut latency, &mut now, 6000, true, |number| (200.0, number % 2 == 0));
        assert!(latency.excess().expect("known") < 0.02);
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_outlier_hardly_counts() {
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
    async fn noise_of_the_machine_is_not_blamed_on_batches() {
        let (mut latency, mut now) = (Latency::default(), Instant::now());
        take(&mut latency, &mut now, 100, false, |_| (150.0, true));
        // One probe in ten takes ten times as long as the others. Every 2 ms, a batch runs for 0.4
        // ms. The batches do not slow the probes down.
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
    async fn a_job_that_runs_from_the_start_is_compared_with_its_pauses() {
        let (mut latency, mut now) = (Latency::default(), Instant::now());
        take(&mut latency, &mut now, 15, true, |_| (200.0, false));
        assert_eq!(latency.excess(), None);
        take(&mut latency, &mut now, 500, true, |number| if number % 4 == 0 { (100.0, true) } else { (200.0, false) });
        let excess = latency.excess().expect("known");
        assert!((excess - 0.75).abs() < 0.05, "{excess}");
    }
}
