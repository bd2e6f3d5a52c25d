//! A table changes while a job walks it or reads from it. The job fails and reports the reason if
//! its plan no longer matches the table, a column that the job uses, or the unique index on the
//! key. After other changes, for example a rewrite of the table, the job continues and misses no
//! row.

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::wait;

use crate::proof::{PLUS_ONE, PLUS_ONE_OF_ANOTHER_ROW, enqueue, exact, quick, table, until_more_batches};
use crate::support::{SOON, installed, refused, run, sql, until_state, until_true, value};

const ROWS: i64 = 3_000;
const SLOW: &str = r#"{"max_rows_per_second": 1000, "max_batch_rows": 10, "max_victim_wait_ms": 500}"#;
const FAST: &str = r#"{"max_rows_per_second": 1000000}"#;

/// Starts a daemon with 12 workers and a lease of 3 s.
async fn wide(cluster: &Cluster) -> Daemon {
    let config = "databases: [{name: main, url: 'postgres://x', workers: 12}]\nlease: {ttl_seconds: 3, heartbeat_seconds: 0.5, poll_ms: 50}";
    let daemon = quick(&cluster.owner_url()).config(config).start();
    daemon.wait_ready(SOON).await;
    daemon
}

/// The types that column `note` gets, one after the other. Each is shorter than the type before it,
/// so PostgreSQL rewrites the table.
const SHORTER: [&str; 3] = ["varchar(90)", "varchar(80)", "varchar(70)"];

struct Change {
    name: &'static str,
    /// The DDL that changes the table. `{t}` stands for the job's table. Each string runs as one
    /// transaction.
    ddl: &'static [&'static str],
    /// Text that the job's error contains.
    says: &'static str,
    /// A query that counts the rows that the job has wrongly changed. It must return 0.
    touched: &'static str,
}

