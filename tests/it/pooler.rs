//! Tests a pooler in transaction mode between clients and the server (P42).

use backfilld_testbed::cluster::Options;
use backfilld_testbed::pooler::Pooler;

use crate::support::{BACKFILLD, SOON, daemon, installed, until_state};

async fn doctor(url: &str) -> String {
    let mut command = tokio::process::Command::new(BACKFILLD);
    let output = command.arg("doctor").env("BACKFILLD_DATABASE_URL", url).output().await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_finds_the_pooler_and_jobs_can_be_enqueued_through_it() {
    let cluster = installed(Options::default()).await;
    let pooler = Pooler::to(cluster.addr()).await;
    let (pooled, direct) = (doctor(&pooler.url("owner", "app")).await, doctor(&cluster.owner_url()).await);
    assert!(pooled.contains("a pooler in transaction mode"), "{pooled}");
    assert!(!direct.contains("a pooler in transaction mode"), "{direct}");

    let _daemon = daemon(&cluster).await;
    let (client, connection) =
        tokio_postgres::connect(&pooler.url("owner", "app"), tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let script = "create table t (id int primary key, n int not null default 0); insert into t values (1);
        select backfill.enqueue('j', 't', 'n = n + 1')";
    client.batch_execute(script).await.unwrap();
    until_state(&cluster, "j", "succeeded", SOON).await;
    drop(client);
    connection.await.unwrap().unwrap();
}
