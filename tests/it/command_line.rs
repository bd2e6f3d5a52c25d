//! Tests what the commands print. A message shows the user's next step as a command that can be
//! typed.

use backfilld_testbed::cluster::{Cluster, Options};

use crate::enqueue::notices;
use crate::support::{
    BACKFILLD, SOON, backfilld, daemon, daemon_with, installed, refused, run, until_state, until_true, value,
};

const TABLE: &str = "create table t (id int primary key, n int not null default 0); insert into t values (1)";

/// Runs a command with this URL. Returns the exit code and the output of both streams.
async fn run_command(url: &str, arguments: &[&str]) -> (i32, String) {
    let mut command = tokio::process::Command::new(BACKFILLD);
    let output = command.args(arguments).env("BACKFILLD_DATABASE_URL", url).output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn enqueue_warns_if_no_daemon_is_running() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let (code, text) = run_command(&cluster.owner_url(), &["enqueue", "j", "--target", "t", "--set", "n = 1"]).await;
    assert_eq!(code, 0, "{text}");
    assert_eq!(text.matches("warning: no daemon is running on this database").count(), 1, "{text}");
    assert!(text.contains("next: start a daemon") && text.contains("then: backfilld watch j"), "{text}");
    let _daemon = daemon(&cluster).await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    let enqueue = ["enqueue", "k", "--target", "t", "--set", "n = 1", "--needs-approval"];
    let (_, text) = run_command(&cluster.owner_url(), &enqueue).await;
    assert!(!text.contains("warning"), "{text}");
    // If the job already exists and has been cancelled, the hint names commands instead of SQL
    // functions.
    run(&owner, "select backfill.cancel('k')").await;
    until_state(&cluster, "k", "cancelled", SOON).await;
    let (_, text) = run_command(&cluster.owner_url(), &enqueue).await;
    assert!(text.contains("backfilld retry k; to run it again from the beginning: backfilld rerun k\n"), "{text}");
}

#[tokio::test]
async fn a_finished_job_is_not_advised_to_run_again_without_a_warning() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let _daemon = daemon(&cluster).await;
    run(&owner, "select backfill.enqueue('done', 't', 'n = n + 1')").await;
    until_state(&cluster, "done", "succeeded", SOON).await;
    for verb in ["cancel", "pause", "resume", "approve"] {
        let error = refused(&owner, &format!("select backfill.{verb}('done')")).await;
        assert_eq!(error.hint.as_deref(), Some("No action is needed: the work of the job is done."), "{verb}");
    }
    let (client, notices) = notices(&cluster.owner_url()).await;
    run(&client, "select backfill.tune('done', '{\"slices\": 2}')").await;
    let warnings = notices.lock().unwrap().join("\n");
    assert!(
        warnings.contains("job \"done\" has finished (succeeded): the options take effect only if the job runs again"),
        "{warnings}"
    );
    let (code, text) = run_command(&cluster.owner_url(), &["tune", "done", "--option", "slices=3"]).await;
    assert!(
        code == 0
            && text.contains(
                "run backfilld rerun done, but only if applying the assignments (set) twice gives the same result as applying them once."
            ),
        "{text}"
    );
    assert_eq!(value::<i64>(&owner, "select count(*) from t where n <> 1").await, 0);
}

#[tokio::test]
async fn deletes_are_reported_as_deleted_rows() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    let _daemon = daemon(&cluster).await;
    run(&owner, "select backfill.enqueue_delete('gone', 't', 'id = 1')").await;
    let (code, text) = run_command(&cluster.owner_url(), &["wait", "gone"]).await;
    assert!(code == 0 && text.starts_with("job \"gone\" succeeded: 1 row deleted"), "{text}");
    assert!(backfilld(&cluster, &["status", "gone"]).await.contains("rows deleted      1\n"));
    // Hints about a delete job do not mention assignments.
    for arguments in [&["retry", "gone"][..], &["tune", "gone", "--option=slices=2"]] {
        let (_, text) = run_command(&cluster.owner_url(), arguments).await;
        assert!(text.contains("backfilld rerun gone. The rerun deletes the rows that match"), "{text}");
        assert!(!text.contains("assignments") && !text.contains("change"), "{text}");
    }
}

