//! Tests of the status page and its JSON, served by a daemon with a real database.

use std::time::Duration;

use backfilld_testbed::cluster::Options;
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::server::Mode;
use backfilld_testbed::standby::Standby;
use backfilld_testbed::wait;
use serde_json::Value;

use crate::support::{SOON, daemon, daemon_with, installed, run, until_state, until_true, value};

pub async fn page(daemon: &Daemon) -> String {
    let (status, text) = daemon.get("/").await.unwrap();
    assert_eq!(status, 200, "{text}");
    text
}

/// Returns the object of the first database in `/status.json`. In these tests, it is the only
/// database.
pub async fn database(daemon: &Daemon) -> Value {
    let (status, text) = daemon.get("/status.json").await.unwrap();
    assert_eq!(status, 200, "{text}");
    let body = text.split_once("\r\n\r\n").map_or(text.as_str(), |(_, body)| body);
    let status: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
    status["databases"][0].clone()
}

async fn job(daemon: &Daemon, name: &str) -> Value {
    let database = database(daemon).await;
    let jobs = database["jobs"].as_array().unwrap_or_else(|| panic!("{database}"));
    jobs.iter().find(|job| job["name"] == name).cloned().unwrap_or(Value::Null)
}

async fn until_job(daemon: &Daemon, name: &str, what: &str, is: impl Fn(&Value) -> bool) {
    wait::until(SOON, what, async || is(&job(daemon, name).await)).await;
}

/// Returns the statement that the page shows under this caption, without HTML escapes, as a user
/// would copy it.
fn offered(page: &str, what: &str) -> String {
    let after = page.split_once(&format!(">{what}</p>")).unwrap_or_else(|| panic!("{what}: {page}")).1;
    let code = after.split_once("<code>").unwrap().1.split_once("</code>").unwrap().0;
    code.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

#[tokio::test]
async fn the_statements_offered_by_the_page_lead_a_job_from_the_queue_to_its_end() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, n int not null default 0); insert into t select generate_series(1, 20000)",
    )
    .await;
    let daemon = daemon(&cluster).await;
    assert!(page(&daemon).await.contains("Nothing to do"));
    run(&owner, r#"select backfill.enqueue('j', 't', 'n = n + 1', needs_approval => true, options => '{"max_rows_per_second": 800, "max_batch_rows": 40}')"#).await;

    until_job(&daemon, "j", "the job waits", |job| job["waiting_reason"] == "approval").await;
    let text = page(&daemon).await;
    assert!(text.contains("needs approval by an operator"), "{text}");
    run(&owner, &offered(&text, "Approve")).await;

    until_job(&daemon, "j", "the job continues", |job| {
        job["rows_changed"].as_i64() > Some(100)
            && job["rows_per_second"].as_f64() > Some(0.0)
            && job["eta_seconds"].is_number()
    })
    .await;
    let text = page(&daemon).await;
    assert!(
        text.contains("1 job active") && text.contains("rows/s of at most 800") && text.contains(" remaining"),
        "{text}"
    );
    run(&owner, &offered(&text, "Limit the rate (rows per second, for the whole job)")).await;
    until_job(&daemon, "j", "the rate limit is lower", |job| {
        job["max_rows_per_second"].as_f64().is_some_and(|rate| rate < 800.0)
    })
    .await;

    run(&owner, &offered(&page(&daemon).await, "Pause").replace("why", "it''s <b>ours</b>")).await;
    until_job(&daemon, "j", "the job is paused", |job| job["state"] == "paused").await;
    let text = page(&daemon).await;
    assert!(text.contains("Reason: it's &lt;b&gt;ours&lt;/b&gt;") && text.contains("1 paused"), "{text}");
    run(&owner, &offered(&text, "Resume")).await;
    until_job(&daemon, "j", "the job runs again", |job| job["state"] == "running").await;

    run(&owner, &offered(&page(&daemon).await, "Pause all jobs of this database").replace("why", "release")).await;
    until_job(&daemon, "j", "all jobs are paused", |job| job["waiting_reason"] == "paused_all").await;
    let text = page(&daemon).await;
    assert!(text.contains("All jobs are paused") && text.contains(": release"), "{text}");
    run(&owner, &offered(&text, "Resume all jobs")).await;
    until_job(&daemon, "j", "no job is paused", |job| job["waiting_reason"] != "paused_all").await;

    run(&owner, &offered(&page(&daemon).await, "Remove the rate limit")).await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    until_job(&daemon, "j", "the job has succeeded", |job| job["state"] == "succeeded").await;
    let text = page(&daemon).await;
    assert!(text.contains("· verified") && text.contains("20,000 changed"), "{text}");
    run(&owner, &offered(&text, "In a migration, check that the job is complete")).await;
    assert_eq!(value::<i64>(&owner, "select sum(n)::int8 from t").await, 20_000, "a row was not changed exactly once");
    // The last point of the chart is incomplete: it shows the rate since the start of its interval.
    // Once this rate is 0, the earlier points contain all of the job's rows.
    let later = async || {
        let rates = database(&daemon).await["charts"]["rows_per_second"].clone();
        rates.as_array().and_then(|rates| rates.last()).and_then(Value::as_f64) == Some(0.0)
    };
    wait::until(SOON, "the chart has a complete point after the job", later).await;
    let charts = database(&daemon).await["charts"].clone();
    let step = charts["step_seconds"].as_f64().unwrap();
    let passed: f64 =
        charts["rows_per_second"].as_array().unwrap().iter().filter_map(Value::as_f64).map(|rate| rate * step).sum();
    assert!((10_000.0..60_000.0).contains(&passed), "{passed}: {charts}");
}

