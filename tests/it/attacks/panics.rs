//! If the daemon panics while it works on a job, only this job fails. The daemon and the other jobs
//! continue.

use backfilld_testbed::daemon::Daemon;

use super::Scene;
use crate::support::{BACKFILLD, SOON, run, until_true, value};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_fails_its_job_and_nothing_else() {
    let scene = Scene::set().await;
    for name in ["first", "second"] {
        scene.table(name, 1_000).await;
    }
    let daemon = Daemon::builder(BACKFILLD, &scene.cluster.url("ctl", "app"))
        .config(scene.config())
        .env("BACKFILLD_FAILPOINT", "before_batch:3=panic")
        .start();
    daemon.wait_ready(SOON).await;
    let (mallory, olga) = (scene.client("mallory").await, scene.client("olga").await);
    let enqueue = |name: &str| {
        format!(
            "select backfill.enqueue('{name}', '{name}', 'a = coalesce(a, 0) + 1', run_as => 'e', options => '{{\"max_batch_rows\": 50, \"slices\": 1}}')"
        )
    };
    run(&mallory, &enqueue("first")).await;
    until_true(&olga, SOON, "select state = 'failed' from backfill.jobs where name = 'first'").await;
    let error: String = value(&olga, "select error from backfill.jobs where name = 'first'").await;
    assert!(error.contains("failpoint before_batch"), "{error}");
    run(&mallory, &enqueue("second")).await;
    until_true(&olga, SOON, "select state = 'succeeded' from backfill.jobs where name = 'second'").await;
    run(&mallory, "select backfill.retry('first')").await;
    until_true(&olga, SOON, "select state = 'succeeded' from backfill.jobs where name = 'first'").await;
    let wrong = "select count(*) from (table first union all table second) t where a is distinct from 1";
    assert_eq!(value::<i64>(&mallory, wrong).await, 0);
    // The log contains the location of the panic.
    assert!(daemon.output().contains("panic: failpoint before_batch"), "{}", daemon.output());
    assert!(daemon.output().contains("src/failpoint.rs"), "{}", daemon.output());
    assert_eq!(daemon.output().matches("serving the database").count(), 1, "the daemon started again");
}
