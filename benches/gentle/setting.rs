//! The settings that the bench compares. Each setting fills the column in a different way.

use std::time::Duration;

use backfilld_testbed::cluster::Cluster;
use backfilld_testbed::daemon::Daemon;
use tokio::time::Instant;

use crate::application::{Application, Phase};
use crate::progress::{cancel, rows_changed, until_begun};

pub const DAEMON: &str = "daemon";

/// Time between the first changed row of the daemon's job and the start of the phase. The daemon
/// needs this time to reach its full speed. The other settings run at full speed at once.
const RAMP_UP: Duration = Duration::from_secs(12);

const BATCH: &str =
    "update public.orders set total_cents = round(total * 100)::bigint where id > $1 and id <= $1::bigint + $2::bigint";
const ALL: &str = "update public.orders set total_cents = round(total * 100)::bigint";

pub enum Setting {
    /// The daemon with its default configuration and options.
    Daemon,
    Fixed {
        rows: i64,
        sleep: Duration,
    },
    OneUpdate,
}

/// The position in the table that the fixed batches have reached, and the number of jobs so far. At
/// the end of the table, fixed batches continue from its start.
pub struct Walked {
    rows: i64,
    at: i64,
    jobs: u32,
}

impl Walked {
    pub fn new(rows: i64) -> Self {
        Self { rows, at: 0, jobs: 0 }
    }
}

impl Setting {
    pub fn all() -> Vec<Self> {
        let fixed = |rows, millis| Self::Fixed { rows, sleep: Duration::from_millis(millis) };
        let small = [(50, 5), (100, 2), (100, 5), (200, 5), (200, 20)];
        let large = [1_000, 10_000].into_iter().flat_map(|rows| [(rows, 0), (rows, 10), (rows, 100)]);
        let mut all = vec![Self::Daemon];
        all.extend(small.into_iter().chain(large).map(|(rows, millis)| fixed(rows, millis)));
        all.push(Self::OneUpdate);
        all
    }

    pub fn name(&self) -> String {
        match self {
            Self::Daemon => DAEMON.to_owned(),
            Self::Fixed { rows, sleep } => format!("{rows} rows; {} ms", sleep.as_millis()),
            Self::OneUpdate => "one UPDATE".to_owned(),
        }
    }

    /// Fills the column in this way for one phase. Returns the latencies of the application in the
    /// phase, and the number of rows changed per second.
    pub async fn meet(
        &self,
        cluster: &Cluster,
        daemon: &Daemon,
        application: &Application,
        phase: Duration,
        walked: &mut Walked,
    ) -> (Phase, f64) {
        match self {
            Self::Daemon => meet_daemon(cluster, daemon, application, phase, walked).await,
            Self::Fixed { rows, sleep } => {
                let client = cluster.owner().await;
                let batch = client.prepare(BATCH).await.unwrap();
                let (begun, mut changed) = (Instant::now(), 0);
                application.begin();
                while begun.elapsed() < phase {
                    changed += client.execute(&batch, &[&walked.at, rows]).await.unwrap();
                    walked.at = if walked.at + rows >= walked.rows { 0 } else { walked.at + rows };
                    if !sleep.is_zero() {
                        tokio::time::sleep(*sleep).await;
                    }
                }
                let seconds = begun.elapsed().as_secs_f64();
                (application.end(), changed as f64 / seconds)
            }
            Self::OneUpdate => {
                let client = cluster.owner().await;
                let cancel = client.cancel_token();
                let begun = Instant::now();
                application.begin();
                let update = tokio::spawn(async move { (client.execute(ALL, &[]).await, begun.elapsed()) });
                tokio::time::sleep(phase).await;
                let felt = application.end();
                let _ = cancel.cancel_query(tokio_postgres::NoTls).await;
                // A cancelled UPDATE has changed no rows.
                let rows_per_second = match update.await.unwrap() {
                    (Ok(changed), took) => changed as f64 / took.as_secs_f64(),
                    (Err(_), _) => 0.0,
                };
                (felt, rows_per_second)
            }
        }
    }
}

async fn meet_daemon(
    cluster: &Cluster,
    daemon: &Daemon,
    application: &Application,
    phase: Duration,
    walked: &mut Walked,
) -> (Phase, f64) {
    walked.jobs += 1;
    let name = format!("cents_{}", walked.jobs);
    let enqueue = format!(
        "select backfill.enqueue('{name}', 'public.orders', 'total_cents = round(total * 100)::bigint', options => '{{\"verify\": \"none\"}}')"
    );
    cluster.sql("owner", "app", &enqueue).await;
    until_begun(daemon, &name).await;
    tokio::time::sleep(RAMP_UP).await;
    let (before, begun) = (rows_changed(daemon, &name).await.unwrap(), Instant::now());
    let felt = application.feel(phase).await;
    let changed = rows_changed(daemon, &name).await.unwrap() - before;
    let seconds = begun.elapsed().as_secs_f64();
    cancel(&cluster.owner().await, &name).await;
    (felt, changed / seconds)
}
