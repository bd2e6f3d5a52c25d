//! Measures the time to read the views in a database with 10,000 jobs, of which 200 are unfinished.
//! All 10,000 jobs are copies of one queued job, which is also in the database.

use crate::sample::Sample;
use backfilld_testbed::cluster::Cluster;
use tokio::time::Instant;

const FILL: &str = "
create table public.small (id bigint primary key, n int);
select backfill.enqueue('base', 'public.small', 'n = 1');
alter table backfill.job disable trigger user;
alter table backfill.event disable trigger user;
insert into backfill.job (name, relation, target, set_sql, run_as, options, settings, state, plan, rows_estimated, rows_scanned, rows_changed, started_at, finished_at, verified_at, priority)
select 'j' || n, j.relation, j.target, j.set_sql, j.run_as, j.options, j.settings,
       case when n > 9900 then 'queued' when n > 9800 then 'running' when n % 10 = 0 then 'failed' else 'succeeded' end, case when n <= 9900 then '{\"upper\": [\"9\"]}'::jsonb end,
       100000, case when n <= 9800 then 100000 end, case when n <= 9800 then 100000 end, now(), case when n <= 9800 then now() end, case when n <= 9800 then now() end, n % 7
  from backfill.job j, generate_series(1, 10000) n where j.name = 'base';
insert into backfill.slice (job_id, kind, run_as, priority, state) select id, 'plan', run_as, priority, case when state = 'queued' then 'ready' else 'done' end from backfill.job where name <> 'base';
insert into backfill.slice (job_id, kind, run_as, priority, state, ordinal, lower, upper, relation, relation_name)
select id, k, run_as, priority, case when state = 'running' then 'ready' else 'done' end, o, array[o::text], array[(o + 1)::text], relation, target
  from backfill.job, generate_series(0, 3) o, unnest(array['walk', 'verify']) k where name <> 'base' and state <> 'queued' and (k = 'walk' or state <> 'running');
insert into backfill.checkpoint (slice_id, token, position, rows_scanned, rows_changed, done)
select id, gen_random_uuid(), upper, 25000, 25000, state = 'done' from backfill.slice where kind <> 'plan';
insert into backfill.event (job_id, name, enqueued_by, kind, message, at) select id, name, enqueued_by, k, k, clock_timestamp() from backfill.job, unnest(array['enqueued', 'planned', 'pause', 'resume', 'verifying', 'succeeded']) k where name <> 'base';
insert into backfill.worker (id, host, pid, version, run_as, expires_at) select gen_random_uuid(), 'host' || n, n, '0', array[current_user], now() + interval '1 day' from generate_series(1, 4) n;
insert into backfill.lease (slice_id, job_id, token, holder, run_as, claimed_at, expires_at, rows_per_second)
select s.id, s.job_id, gen_random_uuid(), (select id from backfill.worker offset s.id % 4 limit 1), s.run_as, now(), now() + interval '1 day', 1000
  from backfill.slice s where s.kind = 'walk' and s.state = 'ready' and s.ordinal < 2;
update backfill.slice set state = 'leased' where id in (select slice_id from backfill.lease);
alter table backfill.job enable trigger user;
alter table backfill.event enable trigger user";

pub async fn views(cluster: &Cluster) {
    cluster.create_database("crowd", "owner").await;
    let migrated = tokio::process::Command::new(crate::server::BACKFILLD)
        .arg("migrate")
        .env("BACKFILLD_DATABASE_URL", cluster.url("owner", "crowd"))
        .output()
        .await
        .unwrap();
    assert!(migrated.status.success(), "migrate: {}", String::from_utf8_lossy(&migrated.stderr));
    let owner = cluster.client("owner", "crowd").await;
    owner.batch_execute(FILL).await.unwrap();
    owner
        .batch_execute(
            "vacuum analyze backfill.job, backfill.slice, backfill.checkpoint, backfill.event, backfill.lease",
        )
        .await
        .unwrap();
    println!("| 10,000 jobs, 200 of them unfinished | rows | time, ms |\n|---|---|---|");
    for query in [
        "select * from backfill.jobs",
        "select * from backfill.jobs where name = 'j9850'",
        "select * from backfill.jobs where state in ('queued', 'running', 'paused', 'verifying')",
        "select * from backfill.slices where name = 'j9850'",
        "select * from backfill.events order by at desc limit 100",
        "select * from backfill.events where name = 'j9850' order by at desc limit 100",
        "select * from backfill.workers",
    ] {
        let mut cost = Sample::default();
        let mut rows = 0;
        for turn in 0..21 {
            let started = Instant::now();
            rows = owner.query(query, &[]).await.unwrap().len();
            if turn > 0 {
                cost.add(started.elapsed().as_secs_f64() * 1e3);
            }
        }
        println!("| `{query}` | {rows} | {cost} |");
    }
    println!();
}