/// A rate and a percentage that are small but not 0 are not rounded to 0.
#[tokio::test]
async fn small_numbers_of_jobs_and_previews_are_not_shown_as_zero() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, n int); insert into t select generate_series(1, 200000); analyze t",
    )
    .await;
    let text = backfilld(
        &cluster,
        &["preview", "--target", "t", "--set", "n = 1", "--filter", "id = 7", "--option", "max_rows_per_second=0.1"],
    )
    .await;
    assert!(text.contains(" rows a second") && !text.contains(" at 0 rows a second"), "{text}");
    let _daemon = daemon(&cluster).await;
    run(
        &owner,
        r#"select backfill.enqueue('j', 't', 'n = 1', options => '{"max_rows_per_second": 20, "max_batch_rows": 2}')"#,
    )
    .await;
    until_true(&owner, SOON, "select rows_changed between 10 and 90 from backfill.jobs").await;
    run(&owner, "select backfill.pause('j')").await;
    for arguments in [&["status"][..], &["status", "j"]] {
        let text = backfilld(&cluster, arguments).await;
        let shown = text.split_whitespace().find(|word| word.starts_with("0.0") && word.ends_with('%'));
        assert!(shown.is_some_and(|shown| shown != "0.0%"), "{text}");
    }
}

#[tokio::test]
async fn status_as_json_has_every_column_of_the_view() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    run(&owner, "select backfill.enqueue('j', 't', 'n = 1')").await;
    let page: serde_json::Value = serde_json::from_str(&backfilld(&cluster, &["status", "--json"]).await).unwrap();
    let mut keys: Vec<&str> = page[0].as_object().unwrap().keys().map(String::as_str).collect();
    let columns: Vec<String> = value(
        &owner,
        "select array_agg(attname::text) from pg_attribute where attrelid = 'backfill.jobs'::regclass and attnum > 0",
    )
    .await;
    let mut columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    keys.sort_unstable();
    columns.sort_unstable();
    assert_eq!(keys, columns);

    // The JSON output lists the jobs in the same order as the text output: unfinished jobs by
    // priority, then the others.
    run(&owner, "select backfill.enqueue('urgent', 't', 'n = 2', priority => -5)").await;
    run(&owner, "select backfill.enqueue('ended', 't', 'n = 3', priority => -9); select backfill.cancel('ended')")
        .await;
    let page: serde_json::Value = serde_json::from_str(&backfilld(&cluster, &["status", "--json"]).await).unwrap();
    let names: Vec<&str> = page.as_array().unwrap().iter().filter_map(|job| job["name"].as_str()).collect();
    let text = backfilld(&cluster, &["status"]).await;
    let rows = text.lines().filter(|line| !line.starts_with(' ')).skip(1);
    let shown: Vec<&str> = rows.filter_map(|line| line.split_whitespace().next()).take(3).collect();
    assert_eq!((&names, &shown), (&vec!["urgent", "j", "ended"], &names));
}

