//! Tests of the signals other than replica lag, and of special cases of replica lag, on real
//! servers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::server::Mode;
use backfilld_testbed::standby::Standby;
use backfilld_testbed::tls::{Authority, Issued, Order};
use backfilld_testbed::wait;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_postgres::Client;

use crate::support::{
    BACKFILLD, SOON, daemon, daemon_with, installed, make_roles, migrate, run, until_state, until_true, value,
};

const TABLE: &str = "create table t (id int primary key, a int);
    insert into t select i, null from generate_series(1, 20000) i";
const ENQUEUE: &str = "select backfill.enqueue('j', 't', 'a = 1')";

fn signals(rules: &str) -> String {
    format!("databases: [{{name: main, url: x, signals: [{rules}]}}]")
}

/// Waits until job `j` is held or throttled for `reason`, with a text that matches the LIKE pattern
/// `text`.
async fn until_waiting(owner: &Client, reason: &str, text: &str) {
    let what = format!("job j waits for {reason}: {text}");
    wait::until_ok(SOON, &what, async || {
        let query = "select concat_ws(': ', waiting_reason, waiting_text, throttled_by, throttled_text), coalesce(waiting_reason = $1 and waiting_text like $2, throttled_by = $1 and throttled_text like $2, false) from backfill.jobs where name = 'j'";
        let row = owner.query_one(query, &[&reason, &text]).await.unwrap();
        if row.get(1) { Ok(()) } else { Err(row.get::<_, String>(0)) }
    })
    .await;
}

async fn shown(owner: &Client, signal: &str) -> String {
    let query = format!(
        "select coalesce(string_agg(concat_ws(' ', source, kind, \"limit\", holding), ', ' order by source), '') from backfill.signals where signal = '{signal}'"
    );
    value(owner, &query).await
}

