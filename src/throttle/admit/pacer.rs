//! Makes a slice pay for each batch by waiting: the next batch starts only when the rate limit and
//! the duty cycle allow it. A pacer uses a `governor` limiter, in which each cell stands for 1
//! microsecond.
//!
//! The quota of a limiter cannot be changed in place, so the quota is fixed and the price varies.
//! `rows` at `rate` rows per second cost `rows * 10^6 / rate` cells, which are taken in pieces. A
//! new rate applies from the next call of [`Pacer::pay`] on, even to an amount that is partly paid.
//! The long-run rate is exact even with a coarse timer, because the time by which a sleep
//! overshoots is kept as credit, up to [`BURST`].

use std::num::NonZeroU32;
use std::ops::Add;
use std::time::Duration;

use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

/// Maximum credit. With a higher value, a noticeable burst would follow each pause. With a value
/// below a few ticks of tokio's timer (one tick is 1 ms), the rate would be too low.
const BURST: Duration = Duration::from_millis(20);
const BURST_CELLS: NonZeroU32 = NonZeroU32::new(20_000).expect("above 0");
/// Number of cells that are taken at once: half of the burst. If this number were as large as the
/// burst, the limiter would grant the cells only when the credit is full, and the time by which a
/// sleep overshoots would be lost.
const PIECE_CELLS: f64 = 10_000.0;

/// The account of one slice. The slice pays after each batch, and the next batch waits until the
/// last batch is paid.
#[derive(Debug)]
pub struct Pacer {
    limiter: RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Tick>>,
    owed: Owed,
    /// Terms that the last call of [`Pacer::pay`] used.
    last: Terms,
}

/// The limits from which the wait after a batch is computed: rows per second (infinite without a
/// limit) and the duty cycle.
#[derive(Debug, Clone, Copy)]
struct Terms {
    rate: f64,
    duty_cycle: f64,
}

impl Default for Terms {
    fn default() -> Self {
        Self { rate: f64::INFINITY, duty_cycle: 1.0 }
    }
}

#[derive(Debug, Default)]
struct Owed {
    /// Limits under which an earlier slice owed this amount. None if no earlier slice owed it. The
    /// price of the amount is never higher than under these earlier limits, even if the current
    /// limits are stricter.
    carried: Option<Terms>,
    rows: u64,
    took: Duration,
    /// Number of cells that have already been paid for this amount. They are stored here, so that
    /// an interrupted wait loses nothing. Negative if an earlier batch left a fraction of a cell
    /// unpaid.
    paid: f64,
}

impl Pacer {
    pub fn new() -> Self {
        let quota = Quota::with_period(Duration::from_micros(1)).expect("above 0").allow_burst(BURST_CELLS);
        Self {
            limiter: RateLimiter::direct_with_clock(quota, TokioClock),
            owed: Owed::default(),
            last: Terms::default(),
        }
    }

    /// Adds a batch that changed `rows` rows in the time `took`.
    pub fn owe(&mut self, rows: u64, took: Duration) {
        self.owed.rows += rows;
        self.owed.took += took;
    }

    /// Stores the limits of the last call of [`Pacer::pay`] together with the owed amount, which a
    /// later slice will pay. If limits of an earlier slice are already stored, the less strict of
    /// the old and the new value is kept for each limit.
    pub fn carry_over(&mut self) {
        let own = self.last;
        self.owed.carried = Some(match self.owed.carried {
            Some(old) => Terms { rate: old.rate.max(own.rate), duty_cycle: old.duty_cycle.max(own.duty_cycle) },
            None => own,
        });
    }

    /// Counts a time in which the slice did not use the server as already paid: the time between
    /// two slices, or the time that messages spent on the network. The limiter itself gives credit
    /// for up to [`BURST`] of this time, so only the rest is added here.
    pub fn waited(&mut self, time: Duration) {
        self.owed.paid += (micros(time) - micros(BURST)).max(0.0);
    }

