//! Keeps the observations of one database from the last 15 minutes for the charts. The size of the
//! history is bounded. The history is also kept while no client requests a page.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// Time that one point of a chart covers.
const STEP: Duration = Duration::from_secs(5);
/// Number of points that are kept. Together, these points cover 15 minutes.
const KEPT: usize = 180;
/// Maximum number of replicas in the charts. The replicas with the highest lag come first. A lag
/// that has not been read within the charted time counts as the highest.
const REPLICAS: usize = 8;

/// The values that the daemon's loop observed in one turn.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observation {
    /// The number of rows that all daemons scanned since the previous turn. None at the first turn.
    pub rows: Option<u64>,
    /// The reason why the first running job waits, if all running jobs are held.
    pub held_by: Option<String>,
    pub lags: Vec<Lag>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Lag {
    pub replica: String,
    /// The lag in seconds. None while the lag cannot be read.
    pub seconds: Option<f64>,
    pub limit: Option<f64>,
}

#[derive(Debug)]
pub(super) struct History {
    started: Instant,
    /// The number of the newest point. The first point has number 0.
    newest: u64,
    points: VecDeque<Point>,
    limits: BTreeMap<String, Option<f64>>,
    before: Instant,
}

#[derive(Debug, Clone, Default)]
struct Point {
    rows: u64,
    /// The length of the period in which the rows were counted. Zero if the point has no
    /// observation.
    time: Duration,
    held_by: Option<String>,
    /// The highest lag of each replica, in seconds.
    lags: BTreeMap<String, f64>,
}

/// The history for display. All lists have the same length and end with the newest point. A value
/// is null if its point has no observation. A value in `held_by` is also null if not all running
/// jobs were held.
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

    pub fn observe(&mut self, now: Instant, observation: Observation) {
        let since = now.saturating_duration_since(self.before);
        self.before = now;
        let number = self.number(now);
        self.advance(number);
        let Some(point) = self.points.back_mut() else { return };
        if let Some(rows) = observation.rows {
            point.rows += rows;
            // The whole time since the last observation is included, even if it contains a gap,
            // because the rows were scanned during this whole time.
            point.time += since;
        }
        if observation.held_by.is_some() {
            point.held_by = observation.held_by;
        }
        for lag in &observation.lags {
            if let Some(seconds) = lag.seconds {
                let highest = point.lags.entry(lag.replica.clone()).or_insert(seconds);
                *highest = highest.max(seconds);
            }
        }
        self.limits = observation.lags.into_iter().map(|lag| (lag.replica, lag.limit)).collect();
    }

    fn number(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs() / STEP.as_secs()
    }

    /// Makes the point `number` the newest point. The points before it that have no observation
    /// stay empty.
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

    /// Returns the charts up to `now`. If the newest points have no observation, the charts end
    /// with a gap.
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
        for (at, observation) in
            [(1, rows(100)), (2, rows(300)), (3, lag(Some(0.2))), (4, lag(Some(0.9))), (4, lag(Some(0.1)))]
        {
            history.observe(start + Duration::from_secs(at), observation);
        }
        history
            .observe(start + Duration::from_secs(6), Observation { held_by: Some("window".to_owned()), ..lag(None) });
        let charts = history.charts(start + Duration::from_secs(6));
        assert_eq!(charts.rows_per_second, [Some(200.0), None]);
        assert_eq!(charts.held_by, [None, Some("window".to_owned())]);
        assert_eq!(charts.replicas[0].lag_seconds, [Some(0.9), None], "an unreadable lag is not shown as 0");
        assert_eq!(charts.replicas[0].limit_seconds, Some(1.0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unseen_database_leaves_a_gap_and_the_history_is_bounded() {
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
    async fn the_replicas_furthest_behind_are_charted_and_a_vanished_one_is_not() {
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