const STOPS: &[Change] = &[
    Change {
        name: "columns_renamed",
        ddl: &["alter table {t} rename n to x; alter table {t} rename m to n; alter table {t} rename x to m"],
        says: "columns that the job uses in table public.{t} have changed",
        touched: "select count(*) from {t} where n <> 0 or m > 1",
    },
    Change {
        name: "table_swapped",
        ddl: &["create table {t}_new (like {t} including all); insert into {t}_new select id, note, 0, 0, at from {t};
                alter table {t} rename to {t}_old; alter table {t}_new rename to {t}"],
        says: "table public.{t} is not the table that the job was planned for",
        touched: "select count(*) from {t} where n <> 0",
    },
    Change {
        name: "column_dropped",
        ddl: &["alter table {t} drop column n"],
        says: "n",
        touched: "select count(*) from {t} where m <> 0",
    },
    Change {
        name: "column_made_anew",
        ddl: &["alter table {t} drop column n; alter table {t} add column n int not null default 0"],
        says: "columns that the job uses in table public.{t} have changed",
        touched: "select count(*) from {t} where n <> 0 or m <> 0",
    },
    Change {
        name: "index_dropped",
        ddl: &["alter table {t} drop constraint {t}_pkey"],
        says: "table public.{t} has no unique index on its key any more",
        touched: "select count(*) from {t} where n > 1 or m <> 0",
    },
    Change {
        name: "type_changed",
        ddl: &["alter table {t} alter n type bigint"],
        says: "columns that the job uses in table public.{t} have changed",
        touched: "select count(*) from {t} where n > 1 or m <> 0",
    },
    Change { name: "table_dropped", ddl: &["drop table {t}"], says: "{t}", touched: "select 0::bigint" },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_stops_with_the_reason_if_a_dependency_has_changed() {
    let cluster = installed(Options::default()).await;
    let _daemon = wide(&cluster).await;
    for (set, kind) in [(PLUS_ONE, "rc"), (PLUS_ONE_OF_ANOTHER_ROW, "rr")] {
        for change in STOPS {
            let job = format!("{}_{kind}", change.name);
            table(&cluster, &job, ROWS).await;
            enqueue(&cluster, &job, set, SLOW).await;
            let owner = cluster.owner().await;
            until_more_batches(&owner, &job, 3).await;
            for ddl in change.ddl {
                sql(&cluster, &ddl.replace("{t}", &job)).await;
            }
            let ended = "select state, coalesce(error, ''), coalesce(hint, '') from backfill.jobs where name = $1 and state in ('failed', 'succeeded')";
            let row = wait::until_ok(SOON, format!("{job} stops"), async || {
                owner.query_opt(ended, &[&job]).await.unwrap().ok_or("still running")
            })
            .await;
            let (state, error): (String, String) = (row.get(0), row.get(1));
            assert_eq!(state, "failed", "{job}");
            assert!(error.contains(&change.says.replace("{t}", &job)), "{job}: {error}");
            let touched: i64 = owner.query_one(&change.touched.replace("{t}", &job), &[]).await.unwrap().get(0);
            assert_eq!(touched, 0, "{job}: the job changed rows that it must not change");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_continues_if_its_dependencies_are_unchanged() {
    let cluster = installed(Options::default()).await;
    let _daemon = wide(&cluster).await;
    let owner = cluster.owner().await;
    let changes: [(&str, &[&str]); 4] = [
        ("column_added", &["alter table {t} add column extra int default 5", "alter table {t} drop column extra"]),
        ("reindexed", &["reindex table concurrently {t}", "reindex table concurrently {t}"]),
        ("vacuumed", &["vacuum full {t}", "vacuum (analyze) {t}", "cluster {t} using {t}_pkey"]),
        ("read_by_name", &["alter index {t}_pkey rename to {t}_other", "alter table {t} rename note to remark"]),
    ];
    for (set, kind) in [(PLUS_ONE, "rc"), (PLUS_ONE_OF_ANOTHER_ROW, "rr")] {
        for (name, ddl) in changes {
            let job = format!("{name}_{kind}");
            table(&cluster, &job, ROWS).await;
            enqueue(&cluster, &job, set, SLOW).await;
            for ddl in ddl {
                until_more_batches(&owner, &job, 2).await;
                sql(&cluster, &ddl.replace("{t}", &job)).await;
            }
            sql(&cluster, &format!("select backfill.tune('{job}', '{FAST}')")).await;
            until_state(&cluster, &job, "succeeded", SOON).await;
            exact(&cluster, &job, ROWS).await.unwrap_or_else(|wrong| panic!("{job}: {wrong}"));
        }
    }
}

/// A snapshot that is older than a rewrite does not see the rewritten rows, so the table appears to
/// be empty. A batch that waited for the rewrite must take a new snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_row_is_missed_when_a_batch_waits_for_an_alter_table_that_rewrites() {
    let cluster = installed(Options::default()).await;
    let _daemon = wide(&cluster).await;
    let mut dba = cluster.owner().await;
    for (job, set) in [("rewritten_rc", PLUS_ONE), ("rewritten_rr", PLUS_ONE_OF_ANOTHER_ROW)] {
        table(&cluster, job, ROWS).await;
        enqueue(&cluster, job, set, SLOW).await;
        for sql_type in SHORTER {
            let owner = cluster.owner().await;
            until_more_batches(&owner, job, 3).await;
            rewrite_while_a_batch_waits(
                &mut dba,
                job,
                &format!("alter table {job} alter note type {sql_type}"),
                &cluster,
            )
            .await;
        }
        sql(&cluster, &format!("select backfill.tune('{job}', '{FAST}')")).await;
        until_state(&cluster, job, "succeeded", SOON).await;
        exact(&cluster, job, ROWS).await.unwrap_or_else(|wrong| panic!("{job}: {wrong}"));
    }
}

/// In this test, the job's expression reads the table that is rewritten. If this table appeared to
/// be empty, the job would store null instead of the sum and report no error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_value_is_wrong_when_a_batch_waits_for_a_rewrite_of_a_table_that_it_reads() {
    let cluster = installed(Options::default()).await;
    let _daemon = wide(&cluster).await;
    let mut dba = cluster.owner().await;
    // The job's expression names neither the table behind the view nor the partition.
    sql(
        &cluster,
        "create table plain as select 1 as one, 'a'::text as note;
         create table seen as select 1 as one, 'a'::text as note; create view looked_at as select one from seen;
         create table parted (one int, note text) partition by list (one); create table part partition of parted for values in (1);
         insert into parted values (1, 'a')",
    )
    .await;
    for (from, rewritten) in [("plain", "plain"), ("looked_at", "seen"), ("parted", "parted")] {
        let job = format!("reads_{from}");
        table(&cluster, &job, ROWS).await;
        sql(&cluster, &format!("alter table {job} alter n drop not null")).await;
        enqueue(&cluster, &job, &format!("n = n + (select sum(one)::int from {from})"), SLOW).await;
        for sql_type in SHORTER {
            until_more_batches(&cluster.owner().await, &job, 3).await;
            let ddl = format!("alter table {rewritten} alter note type {sql_type}");
            rewrite_while_a_batch_waits(&mut dba, &job, &ddl, &cluster).await;
        }
        sql(&cluster, &format!("select backfill.tune('{job}', '{FAST}')")).await;
        until_state(&cluster, &job, "succeeded", SOON).await;
        let lost = format!("select count(*) from {job} where n is null");
        assert_eq!(cluster.value::<i64>("owner", "app", &lost).await, 0, "{job}");
        exact(&cluster, &job, ROWS).await.unwrap_or_else(|wrong| panic!("{job}: {wrong}"));
    }
}

async fn rewrite_while_a_batch_waits(dba: &mut tokio_postgres::Client, job: &str, ddl: &str, cluster: &Cluster) {
    let owner = cluster.owner().await;
    let waits = "select exists (select from pg_stat_activity where application_name = 'backfilld job ' || (select id from backfill.jobs where name = $1) and wait_event_type = 'Lock')";
    let rewrite = dba.transaction().await.unwrap();
    let file = "select array_agg(pg_relation_filenode(relid))::text from (select $1::text::regclass as relid union select relid from pg_partition_tree($1::text::regclass)) t";
    let name = ddl.split_whitespace().nth(2).unwrap();
    let before: String = rewrite.query_one(file, &[&name]).await.unwrap().get(0);
    rewrite.batch_execute(ddl).await.unwrap();
    let after: String = rewrite.query_one(file, &[&name]).await.unwrap().get(0);
    assert_ne!(before, after, "{ddl} did not rewrite the table");
    wait::until(SOON, "a batch waits for the rewrite", async || owner.query_one(waits, &[&job]).await.unwrap().get(0))
        .await;
    rewrite.commit().await.unwrap();
}

/// Renames the table of the job and gives its old name to a copy of the table. The second string
/// undoes this.
const SWAP: [&str; 2] = [
    "create table t_new (like t including all); insert into t_new select id, note, 0, 0, at from t;
     alter table t rename to t_old; alter table t_new rename to t",
    "drop table t; alter table t_old rename to t",
];

/// Another table takes the name of the job's table before planning, while the job verifies, or
/// after its success. The job never counts as complete for the other table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_not_complete_for_a_table_that_took_the_name() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    table(&cluster, "t", ROWS).await;
    let _daemon = wide(&cluster).await;
    let told = "select error like '%table public.t is not the table that the job%' and error || hint like '%backfill.forget%' from backfill.jobs where name = $1";
    let is_told =
        async |job: &str| owner.query_one(told, &[&job]).await.unwrap().get::<_, Option<bool>>(0).unwrap_or(false);

    run(&owner, "select backfill.enqueue('before', 't', 'n = 1', needs_approval => true)").await;
    sql(&cluster, SWAP[0]).await;
    run(&owner, "select backfill.approve('before')").await;
    wait::until(SOON, "the job fails", async || is_told("before").await).await;
    let refusal = refused(&owner, "select backfill.retry('before')").await;
    let oids: String = value(&owner, "select format('The name belongs to the table with OID %s. The job is for the table with OID %s, which is now public.t_old.', 't'::regclass::oid, 't_old'::regclass::oid)").await;
    assert_eq!((refusal.sqlstate.as_str(), refusal.detail.as_deref()), ("BF001", Some(oids.as_str())));
    assert_eq!(
        value::<i64>(&owner, "select count(*) from (select n from t union all select n from t_old) x where n <> 0")
            .await,
        0
    );
    sql(&cluster, SWAP[1]).await;
    run(&owner, "select backfill.retry('before')").await;
    until_state(&cluster, "before", "succeeded", SOON).await;
    run(&owner, "select backfill.assert_complete('before')").await;

    let slow = r#"{"max_rows_per_second": 500, "max_batch_rows": 10, "slices": 1}"#;
    run(&owner, &format!("select backfill.enqueue('during', 't', 'm = 1', 'm = 0', options => '{slow}')")).await;
    until_true(&owner, SOON, "select rows_changed > 2000 from backfill.jobs where name = 'during'").await;
    until_state(&cluster, "during", "succeeded", SOON).await;
    run(&owner, "select backfill.assert_complete('during')").await;
    let verified =
        format!("select backfill.enqueue('verified', 't', 'note = ''x''', 'note <> ''x''', options => '{slow}')");
    run(&owner, &verified).await;
    until_true(&owner, SOON, "select state = 'verifying' from backfill.jobs where name = 'verified'").await;
    sql(&cluster, SWAP[0]).await;
    wait::until(SOON, "the job fails", async || is_told("verified").await).await;
    sql(&cluster, SWAP[1]).await;
    run(&owner, "select backfill.retry('verified')").await;
    until_state(&cluster, "verified", "succeeded", SOON).await;

    for ddl in [SWAP[0], "drop table t"] {
        sql(&cluster, ddl).await;
        for call in ["assert_complete('during')", "assert_complete('during', true)"] {
            let refusal = refused(&owner, &format!("select backfill.{call}")).await;
            assert_eq!(
                (refusal.sqlstate.as_str(), refusal.message.as_str()),
                ("BF004", "job \"during\" is complete, but table public.t is not the table that the job changed"),
                "{ddl} {call}"
            );
            assert!(refusal.hint.is_some(), "{ddl} {call}");
        }
        assert_eq!(refused(&owner, "select backfill.rerun('during')").await.sqlstate, "BF001", "{ddl}");
    }
    sql(&cluster, "alter table t_old rename to t").await;
    run(&owner, "select backfill.assert_complete('during'); select backfill.assert_complete('during', true)").await;
}

/// A partition that is detached and replaced has not been walked. A partition that is attached
/// later under a different name is not a replacement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_not_complete_for_a_partition_that_took_the_name() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table p (id int primary key, n int not null default 0) partition by range (id);
        create table p1 partition of p for values from (0) to (200);
        create table p2 partition of p for values from (200) to (400);
        insert into p select generate_series(1, 399);
        select backfill.enqueue('j', 'p', 'n = 1', 'n = 0')",
    )
    .await;
    let _daemon = wide(&cluster).await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    run(&owner, "create table p3 partition of p for values from (400) to (600); insert into p values (500)").await;
    run(&owner, "select backfill.assert_complete('j')").await;
    run(
        &owner,
        "alter table p detach partition p1; alter table p1 rename to p1_old;
        create table p1 partition of p for values from (0) to (200); insert into p select generate_series(1, 199)",
    )
    .await;
    let refusal = refused(&owner, "select backfill.assert_complete('j')").await;
    assert_eq!(
        (refusal.sqlstate.as_str(), refusal.message.as_str()),
        ("BF004", "job \"j\" is complete, but a partition or child of public.p is not the one that the job changed")
    );
    let oids: String = value(&owner, "select format('public.p1: The name belongs to the table with OID %s. The job is for the table with OID %s, which is now public.p1_old.', 'p1'::regclass::oid, 'p1_old'::regclass::oid)").await;
    assert_eq!(refusal.detail.as_deref(), Some(oids.as_str()));
    run(&owner, "select backfill.rerun('j')").await;
    until_state(&cluster, "j", "succeeded", SOON).await;
    run(&owner, "select backfill.assert_complete('j')").await;
    assert_eq!(value::<i64>(&owner, "select count(*) from p where n = 0").await, 0);
}