#[tokio::test]
async fn hints_name_commands_and_with_several_databases_the_database() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    run(&owner, "select backfill.enqueue('j', 't', 'n = 1'); select backfill.pause('j')").await;
    let file = cluster.dir().join("two.yaml");
    let two = format!("databases: [{{name: eu, url: '{}'}}, {{name: us, url_env: NONE}}]", cluster.owner_url());
    std::fs::write(&file, two).unwrap();
    let run_command = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(BACKFILLD);
        command.env("BACKFILLD_CONFIG", &file).args(["--database", "eu"]).args(arguments);
        let output = command.output().await.unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let text = run_command(&["status"]).await;
    assert!(text.contains("next: backfilld --database eu resume j"), "{text}");
    let text = run_command(&["retry", "j"]).await;
    assert!(text.contains("It is paused: run backfilld --database eu resume j."), "{text}");
    let text = run_command(&["enqueue", "k", "--target", "t", "--set", "id = 1"]).await;
    assert!(text.contains("hint: Use another unique key with --key COLUMN,COLUMN, or"), "{text}");
    // The printed command repeats the flags of the user's command.
    let mut command = tokio::process::Command::new(BACKFILLD);
    let output = command.arg("--config").arg(&file).args(["--database", "eu", "status"]).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let next = format!("next: backfilld --config {} --database eu resume j", file.display());
    assert!(text.contains(&next), "{text}");
    run(&owner, "select backfill.pause_all()").await;
    run(&owner, "select backfill.enqueue('l', 't', 'n = 1')").await;
    let text = run_command(&["status", "l"]).await;
    assert!(text.contains("can resume them: backfilld --database eu resume --all\n"), "{text}");
    run(&owner, "select backfill.resume_all(); select backfill.cancel('l')").await;
    // The text that says what a job waits for, and the hints of notices, name commands too.
    run(&owner, "select backfill.enqueue('a', 't', 'n = 1', needs_approval => true)").await;
    let text = run_command(&["status", "a"]).await;
    assert!(text.contains("must approve the job: backfilld --database eu approve a"), "{text}");
    assert!(!text.contains("select backfill."), "{text}");
    run(&owner, "select backfill.cancel('a'); select backfill.cancel('j')").await;
    let text = run_command(&["tune", "j", "--option", "slices=2"]).await;
    assert!(text.contains("backfilld --database eu retry j"), "{text}");
    let text = run_command(&["enqueue", "a", "--target", "t", "--set", "n = 1", "--needs-approval"]).await;
    assert!(text.contains("backfilld --database eu retry a"), "{text}");
}

#[tokio::test]
async fn a_login_that_may_not_create_the_schema_gets_the_complete_grant_statement() {
    let cluster = Cluster::with_owner(Options::default()).await;
    cluster.sql("postgres", "app", "create role \"odd name\" login").await;
    cluster.sql("postgres", "app", "revoke create on database app from public").await;
    let url = cluster.url("odd%20name", "app");
    let grant = "grant create on database app to \"odd name\";";
    for verb in ["migrate", "doctor"] {
        let (code, text) = run_command(&url, &[verb]).await;
        assert!(code != 0 && text.contains(grant), "{verb}: {text}");
    }
    cluster.sql("postgres", "app", grant).await;
    assert_eq!(run_command(&url, &["migrate"]).await.0, 0);
}

#[tokio::test]
async fn small_and_large_values_of_signals_are_readable() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    run(&owner, "select backfill.enqueue('j', 't', 'n = 1', needs_approval => true)").await;
    for (value, limit, utilization, shown) in [
        ("0.0125", "0.15", "0.083", ["0.0125", "0.15", "8", "%"]),
        ("0.0004", "1", "0.0004", ["0.0004", "1", "0.04", "%"]),
        ("2e12", "1e12", "2", ["2000000000000", "1000000000000", "200", "%"]),
        ("5", "0.0001", "50000", ["5", "0.0001", "5000000", "%"]),
    ] {
        run(&owner, &format!("delete from backfill.signal; insert into backfill.signal (signal, source, kind, value, \"limit\", utilization, sampled_at, holding) values ('signal', 'depth', 'load', {value}, {limit}, {utilization}, now(), false)")).await;
        let text = backfilld(&cluster, &["status"]).await;
        let line = text.lines().find(|line| line.starts_with("signal ")).unwrap_or_else(|| panic!("{text}"));
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells[3..7], shown, "{text}");
    }
}

