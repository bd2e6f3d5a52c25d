//! Runs `migrate`, `enqueue`, the daemon and `doctor` with settings that a role or a database can
//! have, one setting at a time. docs/faults.md lists the tested settings.

use backfilld_testbed::cluster::{Cluster, Options};

use crate::support::{BACKFILLD, make_roles};

/// Settings that any role can have.
const OF_ANY_ROLE: &[&str] = &[
    "search_path = 'nowhere'",
    "search_path = ''",
    "quote_all_identifiers = on",
    "backslash_quote = off",
    "array_nulls = off",
    "xmloption = document",
    "IntervalStyle = iso_8601",
    "DateStyle = 'SQL, DMY'",
    "TimeZone = 'Asia/Kathmandu'",
    "default_transaction_isolation = 'serializable'",
    "default_transaction_read_only = on",
    "default_transaction_deferrable = on",
    "row_security = off",
    "exit_on_error = on",
    "statement_timeout = 50",
    "lock_timeout = 1",
    "idle_session_timeout = 300",
    "idle_in_transaction_session_timeout = 1",
    "plan_cache_mode = force_generic_plan",
    "plan_cache_mode = force_custom_plan",
    "client_encoding = LATIN1",
    "standard_conforming_strings = off",
    "escape_string_warning = on",
    "bytea_output = escape",
    "extra_float_digits = -5",
    "transform_null_equals = on",
    "check_function_bodies = off",
    "enable_indexscan = off",
    "enable_seqscan = off",
    "enable_nestloop = off",
    "work_mem = '64kB'",
    "jit_above_cost = 0",
    "client_min_messages = debug5",
    "client_min_messages = error",
    "synchronous_commit = off",
    "from_collapse_limit = 1",
    "join_collapse_limit = 1",
    "default_statistics_target = 1",
    "constraint_exclusion = on",
    "cursor_tuple_fraction = 1",
    "gin_fuzzy_search_limit = 1",
    "application_name = 'other'",
    "role = 'helper'",
    "plpgsql.variable_conflict = use_column",
    "plpgsql.extra_errors = 'all'",
];

/// Settings that only a superuser can set for a role.
const OF_A_SUPERUSER: &[&str] =
    &["track_activities = off", "lc_messages = 'C'", "log_min_messages = panic", "allow_system_table_mods = on"];

/// Returns the setting that forces parallel plans. Its name changed in PostgreSQL 16.
fn parallel(cluster: &Cluster) -> &'static str {
    if cluster.major() < 16 { "force_parallel_mode = regress" } else { "debug_parallel_query = regress" }
}

async fn backfilld(url: &str, arguments: &[&str]) -> (i32, String) {
    let mut command = tokio::process::Command::new(BACKFILLD);
    let output = command.args(arguments).env("BACKFILLD_DATABASE_URL", url).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), said)
}

