//! Polls each signal at the signal's own interval, and keeps the last sample.
//!
//! Each signal has its own loop and timeout, so that a slow source does not delay all signals. The
//! built-in signals share one connection to the server, and the user's own SQL signals share
//! another. A signal can delay the other signals on its connection by at most its own timeout.
//! Replica lag is not polled here, because the poller reads it more often.
//!
//! A sample is stale after three polling intervals of its signal. A stale signal does not count as
//! healthy:
//!
//! - A stale budget holds jobs, and so does a stale signal that the user defined.
//! - A stale built-in load gauge is ignored. If no gauge can be read, the duty cycle stays the
//!   same.
//! - While `active_sessions` is stale, other sessions count as active.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool_postgres::Pool;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::signal::SignalRule;
use crate::error::{Error, Result};
use crate::job::waiting::Waiting;
use crate::throttle::in_flight::InFlight;
use crate::throttle::measure::poll::Sample;
use crate::throttle::measure::polled_signal::{Lanes, PolledSignal};
use crate::throttle::measure::readings::Reading;
use crate::throttle::measure::registry::registered;

/// Number of intervals after which a reading is stale.
const STALE: u32 = 3;

/// Holds the signals of one database except replica lag, and their last samples. All clones share
/// one state.
#[derive(Clone)]
pub struct Monitoring {
    signals: Arc<Vec<PolledSignal>>,
    last: Arc<Mutex<Vec<LastSample>>>,
}

/// The last sample of one signal.
#[derive(Debug, Clone, Default)]
struct LastSample {
    /// None before the first result. If polling stops because no job runs, the value is none again
    /// until the first result after polling resumes.
    answer: Option<Answer>,
    /// Reason why the last poll failed. None if the poll succeeded.
    failure: Option<Error>,
}

#[derive(Debug, Clone)]
struct Answer {
    at: Instant,
    max_age: Duration,
    readings: Vec<Reading>,
}

impl Monitoring {
    /// Creates the built-in signals, and one user-defined signal for each rule that does not name a
    /// built-in signal. A rule that names a built-in signal changes the settings of this signal.
    /// `in_flight` counts the batches that run on the database.
    pub fn of_rules(rules: &[SignalRule], in_flight: &InFlight) -> Self {
        let signals = registered(rules, in_flight);
        let last = Arc::new(Mutex::new(vec![LastSample::default(); signals.len()]));
        Self { signals: Arc::new(signals), last }
    }

    /// Returns the last readings of all signals that are polled at present. A signal counts as
    /// unreadable if its last sample is too old.
    pub fn readings(&self, now: Instant, working: bool) -> Vec<Reading> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs = self.signals.iter().zip(last.iter());
        let polled = pairs.filter(|(signal, _)| signal.interval(working).is_some());
        polled.flat_map(|(signal, last)| last.readings(signal, now)).collect()
    }

    /// Returns the reason to hold the first batch, or none if each signal that this batch needs has
    /// returned a value or a failure. A signal that is polled only while a job runs has no result
    /// when the first job begins.
    pub fn unread(&self) -> Option<Waiting> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pairs = self.signals.iter().zip(last.iter());
        let is_unread = |last: &LastSample| last.answer.is_none() && last.failure.is_none();
        let (signal, _) = pairs.find(|(signal, last)| signal.comes_first() && is_unread(last))?;
        Some(signal.unread())
    }

    /// Polls each signal at its interval. Runs until the sender of `working` is dropped.
    pub async fn run(self, pool: Pool, working: watch::Receiver<bool>) {
        let lanes = Lanes::new();
        let each = (0..self.signals.len()).map(|index| self.keep_polling(index, &pool, &lanes, working.clone()));
        join_all(each).await;
    }

    async fn keep_polling(&self, index: usize, pool: &Pool, lanes: &Lanes, mut working: watch::Receiver<bool>) {
        let signal = &self.signals[index];
        let mut last: Option<Instant> = None;
        let mut before = *working.borrow();
        loop {
            let at_work = *working.borrow_and_update();
            if std::mem::replace(&mut before, at_work) != at_work {
                self.update(index, |last| last.change_interval(at_work, signal, Instant::now()));
            }
            let due = signal.interval(at_work).map(|interval| last.map_or_else(Instant::now, |last| last + interval));
            if due.is_none() {
                // The first batch of the next job must wait for a new result. The signal is
                // therefore polled as soon as a job runs.
                last = None;
                self.update(index, |last| *last = LastSample::default());
            }
            tokio::select! {
                changed = working.changed() => if changed.is_err() { return } else { continue },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
            let started = Instant::now();
            last = Some(started);
            let answer = signal.poll(pool, lanes, at_work).await;
            self.record(index, answer, max_age(signal, at_work));
        }
    }

    /// Records the result of a poll. After a failed poll, the last result is kept until it is
    /// stale.
    fn record(&self, index: usize, answer: Result<Vec<Sample>>, max_age: Duration) {
        let signal = &self.signals[index];
        let (name, source) = (signal.signal.as_str(), signal.source.as_str());
        self.update(index, |last| match answer {
            Ok(samples) => {
                if last.failure.take().is_some() {
                    info!(signal.name = name, signal.source = source, "signal can be read again");
                }
                let at = Instant::now();
                let readings = samples.into_iter().map(|sample| signal.reading(sample, at, max_age)).collect();
                last.answer = Some(Answer { at, max_age, readings });
            }
            Err(error) => {
                if last.failure.as_ref().map(|failure| failure.kind) != Some(error.kind) {
                    warn!(
                        signal.name = name,
                        signal.source = source,
                        error = %error.message,
                        hint = error.hint,
                        "could not read a signal"
                    );
                }
                last.failure = Some(error);
            }
        });
    }

    fn update(&self, index: usize, change: impl FnOnce(&mut LastSample)) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut last[index]);
    }
}

