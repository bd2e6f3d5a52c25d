//! Pays off what a batch cost, in time: `governor` with cells of a microsecond.
//!
//! Its quota can't be changed in place, so the quota stays and the price changes: `rows` at `rate` rows a second cost
//! `rows * 10^6 / rate` cells, taken in pieces. A change of the rate holds from the next batch on, and the long-run
//! rate is exact however coarse the timer is, since what a sleep overshoots stays as credit, up to [`BURST`].

use std::num::NonZeroU32;
use std::ops::Add;
use std::time::Duration;

use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

/// Credit that may be saved up. More would be a burst after each pause; less than a few ticks of tokio's timer (1 ms)
/// would lose rate.
const BURST: Duration = Duration::from_millis(20);
const BURST_CELLS: NonZeroU32 = NonZeroU32::new(20_000).expect("above 0");
/// Half of the burst: a piece as large as the burst would be granted only when all credit is back, and the time by
/// which the sleep overshot that would be lost.
const PIECE_CELLS: f64 = 10_000.0;

/// Post-paid: a batch runs, and the next one waits until it is paid for.
#[derive(Debug)]
pub struct Pacer {
    limiter: RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Tick>>,
    owed: Owed,
    /// The limits under which was paid last.
    last: Terms,
}

/// Rows a second, infinite where there is no limit; and the duty.
#[derive(Debug, Clone, Copy)]
struct Terms {
    rate: f64,
    duty: f64,
}

impl Default for Terms {
    fn default() -> Self {
        Self { rate: f64::INFINITY, duty: 1.0 }
    }
}

#[derive(Debug, Default)]
struct Owed {
    /// Of an earlier slice: no more than it was worth then, whatever the limits are by now.
    inherited: Option<Terms>,
    rows: u64,
    took: Duration,
    /// Cells that were taken for it, so that a wait that is broken off loses nothing.
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

    pub fn owe(&mut self, rows: u64, took: Duration) {
        self.owed.rows += rows;
        self.owed.took += took;
    }

    /// For the next slice: what is owed now was owed under the limits of now.
    pub fn bequeath(&mut self) {
        let own = self.last;
        self.owed.inherited = Some(match self.owed.inherited {
            Some(old) => Terms { rate: old.rate.max(own.rate), duty: old.duty.max(own.duty) },
            None => own,
        });
    }

    /// Time that passed while nobody asked: it pays as well. Up to the burst the limiter gives it of its own accord.
    pub fn waited(&mut self, time: Duration) {
        self.owed.paid += (micros(time) - micros(BURST)).max(0.0);
    }

    /// Pays as much as can be paid now, under the limits that now hold.
    ///
    /// # Errors
    /// Not all is paid yet.
    pub fn pay(&mut self, rows_per_second: Option<f64>, duty: f64) -> Result<(), Unpaid> {
        self.last = Terms { rate: rows_per_second.unwrap_or(f64::INFINITY), duty };
        let price = self.owed.price(rows_per_second, duty);
        let unpaid = |wait| Unpaid { wait, by_rate: price.rows >= price.rest };
        let mut left = price.rows.max(price.rest) - price.credit;
        while left >= 1.0 {
            // A rate of 0, or none that is a number: never.
            if !left.is_finite() {
                return Err(unpaid(Duration::MAX));
            }
            let piece = NonZeroU32::new(left.min(PIECE_CELLS) as u32).unwrap_or(NonZeroU32::MIN);
            match self.limiter.check_n(piece) {
                Ok(Ok(())) => {
                    self.owed.paid += f64::from(piece.get());
                    left -= f64::from(piece.get());
                }
                Ok(Err(not_until)) => return Err(unpaid(not_until.wait_time_from(TokioClock.now()))),
                Err(_larger_than_burst) => return Err(unpaid(BURST)),
            }
        }
        // A fraction of a cell goes to the next batch, else a tiny batch at a high rate would be priced wrong.
        self.owed = Owed { paid: -left.clamp(0.0, 1.0), ..Owed::default() };
        Ok(())
    }
}

