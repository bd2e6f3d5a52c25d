//! `make demo`: fills a column of a million rows under live traffic, from installation to
//! verification. The servers are started for the demo and removed afterwards.
//!
//!     demo BACKFILLD        runs; KEEP=1 leaves everything running, ROWS=n changes the row count
//!     demo --remove         removes what KEEP=1 left running
#![allow(
    clippy::disallowed_methods,
    reason = "the demo may panic on an unexpected row; tests/layering forbids the other methods"
)]

mod progress;
mod traffic;

use backfilld_testbed::SetupError;
use backfilld_testbed::binaries::Binaries;
use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::server::connect;
use backfilld_testbed::standby::Standby;
use backfilld_testbed::{place, process};
use progress::{Number, Progress};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_postgres::Client;
use traffic::{Phase, Traffic};

/// Time for which the application first runs without the daemon, for comparison.
const BASELINE: Duration = Duration::from_secs(5);
const CONNECTIONS: u32 = 4;
const STANDBY_LIMIT: Duration = Duration::from_secs(60);
/// The daemon's default grace period for the batch in flight (20 s), plus 5 s.
const DRAIN_LIMIT: Duration = Duration::from_secs(25);

const TABLE: &str = "create table public.orders (
    id bigint primary key,
    customer_id int not null,
    total numeric(12,2) not null,
    status text not null,
    created_at timestamptz not null default now(),
    total_cents bigint
)";
const ROWS: &str = "insert into public.orders (id, customer_id, total, status, created_at)
    select n, 1 + n % 50000, (n * 7919 % 1000000) / 100.0, 'paid', now() - n * interval '1 second'
    from generate_series(1::bigint, $1) n";
const JOB: &str = "orders_total_cents";
const ENQUEUE: &str = "select backfill.enqueue(
    name   => 'orders_total_cents',
    target => 'public.orders',
    set    => 'total_cents = round(total * 100)::bigint',
    filter => 'total_cents is null')";
const UNFILLED: &str = "select count(*) from public.orders where total_cents is distinct from round(total * 100)";

