//! Reads each signal at its own interval, and keeps what it said last.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool_postgres::Pool;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Seen;
use super::registry::registered;
use super::watch::{Lanes, Watch};
use crate::config::SignalRule;
use crate::error::{Error, Result};
use crate::throttle::batches::Batches;
use crate::throttle::reading::{Reading, Reason};

/// A reading is stale when so many of its intervals have passed.
const STALE: u32 = 3;

/// The signals of one database beside replica lag, and what they said last; a clone is the same.
#[derive(Clone)]
pub struct Signals {
    watches: Arc<Vec<Watch>>,
    heard: Arc<Mutex<Vec<Heard>>>,
}

/// What one signal said.
#[derive(Debug, Clone, Default)]
struct Heard {
    /// None before its first answer, and once it was forgotten.
    answer: Option<Answer>,
    /// Of the last look, if that failed.
    trouble: Option<Error>,
}

#[derive(Debug, Clone)]
struct Answer {
    at: Instant,
    max_age: Duration,
    readings: Vec<Reading>,
}

impl Signals {
    /// The built-in ones, with other limits where a rule goes by their name, and one for each other rule.
    /// `batches` are those at work on the database.
    pub fn of_rules(rules: &[SignalRule], batches: &Batches) -> Self {
        let watches = registered(rules, batches);
        let heard = Arc::new(Mutex::new(vec![Heard::default(); watches.len()]));
        Self { watches: Arc::new(watches), heard }
    }

    /// What they said last. What is too old can't be read.
    pub fn heard(&self, now: Instant, working: bool) -> Vec<Reading> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs = self.watches.iter().zip(heard.iter());
        let awake = pairs.filter(|(watch, _)| watch.interval(working).is_some());
        awake.flat_map(|(watch, heard)| heard.readings(watch, now)).collect()
    }

    /// What the first batch waits for, and was not read yet since the work began.
    pub fn unread(&self) -> Option<(Reason, String)> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pairs = self.watches.iter().zip(heard.iter());
        let (watch, _) =
            pairs.find(|(watch, heard)| watch.comes_first() && heard.answer.is_none() && heard.trouble.is_none())?;
        Some((watch.signal.reason(), format!("{} has not been read yet", watch.name())))
    }

    /// Reads each at its interval, for ever.
    pub async fn keep_reading(self, database: String, pool: Pool, working: watch::Receiver<bool>) {
        let lanes = Lanes::new();
        let each = (0..self.watches.len())
            .map(|index| self.keep_reading_one(index, &database, &pool, &lanes, working.clone()));
        join_all(each).await;
    }

    async fn keep_reading_one(
        &self,
        index: usize,
        database: &str,
        pool: &Pool,
        lanes: &Lanes,
        mut working: watch::Receiver<bool>,
    ) {
        let watch = &self.watches[index];
        let mut last: Option<Instant> = None;
        let mut before = *working.borrow();
        loop {
            let at_work = *working.borrow_and_update();
            if std::mem::replace(&mut before, at_work) != at_work {
                self.note(index, |heard| heard.goes_over(at_work, watch, Instant::now()));
            }
            let due = watch.interval(at_work).map(|interval| last.map_or_else(Instant::now, |last| last + interval));
            if due.is_none() {
                // The first batch waits for the next answer, so it is asked for as soon as there is one.
                last = None;
                self.note(index, |heard| *heard = Heard::default());
            }
            tokio::select! {
                changed = working.changed() => if changed.is_err() { return } else { continue },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
            let started = Instant::now();
            last = Some(started);
            let answer = watch.look(pool, lanes, at_work).await;
            self.hear(index, database, answer, max_age(watch, at_work));
        }
    }

    /// A failed look leaves what was read before, which holds good until it is stale.
    fn hear(&self, index: usize, database: &str, answer: Result<Vec<Seen>>, max_age: Duration) {
        let watch = &self.watches[index];
        let (signal, source) = (watch.signal.as_str(), watch.source.as_str());
        self.note(index, |heard| match answer {
            Ok(seen) => {
                if heard.trouble.take().is_some() {
                    info!(
                        database.name = database,
                        signal.name = signal,
                        signal.source = source,
                        "the signal can be read again"
                    );
                }
                let at = Instant::now();
                let readings = seen.into_iter().map(|seen| watch.reading(seen, at, max_age)).collect();
                heard.answer = Some(Answer { at, max_age, readings });
            }
            Err(error) => {
                if heard.trouble.as_ref().map(|trouble| trouble.kind) != Some(error.kind) {
                    warn!(
                        database.name = database,
                        signal.name = signal,
                        signal.source = source,
                        error = &error as &dyn std::error::Error,
                        "the signal can't be read"
                    );
                }
                heard.trouble = Some(error);
            }
        });
    }

    fn note(&self, index: usize, how: impl FnOnce(&mut Heard)) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        how(&mut heard[index]);
    }
}