/// How long until more can be paid, and whether it is the rate that makes it so long, or else the duty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpaid {
    pub wait: Duration,
    pub by_rate: bool,
}

/// In cells, counted from the start of the batch.
struct Price {
    rows: f64,
    /// So that the batch was no more than its duty's share of the time.
    rest: f64,
    credit: f64,
}

impl Owed {
    fn price(&self, rows_per_second: Option<f64>, duty: f64) -> Price {
        let took = micros(self.took);
        let (rows_per_second, duty) = match self.inherited {
            Some(old) => (rows_per_second.map(|rate| rate.max(old.rate)), duty.max(old.duty)),
            None => (rows_per_second, duty),
        };
        let rows = match rows_per_second {
            Some(rate) if rate > 0.0 => self.rows as f64 * 1e6 / rate,
            Some(_) => f64::INFINITY,
            None => 0.0,
        };
        let rest = if duty < 1.0 { took / duty } else { 0.0 };
        // The time that the batch ran has paid already; up to the burst the limiter gives it of its own accord.
        Price { rows, rest, credit: (took - micros(BURST)).max(0.0) + self.paid }
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Tokio's clock, which follows paused time.
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

    async fn pay_all(pacer: &mut Pacer, rate: Option<f64>, duty: f64) {
        while let Err(unpaid) = pacer.pay(rate, duty) {
            tokio::time::sleep(unpaid.wait).await;
        }
    }

    /// Rows per second over about `seconds`, after the free first batch.
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
                    // A batch that takes longer than it is worth can't reach the rate.
                    if took.as_secs_f64() > 0.9 * batch_rows as f64 / rate {
                        continue;
                    }
                    let seconds = (50.0 * batch_rows as f64 / rate).clamp(10.0, 300.0);
                    let told = measured(rate, batch_rows, took, seconds).await;
                    let off = (told / rate - 1.0).abs();
                    assert!(off < 0.02, "{told} for {rate} with {batch_rows} rows in {took:?}");
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_rate_holds_for_the_very_next_batch() {
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
    async fn a_debt_half_paid_is_worth_as_much_at_the_new_rate() {
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
    async fn a_long_rest_saves_up_no_burst() {
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
        // 100 ms and a burst worth 20 ms, at 1 row each millisecond.
        assert!(rows <= 122, "{rows}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_duty_is_the_share_of_time_in_which_batches_run() {
        for (duty, took) in [(0.5, 10), (0.1, 10), (0.25, 80), (0.9, 200)] {
            let took = Duration::from_millis(took);
            let mut pacer = Pacer::new();
            pacer.owe(1, took);
            pay_all(&mut pacer, None, duty).await;
            let start = Instant::now();
            for _ in 0..100 {
                tokio::time::advance(took).await;
                pacer.owe(1, took);
                pay_all(&mut pacer, None, duty).await;
            }
            let told = 100.0 * took.as_secs_f64() / start.elapsed().as_secs_f64();
            assert!((told / duty - 1.0).abs() < 0.02, "{told} for {duty}");
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
        fn no_rate_can_break_it(
            rate in prop::option::of(prop_oneof![Just(0.0), Just(-1.0), Just(f64::NAN), Just(1e-300), 0.1..1e9]),
            duty in 0.1..=1.0, rows in 0u64..1_000_000, millis in 0u64..100_000,
        ) {
            let mut pacer = Pacer::new();
            pacer.owe(rows, Duration::from_millis(millis));
            let outcome = pacer.pay(rate, duty);
            if rate.is_some_and(|rate| rate <= 0.0 || rate.is_nan()) {
                prop_assert_eq!(outcome.map_err(|unpaid| unpaid.by_rate), Err(true));
            }
        }
    }
}
