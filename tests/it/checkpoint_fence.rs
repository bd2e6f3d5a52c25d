//! Tests the fence through SQL: a batch with the wrong token, position, slice or login raises an
//! error, and its rows keep their values.

use backfilld_testbed::cluster::{Cluster, Options};
use tokio_postgres::Client;

use crate::proof::{PLUS_ONE, enqueue, table};
use crate::support::{SOON, installed, run};

/// A slice of a job. The test has planned the job and claimed the slice in place of a daemon.
struct Held {
    cluster: Cluster,
    client: Client,
    slice: i64,
    token: String,
}

/// Creates a job for a table of 100 rows, plans it, and claims its only slice in place of a daemon.
async fn held() -> Held {
    let cluster = installed(Options::default()).await;
    table(&cluster, "fenced", 100).await;
    let client = cluster.owner().await;
    client.batch_execute("select backfill._register_executor('owner', 'owner', true)").await.unwrap();
    enqueue(&cluster, "fenced", PLUS_ONE, "{}").await;
    let plan = claim(&client).await;
    let save = format!(
        r#"select backfill._save_plan({}, '{}', '{{"upper": ["300"]}}', '[{{"ordinal": 0, "lower": null, "upper": ["300"]}}]', 100, pg_current_snapshot()::text)"#,
        plan.0, plan.1
    );
    client.batch_execute(&save).await.unwrap();
    let (slice, token) = claim(&client).await;
    Held { cluster, client, slice, token }
}

