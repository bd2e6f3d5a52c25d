//! Reads the progress of a job and cancels jobs.

use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::wait;
use tokio_postgres::Client;

use crate::server::SOON;

const STATE: &str = "select state from backfill.jobs where name = $1";

/// Returns the number of rows that the job has changed. Reads it from the daemon's metrics page, so
/// that no query disturbs the job. Returns none before the first changed row.
pub async fn rows_changed(daemon: &Daemon, job: &str) -> Option<f64> {
    let (_, page) = daemon.get("/metrics").await.unwrap();
    let label = format!("job_name=\"{job}\"");
    let line = page.lines().find(|line| line.starts_with("backfilld_rows_changed_total{") && line.contains(&label));
    line.and_then(|line| line.rsplit(' ').next()).map(|value| value.parse().unwrap())
}

pub async fn until_begun(daemon: &Daemon, job: &str) {
    wait::until(SOON, "the walk has begun", async || rows_changed(daemon, job).await.is_some_and(|rows| rows > 0.0))
        .await;
}

/// Cancels a job. Panics if the job is not running any more, because the measurement would then
/// include time in which the job did not run.
pub async fn cancel(owner: &Client, job: &str) {
    let now: String = owner.query_one(STATE, &[&job]).await.unwrap().get(0);
    assert_eq!(
        now, "running",
        "the job is no longer running: set ROWS to a larger number, or SECONDS to a smaller one"
    );
    owner.execute("select backfill.cancel($1)", &[&job]).await.unwrap();
    wait::until(SOON, "the job is cancelled", async || {
        owner.query_one(STATE, &[&job]).await.unwrap().get::<_, String>(0) == "cancelled"
    })
    .await;
}
