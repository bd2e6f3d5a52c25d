//! Tests with 10,001 jobs, 201 of them unfinished, and with a job of thousands of slices.

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::wait;
use serde_json::Value;
use tokio_postgres::Client;

use crate::status_page;
use crate::support::{SOON, daemon, installed, run, value};

/// Creates 9,800 finished jobs with four walk slices each, 200 queued jobs with five priorities,
/// and the queued job `j`, which is the least urgent.
async fn ten_thousand_jobs(cluster: &Cluster) -> Client {
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int); select backfill.enqueue('j', 't', 'a = 1', priority => 100);
        alter table backfill.job disable trigger user;
        insert into backfill.job (name, relation, target, set_sql, run_as, settings, state, plan, rows_estimated, rows_scanned, rows_changed, started_at, finished_at, verified_at, priority)
        select 'j' || n, j.relation, j.target, j.set_sql, j.run_as, j.settings, case when n > 9800 then 'queued' else 'succeeded' end, case when n <= 9800 then '{}'::jsonb end, 100, case when n <= 9800 then 100 end,
               case when n <= 9800 then 100 end, case when n <= 9800 then now() end, case when n <= 9800 then now() end, now(), n % 5
          from backfill.job j, generate_series(1, 10000) n where j.name = 'j' order by n;
        alter table backfill.job enable trigger user; alter table backfill.slice disable trigger user;
        insert into backfill.slice (job_id, kind, run_as, priority, state) select id, 'plan', run_as, priority, case when state = 'queued' then 'ready' else 'done' end from backfill.job where name <> 'j' order by id;
        insert into backfill.slice (job_id, kind, run_as, priority, state, ordinal, lower, upper, relation, relation_name)
        select id, 'walk', run_as, priority, 'done', o, array[o::text], array[(o + 1)::text], relation, target from backfill.job, generate_series(0, 3) o where state = 'succeeded';
        insert into backfill.checkpoint (slice_id, token, position, rows_scanned, done) select id, gen_random_uuid(), upper, 25, true from backfill.slice where kind = 'walk';
        insert into backfill.event (job_id, kind, message) select id, k, 'as a test has it' from backfill.job, unnest(array['enqueued', 'planned', 'succeeded']) k where state = 'succeeded';
        alter table backfill.slice enable trigger user").await;
    run(&owner, "vacuum analyze backfill.job, backfill.slice, backfill.checkpoint, backfill.event").await;
    owner
}

async fn pages(client: &Client, query: &str) -> (i64, String) {
    let row =
        client.query_one(&format!("explain (analyze, buffers, timing off, format json) {query}"), &[]).await.unwrap();
    let plan: Value = row.get(0);
    let page = |what: &str| plan[0]["Plan"][what].as_i64().unwrap();
    (page("Shared Hit Blocks") + page("Shared Read Blocks"), plan.to_string())
}

#[tokio::test]
async fn claims_are_fair_by_priority_and_age_among_ten_thousand_jobs() {
    let cluster = installed(Options::default()).await;
    let owner = ten_thousand_jobs(&cluster).await;
    // Four sessions take the place of daemons and claim jobs in turn.
    let daemons: Vec<Client> =
        vec![cluster.owner().await, cluster.owner().await, cluster.owner().await, cluster.owner().await];
    let mut taken = Vec::new();
    for turn in 0..200 {
        let row = daemons[turn % 4]
            .query_one("select backfill._claim(gen_random_uuid(), array['owner']::name[], '1 hour', 1)", &[])
            .await
            .unwrap();
        let claim: Value = row.get(0);
        taken.push(claim["name"].as_str().unwrap()[1..].parse::<i64>().unwrap());
    }
    // The most urgent job is claimed first. Within a priority, the oldest job is claimed first. No
    // job is skipped, and no job is claimed twice.
    let mut fair: Vec<i64> = (9801..=10_000).collect();
    fair.sort_by_key(|n| (n % 5, *n));
    assert_eq!(taken, fair);
    let last: String =
        value(&owner, "select backfill._claim(gen_random_uuid(), array['owner']::name[], '1 hour', 1) ->> 'name'")
            .await;
    assert_eq!(last, "j");
}

#[tokio::test]
async fn a_claim_and_the_views_do_not_read_thousands_of_finished_jobs() {
    let cluster = installed(Options::default()).await;
    let owner = ten_thousand_jobs(&cluster).await;
    let whole: i64 = value(&owner, "select sum(pg_relation_size('backfill.' || r) / 8192)::bigint from unnest(array['job', 'slice', 'checkpoint', 'event']) r").await;
    assert!(whole > 1000, "{whole}");
    for (query, most) in [
        ("select * from backfill.jobs where name = 'j50'", 150),
        ("select * from backfill.jobs where name = 'j9900'", 150),
        ("select * from backfill.slices where name = 'j50'", 150),
        ("select * from backfill.events where name = 'j50' order by at desc limit 100", 150),
        ("select * from backfill.events order by at desc limit 100", 300),
        ("select * from backfill.events where kind = 'row_error' and name = 'j50' order by at desc limit 100", 150),
        ("select backfill._claim(gen_random_uuid(), array['owner']::name[], '1 hour', 1)", 400),
        ("select backfill._prune_history('90 days', 500)", 400),
    ] {
        // Run the query once before the measurement, so that the catalog is cached.
        pages(&owner, query).await;
        let (read, plan) = pages(&owner, query).await;
        println!("{read} pages: {query}");
        assert!(read <= most, "{read} pages of {whole}: {query}\n{plan}");
        assert!(!plan.contains("\"JIT\""), "{query}: JIT compilation was used");
    }
}