    /// Pays as much as possible now, under the given limits.
    ///
    /// # Errors
    /// Returns [`Unpaid`] if a part is still unpaid.
    pub fn pay(&mut self, rows_per_second: Option<f64>, duty_cycle: f64) -> Result<(), Unpaid> {
        self.last = Terms { rate: rows_per_second.unwrap_or(f64::INFINITY), duty_cycle };
        let price = self.owed.price(rows_per_second, duty_cycle);
        let unpaid = |wait, left: f64| Unpaid {
            wait,
            left: Duration::try_from_secs_f64(left / 1e6).unwrap_or(Duration::MAX),
            by_rate: price.rows >= price.rest,
        };
        let mut left = price.rows.max(price.rest) - price.credit;
        while left >= 1.0 {
            // At a rate of 0 or less, the amount is never paid.
            if !left.is_finite() {
                return Err(unpaid(Duration::MAX, left));
            }
            let piece = NonZeroU32::new(left.min(PIECE_CELLS) as u32).unwrap_or(NonZeroU32::MIN);
            match self.limiter.check_n(piece) {
                Ok(Ok(())) => {
                    self.owed.paid += f64::from(piece.get());
                    left -= f64::from(piece.get());
                }
                Ok(Err(not_until)) => return Err(unpaid(not_until.wait_time_from(TokioClock.now()), left)),
                Err(_larger_than_burst) => return Err(unpaid(BURST, left)),
            }
        }
        // The next batch also pays the fraction of a cell that is still unpaid. Otherwise tiny
        // batches at a high rate would pay too little.
        self.owed = Owed { paid: -left.clamp(0.0, 1.0), ..Owed::default() };
        Ok(())
    }
}

/// Tells how long the caller must wait before it can pay more, how long until the whole amount is
/// paid, and whether the rate limit or the duty cycle causes the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpaid {
    pub wait: Duration,
    pub left: Duration,
    pub by_rate: bool,
}

/// Price of the owed amount, in cells. A cell stands for 1 µs, so each price is also a time. It is
/// counted from the start of the batch.
struct Price {
    /// The price that results from the rate limit.
    rows: f64,
    /// The price that results from the duty cycle. It covers the run time of the batch and the
    /// pause after the batch.
    rest: f64,
    /// Number of cells that count as paid: the cells that were taken, plus the cells for the time
    /// in which the batch ran.
    credit: f64,
}

impl Owed {
    fn price(&self, rows_per_second: Option<f64>, duty_cycle: f64) -> Price {
        let took = micros(self.took);
        let (rows_per_second, duty_cycle) = match self.carried {
            Some(old) => (rows_per_second.map(|rate| rate.max(old.rate)), duty_cycle.max(old.duty_cycle)),
            None => (rows_per_second, duty_cycle),
        };
        let rows = match rows_per_second {
            Some(rate) if rate > 0.0 => self.rows as f64 * 1e6 / rate,
            Some(_) => f64::INFINITY,
            None => 0.0,
        };
        let rest = if duty_cycle < 1.0 { took / duty_cycle } else { 0.0 };
        // The time in which the batch ran counts as paid. The limiter itself gives credit for up to
        // [`BURST`] of this time, so only the rest is added here.
        Price { rows, rest, credit: (took - micros(BURST)).max(0.0) + self.paid }
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Tokio's clock, which tests can pause.
#[derive(Debug, Clone, Copy)]
struct TokioClock;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Tick(Instant);

impl Clock for TokioClock {
    type Instant = Tick;

    fn now(&self) -> Tick {
        Tick(Instant::now())
    }
}

impl Reference for Tick {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.saturating_duration_since(earlier.0).into()
    }

    fn saturating_sub(&self, duration: Nanos) -> Self {
        self.0.checked_sub(duration.into()).map_or(*self, Tick)
    }
}

impl Add<Nanos> for Tick {
    type Output = Self;

