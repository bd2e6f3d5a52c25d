//! Tests random combinations of key, data, job and faults. Each case is generated from a seed, and
//! its result is compared with a model.
//!
//! A failure prints its `BACKFILLD_SEED`, which generates the same case again.
//! `BACKFILLD_CASES=500` runs 500 cases instead of 12. Run them with `cargo test --test it
//! model::`, because nextest kills a test after 5 minutes. `BACKFILLD_KINDS` selects the features
//! that the cases may have.

mod application;
mod case;
mod judge;
mod key;

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::proxy::Proxy;
use backfilld_testbed::wait;
use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::model::application::Signals;
use crate::model::case::{Case, Fault, Kinds};
use crate::proof::quick;
use crate::support::{SOON, installed, run, value};

/// Maximum time for which a fault waits until the job reaches the state that the fault needs.
const PATIENCE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_is_changed_once_for_any_key_job_and_failure() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let (first, cases) = match number("BACKFILLD_SEED") {
        Some(seed) => (seed, 1),
        None => (uuid::Uuid::new_v4().as_u64_pair().0 >> 24, number("BACKFILLD_CASES").unwrap_or(12)),
    };
    eprintln!("seeds {first} to {}", first + cases - 1);
    let server = Server::start().await;
    let (next, failed) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    // Several cases run concurrently, each in a separate database.
    let lane = async || {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= first + cases {
                return;
            }
            let case = Arc::new(Case::roll(seed, &server.collations, Kinds::asked()));
            // After a panic the other cases still run, because a second failure can help to find
            // the cause.
            let tried = AssertUnwindSafe(server.try_case(Arc::clone(&case), "")).catch_unwind().await;
            let wrong = tried.unwrap_or_else(|panic| {
                let message = panic.downcast_ref::<String>().cloned();
                vec![message.unwrap_or_else(|| "the case panicked".to_owned())]
            });
            if !wrong.is_empty() {
                let some = &wrong[..wrong.len().min(10)];
                failed.lock().unwrap().push(format!(
                    "{}\n{} differences, the first of them: {some:#?}",
                    case.describe(),
                    wrong.len()
                ));
            }
        }
    };
    tokio::join!(lane(), lane(), lane());
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {cases} cases failed:\n{}", failed.len(), failed.join("\n"));
}

/// Shows that the model can detect an error. If the checkpoint is written in a separate transaction
/// and a daemon crashes between the two transactions, some rows are changed twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_model_detects_a_checkpoint_in_a_transaction_of_its_own() {
    let server = Server::start().await;
    let mut cases = (1..).map(|seed| Case::roll(seed, &server.collations, Kinds::default()));
    let mut case = cases
        .find(|case| {
            case.form == case::Form::PlusOne && case.script.iter().filter(|line| line.contains("insert")).count() > 3
        })
        .unwrap();
    (case.faults, case.writers, case.daemons) = (Vec::new(), 0, 1);
    case.options = r#"{"max_batch_rows": 10, "throttle": "off", "verify": "coverage"}"#.to_owned();
    let faults = "checkpoint_apart=on,between_rows_and_checkpoint:3=abort";
    let wrong = server.try_case(Arc::new(case), faults).await;
    assert!(wrong.iter().any(|line| line.contains("was changed 2 times")), "the model did not detect it: {wrong:?}");
}

/// A server for many cases.
struct Server {
    cluster: Cluster,
    collations: Vec<String>,
}

impl Server {
    async fn start() -> Self {
        let cluster = installed(Options::default().set("max_connections", 200)).await;
        let owner = cluster.owner().await;
        let known = owner
            .query(
                "select 'pg_catalog.' || quote_ident(collname) from pg_collation
                  where collnamespace = 'pg_catalog'::regnamespace and collisdeterministic and collencoding in (-1, 6)
                    and collname in ('C', 'POSIX', 'default', 'C.utf8', 'en-x-icu', 'und-x-icu', 'de-x-icu', 'sv-x-icu', 'ja-x-icu', 'en_US.utf8') order by 1",
                &[],
            )
            .await
            .unwrap();
        let collations = known.iter().map(|row| row.get(0)).collect();
        Self { cluster, collations }
    }