#[tokio::main]
async fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let outcome = match args.next().as_deref() {
        Some("--remove") => remove_kept(),
        Some(binary) if args.next().is_none() && !binary.starts_with('-') => run_until_signalled(binary.into()).await,
        _ => {
            eprintln!("usage: demo BACKFILLD | demo --remove");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\ndemo failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn remove_kept() -> Result<ExitCode, SetupError> {
    let kept = place::remove_kept()?;
    for dir in &kept {
        println!("removed {}", dir.display());
    }
    if kept.is_empty() {
        println!("no demo was left running");
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the demo until it ends, or until SIGINT (Ctrl-C) or SIGTERM arrives. A signal drops the
/// future of `story`, and this drop removes the servers and the daemon.
async fn run_until_signalled(binary: PathBuf) -> Result<ExitCode, SetupError> {
    let failed = |error| SetupError(format!("signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        outcome = Box::pin(story(&binary)) => outcome.map(|()| ExitCode::SUCCESS),
        _ = interrupt.recv() => { println!("\ninterrupted; everything is removed"); Ok(ExitCode::from(130)) }
        _ = terminate.recv() => { println!("\nterminated; everything is removed"); Ok(ExitCode::from(143)) }
    }
}

async fn story(binary: &Path) -> Result<(), SetupError> {
    let rows: i64 = number_from_env("ROWS")?.unwrap_or(1_000_000);
    let keep = number_from_env("KEEP")?.unwrap_or(0) != 0;

    step("PostgreSQL", Binaries::find()?.version());
    let cluster = Cluster::try_start(Options::default()).await?;
    cluster.make_owner().await;
    let standby = Standby::try_named(&cluster, "standby").await?;
    step("servers", format!("a primary on {} and a streaming standby on {}", cluster.addr(), standby.addr()));

    let owner = connect(&cluster.owner_url()).await?;
    make_orders(&owner, rows).await?;
    step("table", format!("public.orders, {} rows, total_cents is null in each", Number(rows as f64)));

    let traffic = Traffic::start(&cluster.owner_url(), CONNECTIONS, rows).await?;
    step("application", format!("{} statements a second on {CONNECTIONS} connections", traffic.per_second()));
    standby.wait_caught_up(STANDBY_LIMIT).await;
    traffic.enter(Phase::Before);
    step("baseline", format!("{} s of the application alone", BASELINE.as_secs()));
    tokio::time::sleep(BASELINE).await;

    traffic.enter(Phase::Pause);
    migrate(binary, &cluster.owner_url()).await?;
    let daemon = Daemon::builder(binary, &cluster.owner_url()).start();
    step("daemon", format!("backfilld run, pid {}, http://{}/", daemon.pid(), daemon.http_addr()));
    traffic.enter(Phase::During);
    let enqueued = Instant::now();
    let id: i64 = owner.query_one(ENQUEUE, &[]).await?.get(0);
    step("enqueue", format!("job {id}\n\n{}\n", indented(ENQUEUE)));

    let superuser = connect(&cluster.url("postgres", "app")).await?;
    let watched = Progress::new(&superuser, JOB).watch(&daemon).await;
    let took = enqueued.elapsed();
    traffic.enter(Phase::Pause);
    let report = traffic.stop().await;
    let seen = watched?;

    step(
        "job",
        format!("state {}, {} rows changed in {:.1} s", seen.state, Number(seen.rows_changed), took.as_secs_f64()),
    );
    step(
        "standby",
        format!(
            "at most {:.1} MB behind, replica_lag at most {:.0} % of its limit",
            seen.worst_lag_mb(),
            seen.worst_utilization * 100.0
        ),
    );
    if seen.state != "succeeded" {
        let output = daemon.output();
        return Err(SetupError(format!("the job did not succeed: {}\noutput of the daemon:\n{output}", seen.view)));
    }
    prove(&owner, &standby).await?;
    println!("\nWhat the application noticed:\n\n{report}");
    report.verdict()?;

    if keep {
        leave_up(&cluster, &standby, &daemon);
        return Ok(());
    }
    daemon.sigterm();
    let status = daemon.wait_exit(DRAIN_LIMIT).await;
    if !status.success() {
        return Err(SetupError(format!(
            "the daemon ended with {status} after SIGTERM; its output:\n{}",
            daemon.output()
        )));
    }
    step("shutdown", "SIGTERM, exit 0");
    remove(cluster, standby, daemon)
}

async fn make_orders(owner: &Client, rows: i64) -> Result<(), SetupError> {
    owner.batch_execute(TABLE).await?;
    owner.execute(ROWS, &[&rows]).await?;
    // The new table needs the statistics and the visibility map that a table in use has.
    owner.batch_execute("vacuum (analyze) public.orders").await?;
    Ok(())
}

async fn migrate(binary: &Path, url: &str) -> Result<(), SetupError> {
    let mut command = tokio::process::Command::new(binary);
    command.arg("migrate").env("BACKFILLD_DATABASE_URL", url).env_remove("BACKFILLD_CONFIG").kill_on_drop(true);
    let output = command.output().await.map_err(|error| SetupError(format!("{}: {error}", binary.display())))?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        return Err(SetupError(format!("backfilld migrate: {}\n{out}{err}", output.status)));
    }
    step("migrate", "backfilld migrate has installed schema backfill");
    Ok(())
}

/// Checks the result of the demo with a count, with `assert_complete`, and with the same count on
/// the standby.
async fn prove(owner: &Client, standby: &Standby) -> Result<(), SetupError> {
    let unfilled: i64 = owner.query_one(UNFILLED, &[]).await?.get(0);
    let total: i64 = owner.query_one("select count(*) from public.orders", &[]).await?.get(0);
    owner.batch_execute(&format!("select backfill.assert_complete('{JOB}')")).await?;
    standby.wait_caught_up(STANDBY_LIMIT).await;
    let on_standby: i64 = standby.value("owner", "app", UNFILLED).await;
    if unfilled != 0 || on_standby != 0 {
        return Err(SetupError(format!("rows that are not filled: {unfilled}, on the standby {on_standby}")));
    }
    step(
        "proof",
        format!(
            "{} rows, 0 of them unfilled, on the primary and on the standby\n\n    {UNFILLED}\n",
            Number(total as f64)
        ),
    );
    Ok(())
}

fn remove(cluster: Cluster, standby: Standby, daemon: Daemon) -> Result<(), SetupError> {
    let dirs = [cluster.dir().to_owned(), standby.dir().to_owned()];
    let pids = [cluster.pid(), standby.pid(), daemon.pid()];
    drop((daemon, standby, cluster));
    let left = dirs.iter().any(|dir| dir.exists()) || pids.iter().any(|pid| process::working_dir(*pid).is_some());
    if left {
        return Err(SetupError(format!("not all processes {pids:?} and directories {dirs:?} were removed")));
    }
    step("removed", "servers, daemon, files");
    Ok(())
}

fn leave_up(cluster: &Cluster, standby: &Standby, daemon: &Daemon) {
    let psql = Binaries::find().map(|found| found.dir().join("psql")).ok().filter(|psql| psql.is_file());
    let psql = psql.map_or("psql".to_owned(), |psql| psql.display().to_string());
    println!("Still running, because of KEEP=1 (the application has stopped):\n");
    println!("  primary   {psql} {}", cluster.owner_url());
    println!("  standby   {psql} {}", standby.url("owner", "app"));
    println!("  status    http://{}/", daemon.http_addr());
    println!("  metrics   http://{}/metrics", daemon.http_addr());
    println!("  remove    make demo-remove");
    cluster.keep();
    standby.keep();
    daemon.keep();
}

fn indented(sql: &str) -> String {
    sql.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

fn step(what: &str, outcome: impl std::fmt::Display) {
    println!("{what:<12} {outcome}");
}

fn number_from_env(name: &str) -> Result<Option<i64>, SetupError> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(SetupError(format!("{name}={text} is not a number"))),
        },
        _ => Ok(None),
    }
}
