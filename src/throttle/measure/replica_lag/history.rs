//! Keeps the history of the primary's WAL position over time. A replica's lag in seconds is
//! measured with this history.
//!
//! PostgreSQL's own figures are misleading on an idle primary. `replay_lag` still shows its last
//! value for some time after a standby has caught up. The age of the last replayed transaction
//! grows although no replica is behind. If the daemon used either figure, its holds would last too
//! long or never end.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Maximum number of points. At five samples a second, this is more than 3 minutes in full
/// resolution. Each time the history is full, its older half loses every second point. So the
/// history covers hours, and the error of a measured lag is a small share of the lag.
const CAPACITY: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Point {
    at: Instant,
    lsn: u64,
}

/// Points in ascending order of both time and LSN.
#[derive(Debug, Default)]
pub struct History {
    points: VecDeque<Point>,
}

impl History {
    pub fn record(&mut self, at: Instant, lsn: u64) {
        // A lower position means that a different server responds, for example after a failover or
        // a restore. The old times do not apply to the positions of that server.
        if self.points.back().is_some_and(|last| last.lsn > lsn) {
            self.points.clear();
        }
        // While the primary's position does not change, only the first and the last point with this
        // position are kept. Both are needed. For a standby that has not reached the position,
        // `behind` interpolates up to the first point. A standby at exactly this position has no
        // lag until the primary writes more WAL. Its lag then counts from the last point.
        let len = self.points.len();
        if len >= 2 && self.points[len - 1].lsn == lsn && self.points[len - 2].lsn == lsn {
            self.points[len - 1].at = at;
            return;
        }
        if len >= CAPACITY {
            self.thin();
        }
        self.points.push_back(Point { at, lsn });
    }

    fn thin(&mut self) {
        let mut index = 0;
        self.points.retain(|_| {
            index += 1;
            index > CAPACITY / 2 || index % 2 == 1
        });
    }

    /// Returns how long before `now` the primary was at `lsn`. Returns 0 if the primary has not
    /// been seen at a position higher than `lsn`. If the primary passed `lsn` before the first
    /// poll, returns the time since the first poll, which is a lower bound.
    pub fn behind(&self, lsn: u64, now: Instant) -> Duration {
        let after = self.points.partition_point(|point| point.lsn <= lsn);
        let Some(next) = self.points.get(after) else { return Duration::ZERO };
        let then = match after.checked_sub(1) {
            None => next.at,
            Some(before) => {
                let before = self.points[before];
                let share = (lsn - before.lsn) as f64 / (next.lsn - before.lsn) as f64;
                before.at + next.at.duration_since(before.at).mul_f64(share)
            }
        };
        now.saturating_duration_since(then)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_primary_makes_no_lag() {
        let start = Instant::now();
        let mut history = History::default();
        for tick in 0..500 {
            history.record(start + secs(f64::from(tick)), 1000);
        }
        assert_eq!(history.behind(1000, start + secs(500.0)), Duration::ZERO);
        assert!(history.points.len() <= 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_standby_that_replayed_up_to_an_idle_period_is_behind_by_the_wal_after_it() {
        let start = Instant::now();
        let mut history = History::default();
        for tick in 0..=100 {
            history.record(start + secs(f64::from(tick) / 10.0), 1000);
        }
        history.record(start + secs(10.2), 2000);
        assert!((history.behind(1500, start + secs(10.2)).as_secs_f64() - 0.1).abs() < 1e-6);
        assert!((history.behind(1000, start + secs(10.2)).as_secs_f64() - 0.2).abs() < 1e-6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_standby_that_stopped_before_an_idle_period_is_behind_by_all_of_it() {
        let start = Instant::now();
        let mut history = History::default();
        history.record(start, 1000);
        for tick in 1..=50 {
            history.record(start + secs(f64::from(tick)), 2000);
        }
        assert!((history.behind(1500, start + secs(50.0)).as_secs_f64() - 49.5).abs() < 1e-6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_position_from_before_our_first_poll_is_at_least_that_old() {
        let start = Instant::now();
        let mut history = History::default();
        history.record(start, 1000);
        history.record(start + secs(3.0), 2000);
        assert_eq!(history.behind(10, start + secs(3.0)), secs(3.0));
    }

    #[tokio::test(start_paused = true)]
    async fn another_server_starts_a_new_history() {
        let start = Instant::now();
        let mut history = History::default();
        history.record(start, 5000);
        history.record(start + secs(1.0), 700);
        history.record(start + secs(2.0), 800);
        assert_eq!(history.behind(700, start + secs(2.0)), secs(1.0));
    }

    #[tokio::test(start_paused = true)]
    async fn hours_of_history_stay_small_and_accurate() {
        let start = Instant::now();
        let mut history = History::default();
        // The history covers six hours at five samples a second. The primary writes 1,000 bytes of
        // WAL between two samples.
        let samples = 6 * 3600 * 5_u64;
        for tick in 0..samples {
            history.record(start + secs(tick as f64 / 5.0), tick * 1000);
        }
        assert!(history.points.len() <= CAPACITY);
        let now = start + secs((samples - 1) as f64 / 5.0);
        for lag in [1.0, 60.0, 600.0, 7200.0] {
            let lsn = ((samples - 1) as f64 - lag * 5.0) * 1000.0;
            let lag_found = history.behind(lsn as u64, now).as_secs_f64();
            assert!((lag_found - lag).abs() < 0.1 * lag + 0.3, "{lag_found} for {lag}");
        }
    }

    proptest! {
        #[test]
        fn further_behind_in_bytes_is_never_less_behind_in_time(
            steps in prop::collection::vec((1u64..2000, 0u64..5000), 1..200), a in 0u64..500_000, b in 0u64..500_000,
        ) {
            let start = Instant::now();
            let (mut at, mut lsn) = (start, 0);
            let mut history = History::default();
            for (millis, bytes) in steps {
                at += Duration::from_millis(millis);
                lsn += bytes;
                history.record(at, lsn);
            }
            prop_assert!(history.behind(a.min(b), at) >= history.behind(a.max(b), at));
            prop_assert_eq!(history.behind(lsn, at), Duration::ZERO);
        }
    }
}
