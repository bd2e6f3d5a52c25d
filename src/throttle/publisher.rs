//! Writes the snapshot to the database for the view `backfill.signals`, and shares the duty cycle
//! with the other daemons that are active on the database.

use std::collections::BTreeSet;
use std::time::Duration;

use deadpool_postgres::{Client, Pool};
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use crate::error::Result;
use crate::pg::row::Columns;
use crate::throttle::measure::ask::ask;
use crate::throttle::measure::readings::{Reading, ReadingId};
use crate::throttle::measure::signal::SignalKind;
use crate::throttle::snapshot::Snapshot;
use crate::throttle::transition_log::OutageLog;

/// Interval between two writes while this daemon runs a job or a signal holds jobs. The write also
/// makes a standby report its progress while a budget holds jobs. Without new WAL, a standby
/// reports its replay position only once every 10 s (the default of
/// `wal_receiver_status_interval`). The hold would then last until the next report.
const INTERVAL_WORKING: Duration = Duration::from_secs(1);
/// Interval between two writes if there is a budget, while no job runs and no signal holds jobs.
const INTERVAL_AT_REST: Duration = Duration::from_secs(5);
/// Interval between two writes while no job runs, no signal holds jobs, and there is no budget.
/// This interval is long, because each write adds WAL on a server that may be idle.
const INTERVAL_SELDOM: Duration = Duration::from_secs(60);

/// The write does not wait for a synchronous standby, because that standby may be the one that has
/// disconnected. The setting is `local` and not `off`, so that the primary flushes the write at
/// once. The primary sends only flushed WAL to standbys.
const PUBLISH: &str = "
select pg_catalog.set_config('synchronous_commit', 'local', true), backfill._publish_signals($1), backfill._share_duty_cycle($2, $3, $4)";

#[derive(Debug)]
pub struct Publisher {
    pool: Pool,
    /// Identifies this daemon among the daemons on the database.
    worker: Uuid,
    last_at: Option<Instant>,
    /// Identities of the readings that were published last. A reading that is missing from the next
    /// list is published as gone.
    last: BTreeSet<ReadingId>,
    other_daemons: Option<f64>,
    outages: OutageLog,
}

impl Publisher {
    pub fn new(pool: Pool, worker: Uuid) -> Self {
        let outages = OutageLog::new("publish the signals");
        Self { pool, worker, last_at: None, last: BTreeSet::new(), other_daemons: None, outages }
    }

    /// Returns the mean of the duty cycles that budgets allow to the other active daemons on the
    /// database. Returns none before the first publication, after a failed publication, or if there
    /// are no such daemons.
    pub fn other_daemons(&self) -> Option<f64> {
        self.other_daemons
    }

    /// Publishes the snapshot if the interval has passed, or if a hold has begun or ended
    /// (`changed`). Does nothing if there is no reading to store or to remove. `over` lists the
    /// load gauges that are shown as over their limit.
    pub async fn publish_if_due(
        &mut self,
        snapshot: &Snapshot,
        over: &BTreeSet<ReadingId>,
        working: bool,
        changed: bool,
    ) {
        let now = Instant::now();
        let list = &snapshot.readings.list;
        let has_budgets = list.iter().any(|reading| reading.kind == SignalKind::Budget);
        let interval = match (working || snapshot.is_holding(now), has_budgets) {
            (true, _) => INTERVAL_WORKING,
            (false, true) => INTERVAL_AT_REST,
            (false, false) => INTERVAL_SELDOM,
        };
        let due = self.last_at.is_none_or(|at| now - at >= interval);
        let ids: BTreeSet<ReadingId> = list.iter().map(Reading::id).collect();
        if ids.is_empty() && self.last.is_empty() || !(due || changed) {
            return;
        }
        self.last_at = Some(now);
        let message = Message {
            signals: signals(snapshot, now, over, self.last.difference(&ids)),
            worker: self.worker,
            duty_cycle: working.then_some(snapshot.verdict.pace.duty_cycle),
            budget_duty_cycle: snapshot.verdict.budget_duty_cycle.filter(|_| working),
        };
        let outcome = ask(&self.pool, async |client| publish(client, &message).await).await;
        self.outages.observe(&outcome);
        if outcome.is_ok() {
            self.last = ids;
        }
        self.other_daemons = outcome.unwrap_or_default();
    }
}

/// Content of one write.
struct Message {
    signals: Value,
    worker: Uuid,
    /// None while no job runs.
    duty_cycle: Option<f64>,
    /// None while no job runs, or if there are no budgets. The other daemons converge to this duty
    /// cycle, and not to `duty_cycle`, because they measure load themselves.
    budget_duty_cycle: Option<f64>,
}

/// Writes the message. Returns the mean of the duty cycles that budgets allow to the other active
/// daemons.
async fn publish(client: &Client, message: &Message) -> Result<Option<f64>> {
    let Message { signals, worker, duty_cycle, budget_duty_cycle } = message;
    let statement = client.prepare_cached(PUBLISH).await?;
    client.query_one(&statement, &[signals, worker, duty_cycle, budget_duty_cycle]).await?.read(2)
}

fn signals<'a>(
    snapshot: &Snapshot,
    now: Instant,
    over: &BTreeSet<ReadingId>,
    gone: impl Iterator<Item = &'a ReadingId>,
) -> Value {
    let list = snapshot.holds(now).map(|(reading, hold)| {
        json!({
            "signal": reading.signal.as_str(),
            "source": reading.source,
            "kind": reading.kind.as_str(),
            "value": reading.value,
            "limit": reading.limit,
            "utilization": reading.utilization(),
            "age_seconds": reading.age(now).as_secs_f64(),
            "holding": hold.is_some(),
            "over": over.contains(&reading.id()),
            // A gauge that cannot be read has a reason even if it does not hold jobs.
            "reason": hold.or_else(|| reading.note.clone().filter(|_| reading.value.is_none())),
        })
    });
    let gone = gone.map(|(signal, source)| json!({"signal": signal.as_str(), "source": source, "gone": true}));
    Value::Array(list.chain(gone).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::throttle::control::verdict::Verdict;
    use crate::throttle::measure::readings::Readings;
    use crate::throttle::measure::signal::Signal;

    #[tokio::test(start_paused = true)]
    async fn the_gates_use_the_published_values() {
        let at = Instant::now();
        let list = vec![Reading::budget(Signal::ReplicaLagSeconds, "s1", 0.25, 0.5, at)];
        let readings = Readings { sampled_at: Some(at), list, ..Readings::default() };
        let snapshot = Snapshot { readings, verdict: Verdict::default() };
        assert_eq!(
            signals(&snapshot, at, &BTreeSet::new(), [(Signal::Slot, "s2".to_owned())].iter()),
            json!([{"signal": "replica_lag_seconds", "source": "s1", "kind": "budget", "value": 0.25, "limit": 0.5,
                "utilization": 0.5, "age_seconds": 0.0, "holding": false, "over": false, "reason": null},
                {"signal": "slot", "source": "s2", "gone": true}])
        );
        let stale = signals(&snapshot, at + Duration::from_secs(4), &BTreeSet::new(), [].iter());
        assert_eq!(stale[0]["holding"], true);
        assert_eq!(stale[0]["reason"], "replica_lag_seconds of s1 has not been read for 4.0 s");
    }
}