    fn add(self, other: Nanos) -> Self {
        Self(self.0 + Duration::from(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    async fn pay_all(pacer: &mut Pacer, rate: Option<f64>, duty_cycle: f64) {
        while let Err(unpaid) = pacer.pay(rate, duty_cycle) {
            tokio::time::sleep(unpaid.wait).await;
        }
    }

    /// Returns the average rows per second, measured over a period of about `seconds`. A first
    /// batch, which may use up the initial credit, is not counted.
    async fn measured(rate: f64, batch_rows: u64, took: Duration, seconds: f64) -> f64 {
        let mut pacer = Pacer::new();
        pacer.owe(batch_rows, took);
        pay_all(&mut pacer, Some(rate), 1.0).await;
        let (start, mut rows) = (Instant::now(), 0);
        while start.elapsed().as_secs_f64() < seconds {
            tokio::time::advance(took).await;
            pacer.owe(batch_rows, took);
            rows += batch_rows;
            pay_all(&mut pacer, Some(rate), 1.0).await;
        }
        rows as f64 / start.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn the_long_run_rate_is_exact_from_ten_to_twenty_thousand() {
        for rate in [10.0, 100.0, 1000.0, 20_000.0] {
            for batch_rows in [1, 7, 100, 2000] {
                for took in
                    [Duration::ZERO, Duration::from_micros(30), Duration::from_millis(9), Duration::from_millis(50)]
                {
                    // The rate cannot be reached if running a batch takes about as much time as the
                    // rate allows for the batch's rows.
                    if took.as_secs_f64() > 0.9 * batch_rows as f64 / rate {
                        continue;
                    }
                    let seconds = (50.0 * batch_rows as f64 / rate).clamp(10.0, 300.0);
                    let reached = measured(rate, batch_rows, took, seconds).await;
                    let off = (reached / rate - 1.0).abs();
                    assert!(off < 0.02, "{reached} for {rate} with {batch_rows} rows in {took:?}");
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_rate_applies_to_the_next_batch() {
        let mut pacer = Pacer::new();
        for (rate, want) in [(100.0, 1.0), (1000.0, 0.1), (50.0, 2.0), (10_000.0, 0.01)] {
            pacer.owe(100, Duration::ZERO);
            let start = Instant::now();
            pay_all(&mut pacer, Some(rate), 1.0).await;
            let took = start.elapsed().as_secs_f64();
            assert!((took - want).abs() <= 0.022, "{took} for {want}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_paid_debt_costs_half_at_the_new_rate() {
        let mut pacer = Pacer::new();
        pacer.owe(100, Duration::ZERO);
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(500) {
            let _ = pacer.pay(Some(10.0), 1.0);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        pay_all(&mut pacer, Some(1000.0), 1.0).await;
        assert!(start.elapsed() < Duration::from_millis(510), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_rest_saves_up_no_more_than_a_burst() {
        let mut pacer = Pacer::new();
        pacer.owe(10, Duration::ZERO);
        pay_all(&mut pacer, Some(1000.0), 1.0).await;
        tokio::time::advance(Duration::from_secs(3600)).await;
        let start = Instant::now();
        let mut rows = 0;
        while start.elapsed() < Duration::from_millis(100) {
            pacer.owe(1, Duration::ZERO);
            rows += 1;
            pay_all(&mut pacer, Some(1000.0), 1.0).await;
        }
        // 1 row per millisecond for 100 ms, plus a burst of 20 ms, which is 20 rows.
        assert!(rows <= 122, "{rows}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_duty_cycle_is_the_share_of_time_in_which_batches_run() {
        for (duty_cycle, took) in [(0.5, 10), (0.1, 10), (0.25, 80), (0.9, 200)] {
            let took = Duration::from_millis(took);
            let mut pacer = Pacer::new();
            pacer.owe(1, took);
            pay_all(&mut pacer, None, duty_cycle).await;
            let start = Instant::now();
            for _ in 0..100 {
                tokio::time::advance(took).await;
                pacer.owe(1, took);
                pay_all(&mut pacer, None, duty_cycle).await;
            }
            let share = 100.0 * took.as_secs_f64() / start.elapsed().as_secs_f64();
            assert!((share / duty_cycle - 1.0).abs() < 0.02, "{share} for {duty_cycle}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_limits_nothing_is_owed() {
        let mut pacer = Pacer::new();
        pacer.owe(1_000_000, Duration::from_secs(100));
        assert_eq!(pacer.pay(None, 1.0), Ok(()));
    }

    proptest! {
        #[test]
        fn no_rate_breaks_the_pacer(
            rate in prop::option::of(prop_oneof![Just(0.0), Just(-1.0), Just(f64::NAN), Just(1e-300), 0.1..1e9]),
            duty_cycle in 0.1..=1.0, rows in 0u64..1_000_000, millis in 0u64..100_000,
        ) {
            let mut pacer = Pacer::new();
            pacer.owe(rows, Duration::from_millis(millis));
            let outcome = pacer.pay(rate, duty_cycle);
            if rate.is_some_and(|rate| rate <= 0.0 || rate.is_nan()) {
                prop_assert_eq!(outcome.map_err(|unpaid| unpaid.by_rate), Err(true));
            }
        }
    }
}
