//! The last minutes of one database, for the charts. Bounded, and kept whether or not somebody looks.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// What one point of a chart stands for, and how many are kept: a quarter of an hour.
const STEP: Duration = Duration::from_secs(5);
const KEPT: usize = 180;
/// The most replicas with a history of their own; the furthest behind come first.
const REPLICAS: usize = 8;

/// What a turn of the daemon's loop saw.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observation {
    /// Passed by all daemons together since the turn before; none at the first turn.
    pub rows: Option<u64>,
    /// Why a job that is at work waits, if one does.
    pub held_by: Option<String>,
    pub lags: Vec<Lag>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Lag {
    pub replica: String,
    /// In seconds; none while it can't be read.
    pub seconds: Option<f64>,
    pub limit: Option<f64>,
}

#[derive(Debug)]
pub(super) struct History {
    started: Instant,
    /// The number of the newest point, counted from the start.
    newest: u64,
    points: VecDeque<Point>,
    limits: BTreeMap<String, Option<f64>>,
    before: Instant,
}

#[derive(Debug, Clone, Default)]
struct Point {
    rows: u64,
    /// That the rows were counted in; nothing was seen where it is zero.
    time: Duration,
    held_by: Option<String>,
    /// The highest of each replica.
    lags: BTreeMap<String, f64>,
}

/// As it is shown. All lists end with the newest point and are equally long; null is where nothing was seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Charts {
    pub step_seconds: u64,
    pub rows_per_second: Vec<Option<f64>>,
    pub held_by: Vec<Option<String>>,
    pub replicas: Vec<ReplicaChart>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ReplicaChart {
    pub replica: String,
    pub limit_seconds: Option<f64>,
    pub lag_seconds: Vec<Option<f64>>,
}

impl History {
    pub fn new(now: Instant) -> Self {
        Self { started: now, newest: 0, points: VecDeque::new(), limits: BTreeMap::new(), before: now }
    }

    pub fn observe(&mut self, now: Instant, seen: Observation) {
        let since = now.saturating_duration_since(self.before);
        self.before = now;
        let number = self.number(now);
        self.advance(number);
        let Some(point) = self.points.back_mut() else { return };
        if let Some(rows) = seen.rows {
            point.rows += rows;
            // After a gap they came in a time of which nothing else is known.
            point.time += since;
        }
        if seen.held_by.is_some() {
            point.held_by = seen.held_by;
        }
        for lag in &seen.lags {
            if let Some(seconds) = lag.seconds {
                let highest = point.lags.entry(lag.replica.clone()).or_insert(seconds);
                *highest = highest.max(seconds);
            }
        }
        self.limits = seen.lags.into_iter().map(|lag| (lag.replica, lag.limit)).collect();
    }

    fn number(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs() / STEP.as_secs()
    }

    /// Makes the point of that number the newest, with nothing in those between.
    fn advance(&mut self, number: u64) {
        if self.points.is_empty() {
            self.points.push_back(Point::default());
            self.newest = number;
        }
        let missing = usize::try_from(number.saturating_sub(self.newest)).unwrap_or(KEPT).min(KEPT);
        self.points.extend(std::iter::repeat_n(Point::default(), missing));
        self.newest = self.newest.max(number);
        let surplus = self.points.len().saturating_sub(KEPT);
        self.points.drain(..surplus);
    }