/// The context of an error has at most one line, which names the public function. For commands that
/// share an internal function, such as `pause` and `resume`, it may have a second line, which names
/// that function.
#[tokio::test]
async fn a_refused_call_does_not_list_the_functions_on_the_way() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, TABLE).await;
    run(&owner, "select backfill.enqueue('j', 't', 'n = 1')").await;
    for (statement, most) in [
        ("select backfill.enqueue('k', 't', 'nope = 1')", 1),
        ("select backfill.enqueue_delete('k', 't', 'nope = 1')", 1),
        ("select * from backfill.preview('t', 'nope = 1')", 1),
        ("select backfill.assert_complete('none')", 1),
        ("select backfill.pause('none')", 2),
        ("select backfill.resume('none')", 2),
        ("select backfill.cancel('none')", 2),
        ("select backfill.approve('j')", 2),
        ("select backfill.retry('j')", 2),
        ("select backfill.rerun('j')", 2),
        ("select backfill.forget('j')", 2),
        ("select backfill.tune('j', '{\"bad\": 1}')", 2),
        ("select backfill.tune('j', '{\"slices\": 1000}')", 2),
    ] {
        let error = owner.batch_execute(statement).await.unwrap_err();
        let context = error.as_db_error().unwrap().where_().unwrap_or_default().to_owned();
        assert!(context.lines().count() <= most, "{statement}: {context}");
    }
}

/// Counts the sessions of a daemon whose workers are all busy. Meanwhile the test reads `/metrics`
/// and `/status.json`.
#[tokio::test]
async fn a_daemon_opens_at_most_as_many_connections_as_doctor_says() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, n int not null default 0); insert into t select generate_series(1, 40000)",
    )
    .await;
    let config = "databases: [{name: main, url: x, workers: 4}]";
    let file = cluster.dir().join("four.yaml");
    std::fs::write(&file, config.replace("url: x", &format!("url: '{}'", cluster.owner_url()))).unwrap();
    let mut doctor = tokio::process::Command::new(BACKFILLD);
    let output = doctor.arg("--config").arg(&file).arg("doctor").output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let stated = text.split("uses up to ").nth(1).unwrap_or_else(|| panic!("{text}")).lines().next().unwrap();
    let stated: i64 = stated.trim().parse().unwrap();

    let daemon = daemon_with(&cluster, config).await;
    let options = r#"{"slices": 8, "max_rows_per_second": 8000, "max_batch_rows": 50}"#;
    run(&owner, &format!("select backfill.enqueue('j', 't', 'n = n + 1', options => '{options}')")).await;
    let sessions = "select count(*) from pg_stat_activity where application_name like 'backfilld%'";
    let mut most = 0;
    while value::<String>(&owner, "select state from backfill.jobs").await != "succeeded" {
        daemon.get("/status.json").await.unwrap();
        daemon.get("/metrics").await.unwrap();
        most = most.max(value::<i64>(&owner, sessions).await);
    }
    assert!((2 * 4 + 1..=stated).contains(&most), "{most} sessions, doctor says {stated}");
}

#[tokio::test]
async fn doctor_names_the_privileges_that_the_role_of_a_job_lacks() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table \"a, b\" (id int primary key, n int); create table t (id int primary key, n int)").await;
    run(&owner, "select backfill.enqueue('update', '\"a, b\"', 'n = 1'); select backfill.enqueue_delete('delete', 't', 'n = 1')").await;
    run(&owner, "revoke update on \"a, b\" from owner; revoke select, delete on t from owner").await;
    let (code, text) = run_command(&cluster.owner_url(), &["doctor"]).await;
    assert!(code != 0, "{text}");
    for part in [
        "job \"update\": role \"owner\" lacks update on public.\"a, b\"",
        "As the owner: grant update on public.\"a, b\" to \"owner\";",
        "job \"delete\": role \"owner\" lacks select on public.t, delete on public.t",
        "As the owner: grant select on public.t to \"owner\"; grant delete on public.t to \"owner\";",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}