/// Installs the schema, enqueues an update and a delete, runs the daemon, and calls doctor, in a
/// database in which the login has the setting.
async fn works_with(cluster: &Cluster, number: usize, setting: &str) {
    let database = format!("set{number}");
    cluster.create_database(&database, "owner").await;
    let alter = format!("create table t (id int primary key, at timestamptz, span interval, a float8, b text, c text);
        insert into t select g, '2026-11-01 12:00Z', interval '1 day', 1.1::float8 / 3, 'x' || g, null from generate_series(1, 300) g;
        alter table t owner to owner; alter role owner in database {database} set {setting}");
    cluster.sql("postgres", &database, &alter).await;
    let url = cluster.url("owner", &database);
    let with = |what: &str, (code, said): (i32, String)| {
        assert_eq!(code, 0, "{setting}: {what}: {said}");
        said
    };
    with("migrate", backfilld(&url, &["migrate"]).await);
    let set = "c = b || '/' || coalesce(a::numeric(10, 3)::text, '') || '/' || extract(epoch from span)";
    with(
        "enqueue",
        backfilld(&url, &["enqueue", "u", "--target", "public.t", "--set", set, "--filter", "c is null"]).await,
    );
    with(
        "enqueue",
        backfilld(&url, &["enqueue", "d", "--target", "public.t", "--delete", "--filter", "id > 200"]).await,
    );
    with("run", backfilld(&url, &["run", "--until-idle", "--listen", "127.0.0.1:0"]).await);
    let status = with("status", backfilld(&url, &["status", "--json"]).await);
    let done = "select string_agg(name || ' ' || state, ', ' order by name) from backfill.jobs";
    assert_eq!(
        cluster.value::<String>("postgres", &database, done).await,
        "d succeeded, u succeeded",
        "{setting}: {status}"
    );
    let right = "select count(*) from t where c = b || '/0.367/86400.000000'";
    assert_eq!(cluster.value::<i64>("postgres", &database, right).await, 200, "{setting}");
    with("doctor", backfilld(&url, &["doctor"]).await);
}

async fn each_works(settings: &[&str]) {
    let cluster = Cluster::with_owner(Options::default()).await;
    make_roles(&cluster).await;
    cluster.create_role("helper", "nologin").await;
    cluster.sql("postgres", "postgres", "grant helper to owner").await;
    for (number, setting) in settings.iter().enumerate() {
        if setting.starts_with("role") {
            // With this setting, sessions of the login run as role `helper`, which owns nothing. A
            // refusal is expected, so this test skips the setting.
            continue;
        }
        works_with(&cluster, number, setting).await;
    }
}

/// Returns one quarter of the settings, so that four tests can run in parallel.
fn quarter(number: usize) -> &'static [&'static str] {
    OF_ANY_ROLE.chunks(OF_ANY_ROLE.len().div_ceil(4)).nth(number).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_settings_of_a_role_do_no_harm() {
    each_works(quarter(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_quarter_of_the_settings_of_a_role_does_no_harm() {
    each_works(quarter(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_third_quarter_of_the_settings_of_a_role_does_no_harm() {
    each_works(quarter(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_settings_of_a_role_do_no_harm() {
    each_works(quarter(3)).await;
}

/// If the triggers of the queue did not fire, the queue would store a job that never starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_whose_triggers_do_not_fire_is_refused_with_the_remedy() {
    let cluster = crate::support::installed(Options::default()).await;
    cluster.sql("owner", "app", "create table t (id int primary key, a int)").await;
    cluster.sql("postgres", "app", "alter role owner in database app set session_replication_role = replica").await;
    let url = cluster.owner_url();
    for arguments in [vec!["enqueue", "j", "--target", "t", "--set", "a = 1"], vec!["run", "--listen", "127.0.0.1:0"]] {
        let (code, said) = backfilld(&url, &arguments).await;
        assert!(code != 0 && said.contains("session_replication_role is \"replica\""), "{arguments:?} {code}: {said}");
        assert!(said.contains("reset session_replication_role"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_settings_that_a_superuser_gives_do_no_harm() {
    let cluster = Cluster::with_owner(Options::default()).await;
    make_roles(&cluster).await;
    for (number, setting) in OF_A_SUPERUSER.iter().chain([&parallel(&cluster)]).enumerate() {
        works_with(&cluster, number, setting).await;
    }
}

/// With the setting that [`parallel`] returns, each query in a function that the job calls would
/// otherwise start a parallel worker.
#[tokio::test]
async fn the_queries_in_functions_of_a_job_start_no_parallel_workers() {
    let cluster = crate::support::installed(Options::default()).await;
    let code = "create table numbers as select generate_series(1, 1000) as n;
        create table t (id int primary key, plan text); insert into t select generate_series(1, 20);
        create function plan_of_a_query() returns text language plpgsql volatile as $$ declare l record; plan text := ''; begin
          for l in explain select count(*) from public.numbers loop plan := plan || l.\"QUERY PLAN\"; end loop; return plan; end $$";
    cluster.sql("owner", "app", code).await;
    cluster.sql("postgres", "app", &format!("alter role owner in database app set {}", parallel(&cluster))).await;
    cluster.sql("owner", "app", "select backfill.enqueue('j', 't', 'plan = plan_of_a_query()')").await;
    let (code, said) = backfilld(&cluster.owner_url(), &["run", "--until-idle", "--listen", "127.0.0.1:0"]).await;
    assert_eq!(code, 0, "{said}");
    let plans = "select string_agg(distinct plan, ' ') from t";
    let plans = cluster.value::<String>("owner", "app", plans).await;
    assert!(plans.contains("Aggregate") && !plans.contains("Gather"), "{plans}");
}