#[tokio::test]
async fn a_held_job_is_shown_with_the_replica_its_lag_and_its_limit() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, n int); insert into t select generate_series(1, 60000)").await;
    let standby = Standby::of(&cluster).await;
    standby.wait_caught_up(SOON).await;
    let daemon = daemon(&cluster).await;
    standby.pause_replay().await;
    run(&owner, "select backfill.enqueue('j', 't', 'n = 1')").await;
    until_job(&daemon, "j", "the job is held", |job| job["waiting_reason"] == "replica_lag").await;
    wait::until(SOON, "the chart shows the lag", async || {
        let charts = database(&daemon).await["charts"].clone();
        let last = |list: &Value| list.as_array().and_then(|list| list.last().cloned()).unwrap_or_default();
        last(&charts["held_by"]) == "replica_lag"
            && last(&charts["replicas"][0]["lag_seconds"]).as_f64() > charts["replicas"][0]["limit_seconds"].as_f64()
    })
    .await;
    let text = page(&daemon).await;
    for said in [
        "1 of them held",
        "a replica is lagging",
        "Lag of standby",
        "of at most 1.00 s",
        "Holding.",
        "held: replica_lag",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(!text.contains(" remaining"), "{text}");
    standby.resume_replay().await;
    until_state(&cluster, "j", "succeeded", SOON).await;
}

#[tokio::test]
async fn a_failed_job_shows_the_number_of_bad_rows_and_their_errors_without_row_data() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, code text, n int);
         insert into t select i, case when i in (7, 99) then 'secret ' || i else i::text end, null from generate_series(1, 1000) i;
         create table keyed (code text primary key, n int); insert into keyed select 'secret ' || i from generate_series(1, 100) i;
         create function no_address() returns trigger language plpgsql as $$ begin raise exception 'secret customer % has no address', new.code; end $$;
         create trigger t before update on keyed for each row execute function no_address()",
    )
    .await;
    let daemon = daemon(&cluster).await;
    run(
        &owner,
        r#"select backfill.enqueue('two', 't', 'n = code::int');
           select backfill.enqueue('none', 't', 'n = code::int', options => '{"max_row_errors": 0}');
           select backfill.enqueue('every', 'keyed', 'n = 1')"#,
    )
    .await;
    until_true(&owner, SOON, "select count(*) = 3 from backfill.jobs where state = 'failed'").await;
    until_job(&daemon, "two", "the job failed", |job| job["state"] == "failed").await;
    let text = page(&daemon).await;
    assert!(
        text.contains("2 rows quarantined (2 × SQLSTATE 22P02)") && text.contains("2 rows could not be changed"),
        "{text}"
    );
    assert!(text.contains("a row could not be changed") && text.contains("3 failed"), "{text}");
    let (_, json) = daemon.get("/status.json").await.unwrap();
    assert!(!text.contains("secret") && !json.contains("secret"), "{text} {json}");
    // The owner can read the complete error with the statement that the page shows.
    let whole: String = value(&owner, &offered(&text, "Show the whole error").replace("error, hint", "error")).await;
    assert!(!whole.is_empty());
    let rows = owner.query(&offered(&text, "Show the rows that could not be changed"), &[]).await.unwrap();
    assert!(!rows.is_empty());
    run(&owner, "update t set code = '7' where id in (7, 99)").await;
    run(&owner, "select backfill.retry('two')").await;
    until_state(&cluster, "two", "succeeded", SOON).await;
}