/// How long what is read at work, or at rest, holds good.
fn max_age(watch: &Watch, at_work: bool) -> Duration {
    watch.interval(at_work).unwrap_or(watch.interval) * STALE
}

impl Heard {
    /// To work, or to rest: what was read at the one interval is renewed at the other from now on, and holds good accordingly;
    /// if it still does.
    fn goes_over(&mut self, to_work: bool, watch: &Watch, now: Instant) {
        let Some(answer) = &mut self.answer else { return };
        let age = now.saturating_duration_since(answer.at);
        if age > answer.max_age {
            return;
        }
        answer.max_age = age + max_age(watch, to_work);
        for reading in &mut answer.readings {
            reading.max_age = answer.max_age;
        }
    }

    fn readings(&self, watch: &Watch, now: Instant) -> Vec<Reading> {
        match (&self.answer, &self.trouble) {
            (Some(answer), _) if now.saturating_duration_since(answer.at) <= answer.max_age => answer.readings.clone(),
            (None, None) => Vec::new(),
            (_, Some(trouble)) => vec![watch.unreadable(now, &told(trouble))],
            (Some(answer), None) => {
                let age = now.saturating_duration_since(answer.at).as_secs_f64();
                vec![watch.unreadable(now, &format!("no answer for {age:.0} s"))]
            }
        }
    }
}

fn told(error: &Error) -> String {
    match &error.hint {
        Some(hint) => format!("{}; {hint}", error.message),
        None => error.message.clone(),
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").field("heard", &self.heard).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::throttle::reading::Signal;

    #[tokio::test(start_paused = true)]
    async fn what_was_read_holds_good_for_as_long_as_is_usual_where_it_is_renewed() {
        let watches = registered(&[], &Batches::default());
        let slot = watches.iter().find(|watch| watch.signal == Signal::Slot).expect("it is built in");
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let heard = |at_work: bool| {
            let max_age = max_age(slot, at_work);
            let readings = vec![slot.reading(Seen::of_server(1.0, None), start, max_age)];
            Heard { answer: Some(Answer { at: start, max_age, readings }), trouble: None }
        };
        let is_read = |heard: &Heard, at: u64| {
            let readings = heard.readings(slot, after(at));
            readings[0].value.is_some()
        };
        // At work it is read each 5 s, at rest each 30.
        let mut ends = heard(true);
        assert!(is_read(&ends, 15) && !is_read(&ends, 16));
        ends.goes_over(false, slot, after(10));
        assert!(is_read(&ends, 100) && !is_read(&ends, 101));
        let mut begins = heard(false);
        assert!(is_read(&begins, 90) && !is_read(&begins, 91));
        begins.goes_over(true, slot, after(29));
        assert!(is_read(&begins, 44) && !is_read(&begins, 45));
        let mut stale = heard(true);
        stale.goes_over(false, slot, after(20));
        assert!(!is_read(&stale, 21), "rest makes nothing healthy");
    }
}