    /// Runs a case in a separate database and returns everything that is wrong. The daemons that
    /// start with the case run with the failpoints in `faults`.
    async fn try_case(&self, case: Arc<Case>, faults: &str) -> Vec<String> {
        let db = format!("case_{}", case.seed);
        self.cluster.sql("postgres", "postgres", &format!("create database {db} template app owner owner")).await;
        let owner = self.cluster.client("owner", &db).await;
        run(&owner, key::TYPES).await;
        for statement in &case.script {
            run(&owner, statement).await;
        }
        let initial: Vec<i64> = owner
            .query(&format!("select tag from {}", case.target), &[])
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        let signals = Arc::new(Signals::default());
        let mut writers = JoinSet::new();
        for number in 0..case.writers {
            let client = self.cluster.client("owner", &db).await;
            let most = initial.iter().copied().max().unwrap_or(0);
            writers.spawn(application::write(Arc::clone(&case), number, client, Arc::clone(&signals), most));
        }
        let proxy = Proxy::to(self.cluster.addr()).await;
        let mut fleet = Fleet { url: proxy.url("owner", &db), daemons: Vec::new() };
        for _ in 0..case.daemons {
            fleet.daemons.push(quick(&fleet.url).env("BACKFILLD_FAILPOINT", faults).start());
        }
        // A row counts as promised only if its commit was acknowledged before the flag `enqueued`
        // was set. The flag is therefore set before the job is enqueued.
        signals.enqueued.store(true, Ordering::SeqCst);
        enqueue(&case, &owner).await;
        for fault in &case.faults {
            progress(&owner).await;
            self.strike(&case, fault, &mut fleet, &proxy, &db, &owner).await;
        }
        proxy.pass();
        let mut books = Vec::new();
        let mut wrong = Vec::new();
        let mut bad = case.bad_rows.clone();
        while let Some(error) = self.until_ended(&case, &mut fleet, &owner).await {
            while let Some(book) = writers.join_next().await {
                books.push(book.unwrap());
            }
            let expected = if bad.is_empty() { "after 3 sweeps" } else { "could not be changed" };
            assert!(
                error.contains(expected) || error.contains("after 3 sweeps"),
                "{}: failed: {error}",
                case.describe()
            );
            if error.contains("could not be changed") {
                wrong.extend(
                    judge::judge_refused(&case, &owner, &application::joined(books.clone(), &initial), &bad).await,
                );
                // Each time the job has failed because of bad rows, the test fixes half of the rows
                // that are still bad.
                let fixed: Vec<i64> = bad.iter().copied().step_by(2).collect();
                bad.retain(|tag| !fixed.contains(tag));
                owner.execute("delete from public.bad_rows where tag = any ($1)", &[&fixed]).await.unwrap();
            }
            run(&owner, "select backfill.retry('case')").await;
            for fault in &case.later {
                progress(&owner).await;
                self.strike(&case, fault, &mut fleet, &proxy, &db, &owner).await;
            }
            proxy.pass();
        }
        signals.over.store(true, Ordering::SeqCst);
        while let Some(book) = writers.join_next().await {
            books.push(book.unwrap());
        }
        drop(fleet);
        wrong.extend(judge::judge(&case, &owner, &application::joined(books, &initial)).await);
        if wrong.is_empty() {
            drop(owner);
            self.cluster.sql("postgres", "postgres", &format!("drop database {db} with (force)")).await;
        }
        wrong
    }