/// The error of a custom query may contain table data. The hint of a job whose verification failed
/// contains a statement with the `set` expression.
#[tokio::test]
async fn errors_of_custom_queries_and_the_set_expression_are_not_shown() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table conf (t text); insert into conf values ('10');
         create table t (id int primary key, n text); insert into t values (1, null), (2, 'other')",
    )
    .await;
    let config = "databases: [{name: main, url: x, signals: [{name: settings, sql: 'select max(t::int) from public.conf', limit: 100, interval_seconds: 1}]}]";
    let daemon = daemon_with(&cluster, config).await;
    run(
        &owner,
        r#"select backfill.enqueue('proved', 't', 'n = ''secret''', filter => 'n is null', options => '{"verify": "expression"}')"#,
    )
    .await;
    until_state(&cluster, "proved", "failed", SOON).await;
    assert!(value::<String>(&owner, "select hint from backfill.jobs").await.contains("secret"));
    run(&owner, "update conf set t = 'secret'; insert into t select generate_series(3, 1000)").await;
    // The job is held once the last valid reading of the signal is too old.
    let slow = r#"select backfill.enqueue('waits', 't', 'n = ''x''', options => '{"max_rows_per_second": 50, "max_batch_rows": 5}')"#;
    run(&owner, slow).await;
    until_job(&daemon, "waits", "the job is held", |job| job["waiting_reason"] == "signal").await;
    let unread = "signal settings could not be read";
    wait::until(SOON, "the event is shown", async || {
        page(&daemon).await.contains("see backfill.signals for the reason")
    })
    .await;
    let (text, json) = (page(&daemon).await, daemon.get("/status.json").await.unwrap().1);
    assert!(
        json.contains(unread) && json.contains("of backfill.jobs contains a query that finds these rows"),
        "{json}"
    );
    assert!(!text.contains("secret") && !json.contains("secret"), "{text} {json}");
    let whole = "select reason from backfill.signals where source = 'settings'";
    assert!(
        value::<String>(&owner, whole).await.contains("secret"),
        "backfill.signals hides the error from a role that may see it"
    );
}

#[tokio::test]
async fn an_unreachable_database_is_shown_with_its_last_state_and_age() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, n int); insert into t select generate_series(1, 1000)").await;
    let daemon = daemon(&cluster).await;
    run(
        &owner,
        r#"select backfill.enqueue('j', 't', 'n = 1', options => '{"max_rows_per_second": 20, "max_batch_rows": 2}')"#,
    )
    .await;
    until_job(&daemon, "j", "the job runs", |job| job["state"] == "running").await;
    drop(owner);
    cluster.stop(Mode::Immediate).await;
    wait::until(SOON, "the failure is shown", async || database(&daemon).await["trouble"].is_string()).await;
    wait::until(SOON, "the age of the data grows", async || {
        database(&daemon).await["age_seconds"].as_f64() > Some(5.0)
    })
    .await;
    let text = page(&daemon).await;
    for said in ["1 database not ready", "Last data received", ">j</h4>"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    cluster.start_again().await;
    let fresh = async || {
        let database = database(&daemon).await;
        database["ready"] == true && database["age_seconds"].as_f64() < Some(2.0) && database["trouble"].is_null()
    };
    wait::until(SOON, "the database is reachable again", fresh).await;
}

#[tokio::test]
async fn the_page_reads_the_database_only_while_it_is_viewed_and_at_most_once_a_second() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    let daemon = daemon_with(&cluster, "lease: {poll_ms: 200}").await;
    let superuser = cluster.superuser("app").await;
    run(&superuser, "alter system set log_min_duration_statement = 0").await;
    run(&superuser, "select pg_reload_conf()").await;
    let asked = || cluster.log().matches("select backfill._status($1").count();
    until_true(&owner, SOON, "select current_setting('log_min_duration_statement') = '0'").await;
    // Wait until the daemon's loops have run several times.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(asked(), 0, "the daemon read the status although no page was requested");
    let start = tokio::time::Instant::now();
    let mut requests = 0;
    // Send at least 100 requests, and continue for at least 3 s. One statement for each request
    // would then clearly exceed the limit below.
    while start.elapsed() < Duration::from_secs(3) || requests < 100 {
        page(&daemon).await;
        requests += 1;
    }
    // One statement is allowed for each second that has begun. The server logs up to three lines
    // for a prepared statement: when it is parsed, bound and executed. The limit leaves a margin of
    // one line per second, plus three lines.
    let (asked, seconds) = (asked(), usize::try_from(start.elapsed().as_secs()).unwrap() + 1);
    assert!((3..=4 * seconds + 3).contains(&asked), "{requests} requests in {seconds} s, {asked} lines of the log");
}
