//! Tests clients that connect to the server through a pooler, in each mode of the pooler (P42).

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::pooler::{Mode, Pooler};

use crate::support::{BACKFILLD, SOON, daemon, installed, run, until_state, until_true, value};

async fn backfilld(url: &str, arguments: &[&str]) -> (bool, String) {
    let mut command = tokio::process::Command::new(BACKFILLD);
    let output = command.args(arguments).env("BACKFILLD_DATABASE_URL", url).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_finds_the_pooler_and_jobs_can_be_enqueued_through_it() {
    let cluster = installed(Options::default()).await;
    let (_, direct) = backfilld(&cluster.owner_url(), &["doctor"]).await;
    assert!(direct.contains("direct connection"), "{direct}");
    for mode in [Mode::Transaction, Mode::Statement] {
        let pooler = Pooler::in_mode(mode, cluster.addr()).await;
        let (ok, pooled) = backfilld(&pooler.url("owner", "app"), &["doctor"]).await;
        assert!(!ok && pooled.contains("a pooler in transaction or statement mode"), "{mode:?}: {pooled}");
    }
    let session = Pooler::in_mode(Mode::Session, cluster.addr()).await;
    let (_, through) = backfilld(&session.url("owner", "app"), &["doctor"]).await;
    assert!(through.contains("direct connection"), "{through}");

    let _daemon = daemon(&cluster).await;
    let pooler = Pooler::in_mode(Mode::Transaction, cluster.addr()).await;
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

/// Returns the settings of the pooler's only server session. Between two commands of backfilld, an
/// application would get this session.
async fn left_behind(pooler: &Pooler) -> String {
    let (client, connection) =
        tokio_postgres::connect(&pooler.url("owner", "app"), tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let sql = "select current_setting('search_path') || ' ' || current_setting('statement_timeout') || ' ' || current_setting('lock_timeout')
        || ' ' || current_setting('jit') || ' ' || current_setting('TimeZone') || ' ' || (select count(*) from pg_prepared_statements) || ' '
        || (select count(*) from pg_listening_channels())";
    let answer = client.simple_query(sql).await.unwrap();
    let found = answer.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.try_get(0).unwrap().map(str::to_owned),
        _ => None,
    });
    drop(client);
    connection.await.unwrap().unwrap();
    found.unwrap()
}

/// Each command works through a pooler in each mode, and leaves the server session unchanged for
/// the application.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_verb_works_through_a_pooler_and_leaves_nothing_behind() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, a int, b int); insert into t select g, g from generate_series(1, 500) g",
    )
    .await;
    let _daemon = daemon(&cluster).await;
    for mode in [Mode::Session, Mode::Transaction, Mode::Statement] {
        let pooler = Pooler::in_mode(mode, cluster.addr()).await;
        let url = pooler.url("owner", "app");
        let before = left_behind(&pooler).await;
        let name = format!("j_{mode:?}").to_lowercase();
        let name = name.as_str();
        let verbs: Vec<Vec<&str>> = vec![
            vec!["preview", "--target", "t", "--set", "b = a", "--filter", "b is null", "--key", "id"],
            vec![
                "enqueue",
                name,
                "--target",
                "t",
                "--set",
                "b = 'it''s ' is null",
                "--filter",
                "b = 'x;$1'",
                "--dry-run",
            ],
            vec![
                "enqueue",
                name,
                "--target",
                "t",
                "--set",
                "b = a",
                "--filter",
                "b is distinct from a",
                "--key",
                "id",
                "--needs-approval",
            ],
            vec![
                "enqueue",
                name,
                "--target",
                "t",
                "--set",
                "b = a",
                "--filter",
                "b is distinct from a",
                "--key",
                "id",
                "--needs-approval",
            ],
            vec!["status"],
            vec!["status", name],
            vec!["status", "--json"],
            vec!["pause", name, "--reason", "lünch"],
            vec!["resume", name],
            vec!["tune", name, "--option", "max_rows_per_second=10000"],
            vec!["pause", "--all"],
            vec!["resume", "--all"],
            vec!["approve", name],
            vec!["wait", name, "--timeout", "60s"],
            vec!["watch", name],
            vec!["rerun", name],
            vec!["wait", name, "--timeout", "60s"],
            vec!["forget", name],
        ];
        for verb in &verbs {
            let (ok, said) = backfilld(&url, verb).await;
            let refused = verb.contains(&"b = 'it''s ' is null");
            assert!(ok || refused, "{mode:?} {verb:?}: {said}");
            assert_eq!(left_behind(&pooler).await, before, "{mode:?} {verb:?}");
        }
        if mode != Mode::Session {
            for verb in [vec!["migrate"], vec!["uninstall", "--yes"]] {
                let (ok, said) = backfilld(&url, &verb).await;
                assert!(!ok && said.contains("connects to the server directly"), "{mode:?} {verb:?}: {said}");
            }
        }
        run(&owner, "update t set b = null").await;
    }
}

/// A daemon does not start if its URL leads to a pooler in transaction or statement mode.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_refuses_a_pooler_with_the_remedy() {
    let cluster = installed(Options::default()).await;
    for mode in [Mode::Transaction, Mode::Statement] {
        let pooler = Pooler::in_mode(mode, cluster.addr()).await;
        let daemon = Daemon::builder(BACKFILLD, &pooler.url("owner", "app")).start();
        assert_eq!(daemon.wait_exit(SOON).await.code(), Some(78), "{mode:?}");
        let output = daemon.output();
        assert!(
            output.contains("a pooler in transaction or statement mode") && output.contains("directly"),
            "{output}"
        );
    }
}

/// The pooler that the daemon uses changes to transaction mode, and later back to session mode. The
/// job waits meanwhile and says why. In one case the connections are cut at the change, and in the
/// other case they stay open, as they do when PgBouncer reloads its configuration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_waits_while_a_pooler_is_in_transaction_mode() {
    tokio::join!(change_of_mode(true), change_of_mode(false));
}

async fn change_of_mode(connections_are_cut: bool) {
    let cluster: Cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, n int); insert into t select g, 0 from generate_series(1, 3000) g",
    )
    .await;
    let pooler = Pooler::in_mode(Mode::Session, cluster.addr()).await;
    let proxy = backfilld_testbed::proxy::Proxy::to(pooler.addr()).await;
    let daemon = Daemon::builder(BACKFILLD, &proxy.url("owner", "app")).start();
    daemon.wait_ready(SOON).await;
    run(&owner, r#"select backfill.enqueue('j', 't', 'n = n + 1', options => '{"max_rows_per_second": 200, "max_batch_rows": 20}')"#).await;
    crate::proof::until_more_batches(&owner, "j", 3).await;
    for mode in [Mode::Transaction, Mode::Session] {
        pooler.set_mode(mode);
        if connections_are_cut {
            proxy.cut();
        }
        if mode == Mode::Transaction {
            let waits = "select coalesce(waiting_reason = 'connections' and waiting_text like '%a pooler in transaction or statement mode%url that connects to the server directly%', false) from backfill.jobs";
            until_true(&owner, SOON, waits).await;
        }
    }
    until_state(&cluster, "j", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n = 1").await, 3000);
    assert!(daemon.ended().is_none());
    let output = daemon.output();
    assert!(!output.contains("prepared statement \""), "{output}");
}
