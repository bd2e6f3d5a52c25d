//! Cancellation (P7 in docs/postgres.md): the server may handle a cancel request only after the
//! statement has ended. Such a late request must not cancel the next statement.

use backfilld::config::secret::SecretUrl;
use backfilld::pg::cancel::Cancelled;
use backfilld::pg::connect;
use backfilld_testbed::cluster::{Cluster, Options};

#[tokio::test(flavor = "multi_thread")]
async fn a_late_cancel_does_not_hit_the_next_statement() {
    let cluster = Cluster::with_owner(Options::default()).await;
    let config = connect::parse(&SecretUrl::new(cluster.owner_url()).into(), "cancel test").unwrap();
    let session = connect::open(&config, |_| {}).await.unwrap();
    for _ in 0..200 {
        session.client.query("select 1", &[]).await.unwrap();
        assert_eq!(session.cancel().await, Cancelled::Settled);
        session.client.query("select pg_sleep(0.001)", &[]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_the_statement_that_runs() {
    let cluster = Cluster::with_owner(Options::default()).await;
    let config = connect::parse(&SecretUrl::new(cluster.owner_url()).into(), "cancel test").unwrap();
    let session = connect::open(&config, |_| {}).await.unwrap();
    let mut sleeping = std::pin::pin!(session.client.query("select pg_sleep(60)", &[]));
    let owner = cluster.owner().await;
    let started = backfilld_testbed::wait::until(crate::support::SOON, "the statement runs", async || {
        let sql = "select count(*) from pg_stat_activity where query like '%pg_sleep(60)%' and wait_event = 'PgSleep' and pid <> pg_backend_pid()";
        owner.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
    });
    tokio::select! {
        answer = &mut sleeping => panic!("the statement ended before it was cancelled: {answer:?}"),
        () = started => {}
    }
    assert_eq!(session.cancel().await, Cancelled::Settled);
    let error = sleeping.await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("57014"));
}