    async fn strike(&self, case: &Case, fault: &Fault, fleet: &mut Fleet, proxy: &Proxy, db: &str, owner: &Client) {
        let victim = usize::try_from(case.seed).unwrap_or(0) % fleet.daemons.len();
        match fault {
            Fault::Kill => {
                fleet.daemons[victim].sigkill();
                fleet.daemons[victim] = quick(&fleet.url).start();
            }
            Fault::Named(fault) => {
                fleet.daemons[victim].sigkill();
                fleet.daemons[victim] = quick(&fleet.url).env("BACKFILLD_FAILPOINT", fault).start();
            }
            Fault::Cut => proxy.cut(),
            Fault::CutAfter(bytes) => {
                let before = proxy.connections();
                proxy.cut_after_client_bytes(*bytes);
                patiently(owner, async || proxy.connections() > before).await;
                proxy.pass();
            }
            Fault::Swallow => {
                let before = proxy.swallowed();
                proxy.swallow_answers();
                patiently(owner, async || proxy.swallowed() > before + 150).await;
                proxy.refuse(true);
                proxy.cut();
                proxy.pass();
            }
            Fault::Terminate | Fault::Cancel => {
                let how = if matches!(fault, Fault::Terminate) { "pg_terminate_backend" } else { "pg_cancel_backend" };
                let sql = format!(
                    "select count({how}(pid)) from pg_stat_activity where datname = '{db}' and application_name like 'backfilld %' and application_name <> 'backfilld heartbeat'"
                );
                self.cluster.sql("postgres", "postgres", &sql).await;
            }
            Fault::Freeze => {
                let tokens: Vec<uuid::Uuid> = owner
                    .query("select token from backfill.lease", &[])
                    .await
                    .unwrap()
                    .iter()
                    .map(|row| row.get(0))
                    .collect();
                fleet.daemons[victim].sigstop();
                let over = "select not exists (select from backfill.lease where token = any ($1) and expires_at > clock_timestamp())";
                patiently(owner, async || owner.query_one(over, &[&tokens]).await.unwrap().get(0)).await;
                fleet.daemons[victim].sigcont();
            }
            Fault::Pause => {
                // The pause is refused if the job has just finished.
                if owner.batch_execute("select backfill.pause('case')").await.is_ok() {
                    patiently(owner, async || {
                        value(owner, "select state = 'paused' or finished_at is not null from backfill.jobs").await
                    })
                    .await;
                    let _ = owner.batch_execute("select backfill.resume('case')").await;
                }
            }
            Fault::Tune(options) => {
                let sql = "select backfill.tune('case', $1::text::jsonb)";
                owner.query_one(sql, &[options]).await.unwrap();
            }
            Fault::Lock => {
                let mut application = self.cluster.client("owner", db).await;
                let target = case.target.clone();
                let seed = case.seed;
                tokio::spawn(async move {
                    let transaction = application.transaction().await.unwrap();
                    let sql = format!("select from {target} where tag % 7 = {} order by tag for update", seed % 7);
                    // This transaction and a writer may wait for each other. Because of the short
                    // lock timeout, this transaction gives up first.
                    if transaction.execute("set local lock_timeout = '300ms'", &[]).await.is_ok()
                        && transaction.query(&sql, &[]).await.is_ok()
                    {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                    // The case may have ended, and its database may have been dropped.
                    let _ = transaction.rollback().await;
                });
            }
        }
    }

    /// Waits until the job finishes, and restarts daemons that have exited. Returns the job's error
    /// if it failed. Two causes of a failure are expected: bad rows, and an application that wrote
    /// rows during each of the three sweeps.
    async fn until_ended(&self, case: &Case, fleet: &mut Fleet, owner: &Client) -> Option<String> {
        let mut ended = None;
        wait::until_ok(SOON * 3, format!("the job ends: {}", case.describe()), async || {
            fleet.revive();
            let row = owner.query_one("select state, error from backfill.jobs", &[]).await.unwrap();
            let state: String = row.get(0);
            ended = row.get(1);
            if state == "succeeded" || state == "failed" { Ok(()) } else { Err(state) }
        })
        .await;
        ended
    }
}

struct Fleet {
    url: String,
    daemons: Vec<Daemon>,
}

impl Fleet {
    fn revive(&mut self) {
        for daemon in &mut self.daemons {
            if daemon.ended().is_some() {
                *daemon = quick(&self.url).start();
            }
        }
    }
}

async fn enqueue(case: &Case, owner: &Client) {
    let key: Option<Vec<&str>> = case.key_given();
    let sql = "select backfill.enqueue(name => 'case', target => $1::text::regclass, set => $2, filter => $3, key => $4::text[]::name[], options => $5::text::jsonb)";
    let delete = "select backfill.enqueue_delete(name => 'case', target => $1::text::regclass, filter => $2, key => $3::text[]::name[], options => $4::text::jsonb)";
    let asked = if case.form == case::Form::Delete {
        owner.query_one(delete, &[&case.target, &case.form.filter(), &key, &case.options]).await
    } else {
        owner.query_one(sql, &[&case.target, &case.set, &case.form.filter(), &key, &case.options]).await
    };
    if let Err(error) = asked {
        panic!("{}: {error:?}", case.describe());
    }
}

/// Waits for at most [`PATIENCE`] until the job has run three more batches or has finished.
async fn progress(owner: &Client) {
    let batches = "select coalesce(sum(batches), 0)::bigint from backfill.slices";
    let before: i64 = value(owner, batches).await;
    patiently(owner, async || value::<i64>(owner, batches).await > before + 2).await;
}

async fn patiently(owner: &Client, mut reached: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while began.elapsed() < PATIENCE
        && !reached().await
        && !value::<bool>(owner, "select finished_at is not null from backfill.jobs").await
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