#[tokio::test]
async fn wal_that_a_slot_keeps_holds_jobs_if_there_is_a_limit() {
    let cluster = installed(Options::default().logical()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    cluster.sql("postgres", "app", "select pg_create_logical_replication_slot('cdc_1', 'test_decoding'); select pg_create_physical_replication_slot('spare', true)").await;
    run(&owner, "create table filler as select repeat('x', 1000) from generate_series(1, 5000)").await;
    let _daemon =
        daemon_with(&cluster, &signals("{name: slot, match: 'cdc*', limit: 1MiB, interval_seconds: 1}")).await;
    run(&owner, ENQUEUE).await;
    until_waiting(&owner, "slot", "slot cdc\\_1 retains % MiB of WAL (limit 1.0 MiB)").await;
    // Slot `spare`, which the rule does not match, also retains more WAL than the limit. The view
    // shows this slot, but the slot does not hold the job.
    assert_eq!(shown(&owner, "slot").await, "cdc_1 budget 1048576 t, spare shown f");
    assert!(
        value::<bool>(
            &owner,
            "select value > 2e6 and utilization is null from backfill.signals where source = 'spare'"
        )
        .await
    );
    assert_eq!(value::<i64>(&owner, "select count(*) from t where a is not null").await, 0);
    cluster.sql("postgres", "app", "select pg_drop_replication_slot('cdc_1')").await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    let reported = "select string_agg(kind, ' ' order by at) from backfill.events where detail ->> 'source' = 'cdc_1'";
    until_true(&owner, SOON, &format!("select ({reported}) = 'hold go'")).await;
    until_true(&owner, SOON, "select not exists (select from backfill.signals where source = 'cdc_1')").await;
}

#[tokio::test]
async fn a_budget_that_was_read_during_a_job_does_not_hold_at_rest() {
    let cluster = installed(Options::default().logical()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    cluster.sql("postgres", "app", "select pg_create_logical_replication_slot('cdc_1', 'test_decoding')").await;
    let _daemon = daemon_with(&cluster, &signals("{name: slot, limit: 1GiB, interval_seconds: 1}")).await;
    run(&owner, ENQUEUE).await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    // While a job runs, a reading of this signal is stale after 3 s. While no job runs, the daemon
    // reads the signal only every 30 s, and a reading older than 3 s must not hold jobs.
    let ended = tokio::time::Instant::now();
    while ended.elapsed() < Duration::from_secs(6) {
        assert_eq!(shown(&owner, "slot").await, "cdc_1 budget 1073741824 f");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.events where kind = 'hold'").await, 0);
}

#[tokio::test]
async fn wal_that_waits_for_the_archiver_holds_jobs_and_a_missing_right_is_named() {
    let cluster = installed(Options::default().set("archive_mode", "on").set("archive_command", "false")).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let daemon = daemon_with(&cluster, &signals("{name: archiver, limit: 1, interval_seconds: 1}")).await;
    run(&owner, ENQUEUE).await;
    let grant = "grant execute on function pg_catalog.pg_ls_archive_statusdir() to owner;";
    until_waiting(
        &owner,
        "archiver",
        &format!(
            "archiver could not be read: permission denied to list the WAL files to be archived. As an administrator, run: {}",
            grant.replace('_', "\\_")
        ),
    )
    .await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where a is not null").await, 0);
    let doctor = tokio::process::Command::new(BACKFILLD)
        .args(["doctor", "--config"])
        .arg(config_file(&signals("{name: archiver, limit: 1}")).path())
        .env("BACKFILLD_DATABASE_URL", cluster.owner_url())
        .output()
        .await
        .unwrap();
    let reported = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(reported.contains(grant) && reported.contains("FAIL  signals"), "{reported}");

    cluster.sql("postgres", "app", grant).await;
    cluster.sql("postgres", "app", "select pg_switch_wal()").await;
    until_waiting(&owner, "archiver", "WAL has been waiting for the archiver for % s (limit 1 s)").await;
    cluster.sql("postgres", "app", "alter system set archive_command = 'true'").await;
    cluster.reload().await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert!(daemon.output().contains("work held: archiver could not be read"), "{}", daemon.output());
}

/// A temporary file that is deleted on drop.
struct ConfigFile(std::path::PathBuf);

impl ConfigFile {
    fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn config_file(yaml: &str) -> ConfigFile {
    let path =
        std::env::temp_dir().join(format!("backfilld-signals-{}-{}.yaml", std::process::id(), uuid::Uuid::new_v4()));
    std::fs::write(&path, yaml).unwrap();
    ConfigFile(path)
}

/// An HTTP server that sends the same response to each request until the test sets another
/// response.
struct Stub {
    port: u16,
    answer: Arc<Mutex<(u16, String)>>,
    /// The request line and the headers of the last request.
    asked: Arc<Mutex<String>>,
    task: tokio::task::JoinHandle<()>,
}

impl Stub {
    /// Starts the server with the certificate `issued`, or without TLS if `issued` is none.
    async fn start(issued: Option<&Issued>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answer, asked) = (Arc::new(Mutex::new((200, String::new()))), Arc::new(Mutex::new(String::new())));
        let acceptor = issued.map(|issued| {
            let chain =
                CertificateDer::pem_slice_iter(issued.certificate.as_bytes()).collect::<Result<_, _>>().unwrap();
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
            let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
            tokio_rustls::TlsAcceptor::from(Arc::new(config))
        });
        let (its_answer, its_asked) = (answer.clone(), asked.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (answer, asked, acceptor) = (its_answer.clone(), its_asked.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(stream, &answer, &asked).await,
                        // A client that does not trust the certificate disconnects.
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, &answer, &asked).await;
                            }
                        }
                    }
                });
            }
        });
        Self { port, answer, asked, task }
    }

    /// Sets the response. Status 0 means that the server does not respond for 60 s.
    fn says(&self, status: u16, body: &str) {
        *self.answer.lock().unwrap() = (status, body.to_owned());
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &Mutex<(u16, String)>, asked: &Mutex<String>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        request.push(byte);
    }
    *asked.lock().unwrap() = String::from_utf8_lossy(&request).into_owned();
    let (status, body) = answer.lock().unwrap().clone();
    if status == 0 {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    let text = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// Returns the daemon's log, its metrics, its status page, its status JSON, and the contents of the
/// views signals, jobs and events.
async fn all_output(daemon: &Daemon, owner: &Client) -> String {
    let mut reported = daemon.output();
    for path in ["/metrics", "/", "/status.json"] {
        reported.push_str(&daemon.get(path).await.unwrap().1);
    }
    for view in ["signals", "jobs", "events"] {
        reported.push_str(
            &value::<String>(owner, &format!("select coalesce(string_agg(v::text, ' '), '') from backfill.{view} v"))
                .await,
        );
    }
    reported
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_check_holds_and_releases_jobs_and_is_unhealthy_without_an_answer() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let stub = Stub::start(None).await;
    stub.says(429, "{\"StatusCode\":429}");
    let token = config_file("hunter2-token\n");
    let rule = format!(
        "{{name: freno, http: 'http://127.0.0.1:{}/check/hunter2-path?key=hunter2-key', token_file: {}, interval_seconds: 1, timeout_seconds: 0.5}}",
        stub.port,
        token.path().display()
    );
    let daemon = daemon_with(&cluster, &signals(&rule)).await;
    run(&owner, "select backfill.enqueue('j', 't', 'a = 1', options => '{\"max_rows_per_second\": 500}')").await;
    let place = format!("http://127.0.0.1:{}", stub.port);
    until_waiting(&owner, "signal", &format!("signal freno holds jobs: {place} returned status 429")).await;
    assert_eq!(shown(&owner, "signal").await, "freno budget 1 t");
    assert_eq!(value::<i64>(&owner, "select count(*) from t where a is not null").await, 0);
    let asked = stub.asked.lock().unwrap().clone();
    assert!(asked.starts_with("GET /check/hunter2-path?key=hunter2-key HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("authorization: Bearer hunter2-token\r\n"), "{asked}");

    stub.says(204, "");
    until_true(&owner, SOON, "select rows_changed > 0 from backfill.jobs").await;
    // The last valid reading stays in effect for three intervals, so only repeated failures hold
    // the job.
    stub.says(500, "");
    until_waiting(&owner, "signal", &format!("signal freno could not be read: {place} returned status 500. %")).await;
    stub.says(204, "");
    until_true(
        &owner,
        SOON,
        "select waiting_reason is distinct from 'signal' and throttled_by is distinct from 'signal' from backfill.jobs",
    )
    .await;
    stub.says(0, "");
    until_waiting(&owner, "signal", "signal freno could not be read: no response within 0.5 s").await;
    stub.says(302, "");
    until_waiting(&owner, "signal", "signal freno could not be read: % returned status 302. %").await;
    drop(stub);
    until_waiting(&owner, "signal", "signal freno could not be read: % could not connect: %").await;

    let reported = all_output(&daemon, &owner).await;
    assert!(!reported.contains("hunter2"), "{reported}");
    assert!(reported.contains("backfilld_signal_utilization_ratio{"), "{reported}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prometheus_query_over_https_slows_jobs_down() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let authority = Authority::new("a CA");
    let stub = Stub::start(Some(&authority.issue(&Order::server(&["localhost"])))).await;
    let sample = |value: &str| {
        format!(
            "{{\"status\":\"success\",\"data\":{{\"resultType\":\"vector\",\"result\":[{{\"metric\":{{}},\"value\":[1.5,\"{value}\"]}}]}}}}"
        )
    };
    stub.says(200, &sample("20"));
    let rule = |ca: &str| {
        format!(
            "{{name: p99, prometheus: {{url: 'https://localhost:{}/prefix/', query: 'max(p99{{job=\"app\"}})'}}, {ca} limit: 10, interval_seconds: 1}}",
            stub.port
        )
    };
    let daemon = daemon_with(&cluster, &signals(&rule(""))).await;
    // Once the signal has reached its limit, the duty cycle halves twice a second. The job must be
    // long enough that it is still running when the duty cycle has reached its minimum.
    let options = r#"{"max_batch_rows": 20, "max_rows_per_second": 500}"#;
    run(&owner, &format!("select backfill.enqueue('j', 't', 'a = 1', options => '{options}')")).await;
    // The daemon does not know the CA yet.
    until_waiting(
        &owner,
        "signal",
        "signal p99 could not be read: https://localhost:%: TLS: %. If the system does not trust the CA%",
    )
    .await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where a is not null").await, 0);
    daemon.reload(&signals(&rule(&format!("ca_file: {},", authority.root_file().display()))));
    until_waiting(&owner, "signal", "signal p99 is 20 (limit 10): batches run 1 \\% of the time").await;
    let asked = stub.asked.lock().unwrap().clone();
    assert!(
        asked.starts_with("GET /prefix/api/v1/query?query=max%28p99%7Bjob%3D%22app%22%7D%29 HTTP/1.1\r\n"),
        "{asked}"
    );
    assert_eq!(shown(&owner, "signal").await, "p99 load 10 f");
    stub.says(400, "{\"status\":\"error\",\"error\":\"parse error at char 3\"}");
    until_waiting(&owner, "signal", "signal p99 could not be read: https://localhost:% (400): parse error at char 3")
        .await;
    stub.says(200, &sample("1"));
    run(&owner, r#"select backfill.tune('j', '{"max_rows_per_second": 20000}')"#).await;
    until_state(&cluster, "j", "succeeded", SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_custom_query_that_fails_or_times_out_holds_jobs_and_leaves_nothing_running() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    run(&owner, "create table q (wrong boolean); insert into q values (true)").await;
    let broken = "{name: broken, sql: 'select 1 / (case when wrong then 0 else 10 end) from public.q', limit: 100, interval_seconds: 1}";
    let slow = "{name: slow, sql: 'select case when wrong then (select 1 from pg_sleep(60)) else 1 end from public.q', limit: 100, interval_seconds: 1, timeout_seconds: 0.5}";
    for rule in [broken, slow] {
        run(
            &owner,
            "update q set wrong = true; update t set a = null; select backfill.forget(name) from backfill.jobs",
        )
        .await;
        let daemon = daemon_with(&cluster, &signals(rule)).await;
        run(&owner, ENQUEUE).await;
        let reported = if rule == broken {
            "signal broken could not be read: division by zero"
        } else {
            "signal slow could not be read: %"
        };
        until_waiting(&owner, "signal", reported).await;
        assert_eq!(value::<i64>(&owner, "select count(*) from t where a is not null").await, 0);
        // The query does not block the other signals. An attempt that has timed out has also ended
        // on the server, so at most the latest attempt is still active.
        assert!(
            value::<bool>(
                &owner,
                "select age < '5 s' and value is not null from backfill.signals where signal = 'lock_waits'"
            )
            .await
        );
        let still = "select count(*) < 2 from pg_stat_activity where state = 'active' and query like '%pg_sleep(60)%' and pid <> pg_backend_pid()";
        assert!(value::<bool>(&owner, still).await);
        run(&owner, "update q set wrong = false").await;
        until_state(&cluster, "j", "succeeded", SOON).await;
        daemon.sigterm();
        daemon.wait_exit(SOON).await;
    }
    // A custom query cannot change anything.
    run(&owner, "select backfill.forget('j'); update t set a = null").await;
    run(
        &owner,
        "create function public.sneaky() returns int language sql as 'update public.q set wrong = true returning 1'",
    )
    .await;
    let _daemon = daemon_with(&cluster, &signals("{name: sneaky, sql: 'select public.sneaky()', limit: 5}")).await;
    run(&owner, ENQUEUE).await;
    until_waiting(&owner, "signal", "signal sneaky could not be read: % read-only transaction").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slower_statements_of_the_application_slow_jobs_down() {
    let cluster = installed(Options::default().set("shared_preload_libraries", "pg_stat_statements")).await;
    cluster.sql("postgres", "app", "create extension pg_stat_statements").await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    run(&owner, "create table pace (s float8); insert into pace values (0.001)").await;
    let application = cluster.owner().await;
    for _ in 0..30 {
        application.execute("select pg_sleep((select s from pace))", &[]).await.unwrap();
    }
    let _daemon = daemon_with(&cluster, &signals("{name: statement_time, limit: 3, interval_seconds: 1}")).await;
    // The baseline comes from the daemon's first poll of pg_stat_statements, soon after its start.
    // While no job runs, the next poll is 30 s later, so the slower statements below do not become
    // the baseline.
    run(&owner, "update pace set s = 0.02").await;
    let traffic = tokio::spawn(async move {
        loop {
            application.execute("select pg_sleep((select s from pace))", &[]).await.unwrap();
        }
    });
    run(&owner, "select backfill.enqueue('j', 't', 'a = 1', options => '{\"max_batch_rows\": 20, \"max_rows_per_second\": 500}')").await;
    until_waiting(
        &owner,
        "load",
        "the application's statements take % times as long as they do when no job runs (limit 3): batches run %",
    )
    .await;
    // A poll that finds too few calls gives no value, so the signal may be absent for a moment.
    wait::until(SOON, "the signal is shown", async || shown(&owner, "statement_time").await == "server load 3 f").await;
    run(&owner, "update pace set s = 0.001; select backfill.tune('j', '{\"max_rows_per_second\": null}')").await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    traffic.abort();
}

#[tokio::test]
async fn statements_of_the_daemon_do_not_count_as_those_of_the_application() {
    let cluster = installed(Options::default().set("shared_preload_libraries", "pg_stat_statements")).await;
    cluster.sql("postgres", "app", "create extension pg_stat_statements").await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let daemon = daemon_with(&cluster, &signals("{name: statement_time, limit: 3, interval_seconds: 1}")).await;
    // Two jobs run one after the other. When the second job starts, pg_stat_statements already
    // contains the statements of the first job.
    for job in ["first", "second"] {
        run(&owner, &format!("select backfill.enqueue('{job}', 't', 'a = coalesce(a, 0) + 1', options => '{{\"max_rows_per_second\": 4000, \"verify\": \"none\"}}')")).await;
        wait::until(SOON, "the job has succeeded", async || {
            assert_eq!(shown(&owner, "statement_time").await, "");
            value::<bool>(&owner, &format!("select state = 'succeeded' from backfill.jobs where name = '{job}'")).await
        })
        .await;
    }
    daemon.sigterm();
    let left = "select coalesce(string_agg(query, ' | '), '') from public.pg_stat_statements
                 where userid = 'owner'::regrole and calls > 20 and query not like '%backfill.%' and query not like '%pg_catalog.%'
                   and query !~* '^\\s*(begin|commit|rollback|set|reset|show|start|end|discard)\\M'";
    assert_eq!(value::<String>(&owner, left).await, "", "statements of the daemon that the signal would count");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_snapshots_deadlocks_rollbacks_and_requested_checkpoints_are_read() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let rules = "{name: oldest_xmin, limit: 100, interval_seconds: 1}, {name: rollbacks, limit: 500, interval_seconds: 1}, {name: checkpoints, limit: 500, interval_seconds: 1}, {name: deadlocks, limit: 500, interval_seconds: 1}";
    let _daemon = daemon_with(&cluster, &signals(rules)).await;
    run(&owner, "select backfill.enqueue('j', 't', 'a = 1', options => '{\"max_rows_per_second\": 200}')").await;
    until_true(&owner, SOON, "select rows_changed > 0 from backfill.jobs").await;

    let holder = cluster.owner().await;
    run(&holder, "begin isolation level repeatable read; select 1 from t limit 1").await;
    for _ in 0..150 {
        run(&owner, "select pg_current_xact_id()").await;
    }
    until_waiting(&owner, "load", "the oldest snapshot is % transactions old (limit 100): batches run %").await;
    run(&holder, "commit").await;

    for _ in 0..60 {
        run(&owner, "begin; select pg_current_xact_id(); rollback").await;
    }
    for _ in 0..3 {
        cluster.sql("postgres", "app", "checkpoint").await;
    }
    run(&owner, "create table d (id int primary key); insert into d values (1), (2)").await;
    let (one, two) = (cluster.owner().await, cluster.owner().await);
    run(&one, "begin; select 1 from d where id = 1 for update").await;
    run(&two, "begin; select 1 from d where id = 2 for update").await;
    let (first, second) = tokio::join!(
        one.batch_execute("select 1 from d where id = 2 for update; commit"),
        two.batch_execute("select 1 from d where id = 1 for update; commit"),
    );
    assert!(first.is_err() != second.is_err(), "{first:?} {second:?}");
    // A session reports its counters when its transaction ends.
    run(&one, "rollback").await;
    run(&two, "rollback").await;
    for (signal, least) in [("rollbacks", 20), ("checkpoints", 1), ("deadlocks", 0)] {
        let seen = format!(
            "select count(*) = 1 and bool_and(value > {least} and kind = 'load' and not holding) from backfill.signals where signal = '{signal}'"
        );
        until_true(&owner, Duration::from_secs(60), &seen).await;
    }
}

#[tokio::test]
async fn gauges_report_unreadable_statistics_and_jobs_continue() {
    let cluster = Cluster::start(Options::default()).await;
    make_roles(&cluster).await;
    cluster.create_role("owner", "login").await;
    cluster.create_database("app", "owner").await;
    assert!(migrate(&cluster, "owner", "app").await.status.success());
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let _daemon = daemon(&cluster).await;
    // The job must run until the view shows the signal. Without a job, the daemon publishes its
    // readings only once a minute.
    run(&owner, "select backfill.enqueue('j', 't', 'a = 1', options => '{\"max_rows_per_second\": 100}')").await;
    let reported = "select coalesce((select reason from backfill.signals where signal = 'oldest_xmin'), '')";
    until_true(&owner, SOON, &format!("select ({reported}) like '%grant pg_read_all_stats to owner;'")).await;
    assert_eq!(shown(&owner, "oldest_xmin").await, "server shown f");
    // The extension is not installed, so the view has no row for the signal. An unreadable signal
    // would have a row.
    assert_eq!(shown(&owner, "statement_time").await, "");
    run(&owner, "select backfill.tune('j', '{\"max_rows_per_second\": null}')").await;
    until_state(&cluster, "j", "succeeded", SOON).await;
}

#[tokio::test]
async fn values_are_shown_at_rest_with_few_writes_to_the_database() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select count(*) > 0 from backfill.signals where signal = 'lock_waits' and value = 0")
        .await;
    let at: String = value(&owner, "select max(sampled_at)::text from backfill.signal").await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(value::<String>(&owner, "select max(sampled_at)::text from backfill.signal").await, at);
}

#[tokio::test]
async fn a_standby_that_vanishes_holds_jobs_and_its_return_releases_them() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let standby = Standby::of(&cluster).await;
    let config = "databases: [{name: main, url: x, replicas: [{match: standby, required: true}]}]";
    let _daemon = daemon_with(&cluster, config).await;
    until_true(
        &owner,
        SOON,
        "select count(*) > 0 from backfill.signals where source = 'standby' and value is not null",
    )
    .await;
    standby.stop(Mode::Fast).await;
    until_true(&owner, SOON, "select coalesce(bool_or(holding), false) from backfill.signals").await;
    run(&owner, ENQUEUE).await;
    until_waiting(&owner, "replica_lag", "required replica standby disconnected % ago").await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where a is not null").await, 0);
    standby.start_again().await;
    until_state(&cluster, "j", "succeeded", SOON).await;
}

/// Waits until the metrics of the daemon satisfy `is_so`.
async fn until_metrics(daemon: &Daemon, what: &str, is_so: impl Fn(&str) -> bool) {
    wait::until(SOON, what, async || daemon.get("/metrics").await.is_ok_and(|(_, text)| is_so(&text))).await;
}

#[tokio::test]
async fn a_lost_replica_is_reported_until_the_configuration_is_reloaded() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let standby = Standby::of(&cluster).await;
    let daemon = daemon(&cluster).await;
    let up = |text: &str, value: u8| {
        text.contains(&format!("backfilld_replica_up{{database=\"main\",replica=\"standby\"}} {value}"))
    };
    let has_limit = |text: &str| text.contains("backfilld_replica_lag_limit_seconds{");
    until_metrics(&daemon, "the replica is up", |text| up(text, 1) && has_limit(text)).await;
    standby.stop(Mode::Fast).await;
    until_metrics(&daemon, "the replica is missing and holds jobs", |text| up(text, 0) && has_limit(text)).await;
    until_metrics(&daemon, "the replica is lost and holds no job", |text| up(text, 0) && !has_limit(text)).await;
    run(&owner, ENQUEUE).await;
    until_state(&cluster, "j", "succeeded", SOON).await;

    // A replica that returns is no longer lost.
    standby.start_again().await;
    until_metrics(&daemon, "the replica is up again", |text| up(text, 1) && has_limit(text)).await;
    standby.stop(Mode::Fast).await;
    until_metrics(&daemon, "the replica is lost again", |text| up(text, 0) && !has_limit(text)).await;
    // The configuration has not changed. The reload itself confirms that the replica was removed on
    // purpose.
    daemon.sighup();
    until_metrics(&daemon, "the replica is forgotten", |text| {
        text.contains("backfilld_database_ready") && !text.contains("backfilld_replica_up{")
    })
    .await;
}

#[tokio::test]
async fn a_standby_behind_another_is_polled_at_its_own_url() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let first = Standby::named(&cluster, "first").await;
    let second = Standby::named(&first, "second").await;
    second.pause_replay().await;
    let config = "databases: [{name: main, url: x, replicas: [{match: second, url_env: SECOND_URL}]}]";
    let daemon = Daemon::builder(BACKFILLD, &cluster.owner_url())
        .config(config)
        .env("SECOND_URL", second.url("owner", "app"))
        .start();
    daemon.wait_ready(SOON).await;
    run(&owner, "select backfill.enqueue('j', 't', 'a = 1', options => '{\"max_rows_per_second\": 5000}')").await;
    until_waiting(&owner, "replica_lag", "second is % s behind (limit 1.0 s)%").await;
    assert!(value::<bool>(&owner, "select bool_or(holding) filter (where source = 'second') and not bool_or(holding) filter (where source = 'first') from backfill.signals").await);
    second.resume_replay().await;
    until_state(&cluster, "j", "succeeded", SOON).await;
}