    /// Up to `now`, with a gap at the end if nothing was seen lately.
    pub fn charts(&self, now: Instant) -> Charts {
        let unseen = usize::try_from(self.number(now).saturating_sub(self.newest)).unwrap_or(KEPT).min(KEPT);
        let gap = Point::default();
        let points: Vec<&Point> = self.points.iter().chain(std::iter::repeat_n(&gap, unseen)).collect();
        let points = &points[points.len().saturating_sub(KEPT)..];
        let mut replicas: Vec<ReplicaChart> = self
            .limits
            .iter()
            .map(|(replica, limit)| ReplicaChart {
                replica: replica.clone(),
                limit_seconds: *limit,
                lag_seconds: points.iter().map(|point| point.lags.get(replica).copied()).collect(),
            })
            .collect();
        replicas.sort_by(|one, other| newest_lag(other).total_cmp(&newest_lag(one)));
        replicas.truncate(REPLICAS);
        Charts {
            step_seconds: STEP.as_secs(),
            rows_per_second: points.iter().map(|point| point.rate()).collect(),
            held_by: points.iter().map(|point| point.held_by.clone()).collect(),
            replicas,
        }
    }
}

fn newest_lag(chart: &ReplicaChart) -> f64 {
    chart.lag_seconds.iter().rev().find_map(|lag| *lag).unwrap_or(f64::INFINITY)
}

impl Point {
    fn rate(&self) -> Option<f64> {
        #[allow(clippy::cast_precision_loss)]
        (!self.time.is_zero()).then(|| self.rows as f64 / self.time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: u64) -> Observation {
        Observation { rows: Some(rows), ..Observation::default() }
    }

    fn lag(seconds: Option<f64>) -> Observation {
        Observation {
            lags: vec![Lag { replica: "s1".to_owned(), seconds, limit: Some(1.0) }],
            ..Observation::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_point_is_the_mean_rate_and_the_highest_lag_of_its_five_seconds() {
        let start = Instant::now();
        let mut history = History::new(start);
        history.observe(start, Observation::default());
        for (at, seen) in
            [(1, rows(100)), (2, rows(300)), (3, lag(Some(0.2))), (4, lag(Some(0.9))), (4, lag(Some(0.1)))]
        {
            history.observe(start + Duration::from_secs(at), seen);
        }
        history
            .observe(start + Duration::from_secs(6), Observation { held_by: Some("window".to_owned()), ..lag(None) });
        let charts = history.charts(start + Duration::from_secs(6));
        assert_eq!(charts.rows_per_second, [Some(200.0), None]);
        assert_eq!(charts.held_by, [None, Some("window".to_owned())]);
        assert_eq!(charts.replicas[0].lag_seconds, [Some(0.9), None], "what can't be read is no lag of 0");
        assert_eq!(charts.replicas[0].limit_seconds, Some(1.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_that_is_not_seen_leaves_a_gap_and_what_is_kept_is_bounded() {
        let start = Instant::now();
        let mut history = History::new(start);
        for turn in 0..4000 {
            history.observe(start + Duration::from_millis(500 * turn), rows(50));
        }
        let now = start + Duration::from_millis(500 * 3999);
        let rates = history.charts(now).rows_per_second;
        assert_eq!(rates.len(), KEPT);
        assert!(rates.iter().all(|rate| rate.is_some_and(|rate| (rate - 100.0).abs() < 1e-9)), "{rates:?}");
        let later = history.charts(now + Duration::from_secs(20)).rows_per_second;
        assert_eq!((later.len(), later.iter().rev().take_while(|rate| rate.is_none()).count()), (KEPT, 4));
        assert!(history.charts(now + Duration::from_secs(86_400)).rows_per_second.iter().all(Option::is_none));
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_replicas_the_furthest_behind_are_charted_and_one_that_is_gone_is_not() {
        let start = Instant::now();
        let mut history = History::new(start);
        let all = |count: u32| Observation {
            lags: (0..count).map(|n| Lag { replica: format!("s{n}"), seconds: Some(n.into()), limit: None }).collect(),
            ..Observation::default()
        };
        history.observe(start, all(50));
        let charted: Vec<String> = history.charts(start).replicas.into_iter().map(|chart| chart.replica).collect();
        assert_eq!(charted, ["s49", "s48", "s47", "s46", "s45", "s44", "s43", "s42"]);
        history.observe(start, all(1));
        assert_eq!(history.charts(start).replicas.len(), 1);
    }
}
