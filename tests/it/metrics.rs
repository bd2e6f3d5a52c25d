//! The metrics of single jobs, as a scrape of a running daemon returns them.

use backfilld_testbed::cluster::Options;
use backfilld_testbed::wait;

use crate::support::{SOON, daemon, installed, run, until_state};

/// The alert BackfilldJobFailed takes the name of the job from `backfilld_job_info`.
#[tokio::test]
async fn a_failed_job_has_metrics_for_15_minutes_or_until_it_is_retried() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, code text, n int); insert into t values (1, 'x')").await;
    run(
        &owner,
        "select backfill.enqueue('bad', 't', 'n = code::int', options => '{\"deadline\": \"2001-01-01T00:00:00Z\"}')",
    )
    .await;
    let daemon = daemon(&cluster).await;
    let info = |state: &str| format!("backfilld_job_info{{database=\"main\",job_name=\"bad\",state=\"{state}\"");
    let metrics = async || daemon.get("/metrics").await.unwrap().1;
    until_state(&cluster, "bad", "failed", SOON).await;
    wait::until(SOON, "the failed job has metrics", async || metrics().await.contains(&info("failed"))).await;
    assert!(!metrics().await.contains("backfilld_job_deadline_timestamp_seconds"), "a finished job shows a deadline");
    for (minutes, is_shown) in [(14, true), (16, false)] {
        run(&owner, &format!("update backfill.job set finished_at = now() - interval '{minutes} minutes'")).await;
        let what = format!("a job that failed {minutes} minutes ago has metrics: {is_shown}");
        wait::until(SOON, &what, async || {
            let text = metrics().await;
            text.contains("backfilld_queue_jobs{") && text.contains(&info("failed")) == is_shown
        })
        .await;
    }
    run(&owner, "update backfill.job set finished_at = now()").await;
    wait::until(SOON, "the failed job has metrics again", async || metrics().await.contains(&info("failed"))).await;
    run(&owner, "select backfill.pause_all(); select backfill.retry('bad')").await;
    wait::until(SOON, "the retried job is no longer reported as failed", async || {
        let text = metrics().await;
        text.contains("job_name=\"bad\"") && !text.contains(&info("failed"))
    })
    .await;
}