/// The coverage check must not read all slices again for each slice. The test compares a job of 500
/// slices with a job of 4,000 slices. The limit for the second job is 16 times the pages that the
/// coverage check of the first job reads, plus 400 pages.
#[tokio::test]
async fn the_proof_of_many_slices_reads_each_of_them_once() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int)").await;
    let mut read = Vec::new();
    for n in [500, 4000] {
        run(&owner, &format!("select backfill.enqueue('n{n}', 't', 'a = 1');
            update backfill.job set state = 'running', plan = '{{\"key\": [], \"upper\": [\"{n}\"]}}' where name = 'n{n}';
            insert into backfill.slice (job_id, kind, run_as, state, ordinal, lower, upper, relation, relation_name)
            select id, 'walk', run_as, 'done', o, case when o > 0 then array[o::text] end, array[(o + 1)::text], relation, target from backfill.job, generate_series(0, {n} - 1) o where name = 'n{n}';
            insert into backfill.checkpoint (slice_id, token, position, done) select s.id, gen_random_uuid(), s.upper, true from backfill.slice s join backfill.job j on j.id = s.job_id where j.name = 'n{n}' and s.kind = 'walk';
            analyze backfill.slice, backfill.checkpoint")).await;
        let gap = format!("select backfill._coverage_gap(id) from backfill.job where name = 'n{n}'");
        assert_eq!(value::<Option<String>>(&owner, &gap).await, None);
        read.push(pages(&owner, &gap).await.0);
    }
    assert!(read[1] < read[0] * 16 + 400, "{read:?} pages");

    // The coverage check finds each of these defects.
    let slice = "update backfill.slice set lower = $l$ where ordinal = 88 and kind = 'walk' and job_id = (select id from backfill.job where name = 'n500')";
    for (change, expected) in [
        (slice.replace("$l$", "'{77}'"), "slices of public.t overlap"),
        (slice.replace("$l$", "'{x}'"), "no slice of public.t starts at {88}, where another slice ends"),
        (slice.replace("$l$", "null"), "slices of public.t overlap"),
        ("update backfill.job set plan = '{\"upper\": [\"501\"]}' where name = 'n500'".to_owned(), "the slices of public.t end at {500} instead of the planned upper bound {501}"),
        ("update backfill.checkpoint set position = '{5}' where slice_id = (select min(id) from backfill.slice where kind = 'walk')".to_owned(), "slice 0 stopped at {5}, before its upper bound {1}"),
        ("update backfill.checkpoint set done = false where slice_id = (select min(id) from backfill.slice where kind = 'walk')".to_owned(), "slice 0 stopped at {1}, before its upper bound {1}"),
    ] {
        owner.batch_execute("begin").await.unwrap();
        run(&owner, &change).await;
        let gap: Option<String> = value(&owner, "select backfill._coverage_gap(id) from backfill.job where name = 'n500'").await;
        assert_eq!(gap.as_deref(), Some(expected), "{change}");
        owner.batch_execute("rollback").await.unwrap();
    }
}

#[tokio::test]
async fn the_page_shows_the_most_urgent_of_many_jobs_and_counts_the_others() {
    let cluster = installed(Options::default()).await;
    let owner = ten_thousand_jobs(&cluster).await;
    run(&owner, "select backfill.pause_all('for the test')").await;
    let daemon = daemon(&cluster).await;
    let seen = async || status_page::database(&daemon).await["jobs"].as_array().is_some_and(|jobs| !jobs.is_empty());
    wait::until(SOON, "the jobs are shown", seen).await;
    let database = status_page::database(&daemon).await;
    let jobs = database["jobs"].as_array().unwrap();
    let live: Vec<&str> =
        jobs.iter().filter(|job| job["finished_at"].is_null()).filter_map(|job| job["name"].as_str()).collect();
    assert_eq!((live.len(), live[0], jobs.len()), (50, "j9805", 60), "{database}");
    assert_eq!(
        (database["queue"]["queued"].as_i64(), database["queue"]["succeeded"].as_i64()),
        (Some(201), Some(9800))
    );
    let text = status_page::page(&daemon).await;
    assert!(text.contains("and 151 more unfinished jobs") && text.contains("and 9,790 more finished jobs"), "{text}");
    assert!(text.len() < 300_000, "{} bytes", text.len());
}

/// Alerts need metrics of queued jobs: a deadline may pass before a job has started, and no other
/// metric shows that a job waits for approval.
#[tokio::test]
async fn the_first_queued_jobs_have_metrics_and_the_rest_of_a_long_queue_has_not() {
    let cluster = installed(Options::default()).await;
    let owner = ten_thousand_jobs(&cluster).await;
    run(&owner, "select backfill.pause_all(); select backfill.enqueue('due', 't', 'a = 2', priority => -1, needs_approval => true, options => '{\"deadline\": \"2001-01-01T00:00:00Z\"}')").await;
    let daemon = daemon(&cluster).await;
    let metrics = async || daemon.get("/metrics").await.unwrap().1;
    let deadline = "backfilld_job_deadline_timestamp_seconds{database=\"main\",job_name=\"due\"} 978307200";
    wait::until(SOON, "the deadline of the job is reported", async || metrics().await.contains(deadline)).await;
    let text = metrics().await;
    let jobs = text.lines().filter(|line| line.starts_with("backfilld_job_info{")).collect::<Vec<_>>();
    // Each of the first 50 queued jobs has its own series. Recently finished jobs follow, up to a
    // total of 1,000 series.
    let queued = jobs.iter().filter(|line| line.contains("state=\"queued\"")).count();
    assert_eq!((queued, jobs.len()), (50, 1000));
    let due = jobs.iter().find(|line| line.contains("job_name=\"due\"")).unwrap();
    assert!(due.contains("state=\"queued\"") && due.contains("waiting_reason=\"approval\""), "{due}");
}