async fn claim(client: &Client) -> (i64, String) {
    let sql = "select (c ->> 'slice')::bigint, c ->> 'token' from backfill._claim(gen_random_uuid(), array['owner']::name[], '1 minute') c";
    let row = client.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// Returns the SQL of a simplified batch. Like a daemon's batch, it changes rows and advances the
/// checkpoint in one statement. It changes the rows whose key is greater than `from` and at most
/// `to`.
fn batch(slice: i64, token: &str, from: Option<i64>, to: i64, done: bool) -> String {
    let position = from.map_or("null".to_owned(), |key| format!("array['{key}']"));
    format!(
        "with u as (update fenced set n = n + 1 where id > {} and id <= {to} returning 1)
         select backfill.advance({slice}, '{token}', '(0,1)', {position}, array['{to}'], count(*), count(*), 0, {done}) from u",
        from.unwrap_or(0)
    )
}

async fn changed(client: &Client) -> i64 {
    client.query_one("select sum(n)::bigint from fenced", &[]).await.unwrap().get(0)
}

async fn refused(client: &Client, sql: &str, what: &str) {
    let before = changed(client).await;
    let error = client.query(sql, &[]).await.expect_err(what);
    assert_eq!(error.code().expect(what).code(), "BF006", "{what}: {error:?}");
    assert_eq!(changed(client).await, before, "{what}: rows were changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_an_outdated_claim_raises_and_changes_no_row() {
    let Held { cluster, client, slice, token } = held().await;
    let other = uuid::Uuid::new_v4().to_string();
    refused(&client, &batch(slice, &other, None, 30, false), "a wrong token").await;
    refused(&client, &batch(slice, &token, Some(30), 60, false), "a position ahead of the checkpoint").await;
    refused(&client, &batch(slice + 1000, &token, None, 30, false), "a slice that does not exist").await;
    client.query(&batch(slice, &token, None, 30, false), &[]).await.unwrap();
    assert_eq!(changed(&client).await, 10);
    refused(&client, &batch(slice, &token, None, 30, false), "the same batch again").await;

    // Create a role that may change the table and call the functions, but is not an executor for
    // `owner`.
    cluster.create_role("stranger", "login").await;
    let grants =
        "grant usage on schema backfill to stranger; grant execute on all functions in schema backfill to stranger;
        grant select, update on fenced to stranger; select backfill._register_executor('stranger', 'stranger', false)";
    cluster.sql("postgres", "app", grants).await;
    let stranger = cluster.client("stranger", "app").await;
    refused(&stranger, &batch(slice, &token, Some(30), 60, false), "another role's slice").await;
    // After `set role owner`, the fence still refuses `stranger`, because the fence checks the
    // login role.
    cluster.sql("postgres", "app", "grant owner to stranger").await;
    stranger.batch_execute("set role owner").await.unwrap();
    refused(&stranger, &batch(slice, &token, Some(30), 60, false), "another role's slice, after set role").await;

    client.query(&batch(slice, &token, Some(30), 300, true), &[]).await.unwrap();
    refused(&client, &batch(slice, &token, Some(300), 300, true), "a slice that is done").await;
    refused(&client, &batch(slice, &token, None, 300, true), "a slice that is done, from its start").await;
    assert_eq!(changed(&client).await, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_lease_still_commits_until_it_is_taken_over_and_never_after() {
    let Held { cluster: _cluster, client, slice, token } = held().await;
    client.batch_execute("update backfill.lease set expires_at = clock_timestamp() - interval '1 s'").await.unwrap();
    client.query(&batch(slice, &token, None, 30, false), &[]).await.unwrap();
    let (same, next) = claim(&client).await;
    assert_eq!(same, slice);
    refused(&client, &batch(slice, &token, Some(30), 60, false), "the old holder").await;
    client.query(&batch(slice, &next, Some(30), 60, false), &[]).await.unwrap();
    assert_eq!(changed(&client).await, 20);
}

/// The lease has expired, and a batch of its holder is in flight. A takeover skips the slice until
/// the batch has committed, and then continues from the checkpoint of this batch. The next batch of
/// the previous holder is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_passes_over_a_commit_in_flight_and_then_sees_its_checkpoint() {
    let Held { cluster, client, slice, token } = held().await;
    client.batch_execute("update backfill.lease set expires_at = clock_timestamp() - interval '1 s'").await.unwrap();
    let mut old = cluster.owner().await;
    let in_flight = old.transaction().await.unwrap();
    in_flight.query(&batch(slice, &token, None, 30, false), &[]).await.unwrap();
    let take = "select c ->> 'position' from backfill._claim(gen_random_uuid(), array['owner']::name[], '1 minute') c where c is not null";
    assert!(client.query_opt(take, &[]).await.unwrap().is_none(), "claimed before the batch had ended");
    in_flight.commit().await.unwrap();
    let taken: Option<String> = client.query_one(take, &[]).await.unwrap().get(0);
    assert_eq!(taken.as_deref(), Some(r#"["30"]"#));
    refused(&client, &batch(slice, &token, Some(30), 60, false), "the old holder").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_does_not_wait_for_a_batch_that_holds_the_checkpoint() {
    let Held { cluster, client, slice, token } = held().await;
    let mut worker = cluster.owner().await;
    let in_flight = worker.transaction().await.unwrap();
    in_flight.query(&batch(slice, &token, None, 30, false), &[]).await.unwrap();
    let beat = format!(
        r#"select slice from backfill._heartbeat(gen_random_uuid(), '1 minute', '[{{"slice": {slice}, "token": "{token}"}}]')"#
    );
    let answer = tokio::time::timeout(SOON, client.query_one(&beat, &[])).await;
    assert_eq!(answer.expect("the heartbeat waited for the batch").unwrap().get::<_, i64>(0), slice);
    in_flight.commit().await.unwrap();
}

/// A deferred trigger of the job's table runs after the batch's own call to `advance`, in the same
/// transaction. Even with the token, the trigger cannot advance the checkpoint again. The test has
/// no trigger. Instead, it calls `advance` twice.
#[tokio::test]
async fn a_checkpoint_moves_only_once_in_a_transaction_even_with_the_token() {
    let Held { cluster: _cluster, client, slice, token } = held().await;
    let advance = |from: &str, to: i64| {
        format!("select backfill.advance({slice}, '{token}', '(0,0)', {from}, '{{{to}}}', 1, 1, 0, false)")
    };
    run(&client, &format!("begin; {}", advance("null", 3))).await;
    let refusal = crate::support::refused(&client, &advance("'{3}'", 300)).await;
    assert_eq!(refusal.sqlstate, "BF006");
    run(&client, "rollback").await;
    for (from, to) in [("null", 3), ("'{3}'", 6)] {
        run(&client, &advance(from, to)).await;
    }
}