/// Returns how long a sample stays fresh. `at_work` is true if a job ran when the sample was taken.
fn max_age(signal: &PolledSignal, at_work: bool) -> Duration {
    signal.interval(at_work).unwrap_or(signal.interval) * STALE
}

impl LastSample {
    /// Adapts the sample when the first job begins or the last job ends. The next sample comes
    /// after a different interval, so from `now` on, the present sample stays fresh for three of
    /// the new intervals. A stale sample stays stale.
    fn change_interval(&mut self, to_work: bool, signal: &PolledSignal, now: Instant) {
        let Some(answer) = &mut self.answer else { return };
        let age = now.saturating_duration_since(answer.at);
        if age > answer.max_age {
            return;
        }
        answer.max_age = age + max_age(signal, to_work);
        for reading in &mut answer.readings {
            reading.max_age = answer.max_age;
        }
    }

    fn readings(&self, signal: &PolledSignal, now: Instant) -> Vec<Reading> {
        match (&self.answer, &self.failure) {
            (Some(answer), _) if now.saturating_duration_since(answer.at) <= answer.max_age => answer.readings.clone(),
            (None, None) => Vec::new(),
            (_, Some(failure)) => vec![signal.unreadable(now, &with_hint(failure))],
            (Some(answer), None) => {
                let age = now.saturating_duration_since(answer.at).as_secs_f64();
                vec![signal.unreadable(now, &format!("no result for {age:.0} s"))]
            }
        }
    }
}

fn with_hint(error: &Error) -> String {
    match &error.hint {
        Some(hint) => format!("{}. {hint}", error.message),
        None => error.message.clone(),
    }
}

impl fmt::Debug for Monitoring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitoring").field("last", &self.last).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::throttle::measure::signal::Signal;

    #[tokio::test(start_paused = true)]
    async fn a_sample_is_fresh_for_a_time_that_depends_on_its_interval() {
        let signals = registered(&[], &InFlight::default());
        let slot = signals.iter().find(|polled| polled.signal == Signal::Slot).expect("it is built in");
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let sampled = |at_work: bool| {
            let max_age = max_age(slot, at_work);
            let readings = vec![slot.reading(Sample::of_server(1.0, None), start, max_age)];
            LastSample { answer: Some(Answer { at: start, max_age, readings }), failure: None }
        };
        let is_read = |last: &LastSample, at: u64| {
            let readings = last.readings(slot, after(at));
            readings[0].value.is_some()
        };
        // The signal is polled every 5 s while a job runs, and every 30 s otherwise.
        let mut ends = sampled(true);
        assert!(is_read(&ends, 15) && !is_read(&ends, 16));
        ends.change_interval(false, slot, after(10));
        assert!(is_read(&ends, 100) && !is_read(&ends, 101));
        let mut begins = sampled(false);
        assert!(is_read(&begins, 90) && !is_read(&begins, 91));
        begins.change_interval(true, slot, after(29));
        assert!(is_read(&begins, 44) && !is_read(&begins, 45));
        let mut stale = sampled(true);
        stale.change_interval(false, slot, after(20));
        assert!(!is_read(&stale, 21), "a stale sample stays stale at rest");
    }
}
