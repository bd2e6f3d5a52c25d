//! Measures the number of pages that batches, checkpoints and claims touch. Other load on the
//! machine does not change this measure.

use backfilld::execute::statement::batch::{BatchKind, batch};
use backfilld::execute::statement::table::Table;
use backfilld::job::batch::BatchMode;
use backfilld::job::plan::Plan;
use backfilld::pg::ident::quote;
use backfilld_testbed::cluster::{Cluster, Options};
use serde_json::Value;
use tokio_postgres::Client;

use crate::support::{SOON, daemon, installed, run, until_true, value};

/// The settings of an executor's session during a walk: those that affect plans, and two that
/// affect the text of keys.
const RECIPE: &str = "set enable_seqscan = off; set enable_bitmapscan = off; set jit = off; set extra_float_digits = 3; set bytea_output = hex;";

/// The additional settings for a walk along a key that mixes ascending and descending columns.
const IN_ORDER: &str = "set enable_sort = off; set enable_incremental_sort = off;";

/// The end of the text of a check in a batch's SQL. The check fails if the table's triggers have
/// changed. The argument `true` means that triggers may suppress changes. The tables in these tests
/// have no triggers, so the tests replace `true` with `false`. Otherwise the check would fail.
const SAME_TRIGGERS: &str = "::pg_catalog.oid, true))";

async fn explain(client: &Client, statement: &str) -> Value {
    let text = format!("explain (analyze, buffers, format json) {statement}");
    let answer = client.query_one(&text, &[]).await.unwrap_or_else(|error| panic!("{text}\n{error:?}"));
    answer.get::<_, Value>(0)[0].clone()
}

fn pages(explained: &Value) -> i64 {
    let plan = &explained["Plan"];
    plan["Shared Hit Blocks"].as_i64().unwrap() + plan["Shared Read Blocks"].as_i64().unwrap()
}

/// Collects each scan of `table` as (node type, total number of rows read).
fn scans(node: &Value, table: &str, found: &mut Vec<(String, f64)>) {
    if node["Relation Name"] == table && node["Node Type"] != "ModifyTable" {
        let number = |name: &str| node[name].as_f64().unwrap_or(0.0);
        let read = (number("Actual Rows") + number("Rows Removed by Filter") + number("Rows Removed by Index Recheck"))
            * number("Actual Loops");
        found.push((node["Node Type"].as_str().unwrap().to_owned(), read));
    }
    for child in node["Plans"].as_array().into_iter().flatten() {
        scans(child, table, found);
    }
}

/// Writes a new token into the checkpoint of the only slice of a planned job, so that the test can
/// run batches itself. Returns (slice, token).
async fn hold(cluster: &Cluster, name: &str) -> (i64, String) {
    let owner = cluster.owner().await;
    let row = owner.query_one(&format!("update backfill.checkpoint c set token = gen_random_uuid() from backfill.slice s join backfill.job j on j.id = s.job_id
        where s.id = c.slice_id and s.kind = 'walk' and j.name = '{name}' returning s.id, c.token::text"), &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn no_batch_ever_reads_more_than_its_rows_whatever_the_planner_knows() {
    let cluster = installed(Options::default().set("autovacuum", "off")).await;
    let owner = cluster.owner().await;
    run(&owner, "create table one (id bigint primary key, total int, total_cents int, region int, pad text);
        create table pair (a int, b text, total int, total_cents int, region int, primary key (a, b));
        create index on one (total_cents); create index on one (total_cents) where total_cents is null; create index on one (region);
        create index on pair (total_cents); create index on pair (total_cents, a) where total_cents is null; create index on pair (b);
        insert into one select i, i, case when i % 1000 <> 0 then i end, i % 10, 'x' from generate_series(1, 200000) i;
        insert into pair select i % 7, 'b' || i, i, null, i % 10 from generate_series(1, 200000) i;
        select backfill.enqueue('one_sparse', 'one', 'total_cents = total', 'total_cents is null and region <> 11');
        select backfill.enqueue('one_all', 'one', 'total = total + 1');
        select backfill.enqueue('pair_filter', 'pair', 'total_cents = total', 'total_cents is null');
        select backfill.enqueue('pair_all', 'pair', 'total = total + 1')").await;
    plan_only(&cluster, &owner).await;
    for analyzed in [false, true] {
        if analyzed {
            run(&owner, "analyze").await;
        }
        for (name, table, middle) in [
            ("one_sparse", "one", "{100000}"),
            ("one_all", "one", "{100000}"),
            ("pair_filter", "pair", "{3,b15}"),
            ("pair_all", "pair", "{3,b15}"),
        ] {
            try_batches(&cluster, name, table, middle, analyzed).await;
        }
    }
}

/// One tenant has 90 % of the rows of table `tenants`, and each of about 7,000 other tenants has 7
/// rows. In table `trio`, the first two columns of the key have three values each.
#[tokio::test]
async fn no_batch_reads_on_to_the_end_of_a_long_run_of_one_prefix() {
    let cluster = installed(Options::default().set("autovacuum", "off")).await;
    let owner = cluster.owner().await;
    run(&owner, "create table tenants (a int, b int, total int, total_cents int, pad text, primary key (a, b));
        create table trio (x text collate \"C\", y int, z text, total int, total_cents int, primary key (x, y, z));
        create index on tenants (a); create index on tenants (b, a); create index on tenants (total_cents, a) where total_cents is null; create index on trio (z);
        insert into tenants select 5, i, i, null, 'x' from generate_series(1, 450000) i;
        insert into tenants select 10 + i / 7, i % 7, i, null, 'x' from generate_series(1, 50000) i;
        insert into trio select 'x' || i % 3, i / 90000, 'z' || i, i, null from generate_series(1, 200000) i;
        select backfill.enqueue('tenants_filter', 'tenants', 'total_cents = total', 'total_cents is null');
        select backfill.enqueue('tenants_all', 'tenants', 'total = total + 1');
        select backfill.enqueue_delete('tenants_delete', 'tenants', 'total_cents is null');
        select backfill.enqueue('trio_all', 'trio', 'total = total + 1')").await;
    plan_only(&cluster, &owner).await;
    for analyzed in [false, true] {
        if analyzed {
            run(&owner, "analyze").await;
        }
        let mut most = 0;
        for (name, table, middle) in [
            ("tenants_filter", "tenants", "{5,100}"),
            ("tenants_filter", "tenants", "{5,449900}"),
            ("tenants_filter", "tenants", "{3000,3}"),
            ("tenants_filter", "tenants", "{7152,1}"),
            ("tenants_all", "tenants", "{5,225000}"),
            ("tenants_delete", "tenants", "{5,50}"),
            ("trio_all", "trio", "{x1,1,z100000}"),
            ("trio_all", "trio", "{x0,2,z190000}"),
        ] {
            most = most.max(try_batches(&cluster, name, table, middle, analyzed).await);
        }
        println!("most pages read to count a batch of 200 rows, analyzed: {analyzed}: {most}");
    }
}

/// One prefix (the long run) has 90 % of the rows of table `runs`, and each of the 50,000 prefixes
/// after it has one row. Batches begin near both ends of the long run, in its middle, and after it.
/// Other indexes provide the order of the walk, or a part of it, at a lower cost.
#[tokio::test]
async fn no_batch_along_an_index_of_mixed_directions_reads_more_than_a_few_times_its_rows() {
    let cluster = installed(Options::default().set("autovacuum", "off")).await;
    let owner = cluster.owner().await;
    run(&owner, "create table runs (a int not null, b int not null, total int, total_cents int, pad text);
        create table three (x text collate \"C\" not null, y int not null, z int not null, total int, total_cents int);
        create unique index on runs (a, b desc); create index on runs (a); create index on runs (b); create index on runs (b, a);
        create index on runs (total_cents); create index on runs (total_cents, a) where total_cents is null;
        create unique index on three (x desc, y, z desc); create index on three (x, y); create index on three (z); create index on three (total_cents, z);
        insert into runs select 5, i, i, null, 'x' from generate_series(1, 450000) i;
        insert into runs select 10 + i, i % 7, i, null, 'x' from generate_series(1, 50000) i;
        insert into three select 'x' || i % 3, i / 90000, i, i, null from generate_series(1, 200000) i;
        select backfill.enqueue('runs_filter', 'runs', 'total_cents = total', 'total_cents is null', key => '{a,b}');
        select backfill.enqueue('runs_all', 'runs', 'total = total + 1', key => '{a,b}');
        select backfill.enqueue_delete('runs_delete', 'runs', 'total_cents is null', key => '{a,b}');
        select backfill.enqueue('three_all', 'three', 'total = total + 1', key => '{x,y,z}')").await;
    plan_only(&cluster, &owner).await;
    for analyzed in [false, true] {
        if analyzed {
            run(&owner, "analyze").await;
        }
        let mut most = 0;
        for (name, table, middle) in [
            ("runs_filter", "runs", "{5,449000}"),
            ("runs_filter", "runs", "{5,100}"),
            ("runs_filter", "runs", "{20000,3}"),
            ("runs_filter", "runs", "{60009,3}"),
            ("runs_all", "runs", "{5,225000}"),
            ("runs_delete", "runs", "{5,50}"),
            ("three_all", "three", "{x1,1,100000}"),
            ("three_all", "three", "{x1,1,90050}"),
            ("three_all", "three", "{x0,2,190000}"),
        ] {
            most = most.max(try_batches(&cluster, name, table, middle, analyzed).await);
        }
        println!("most pages read to count a batch of 200 rows, analyzed: {analyzed}: {most}");
    }
}

/// Lets a daemon plan every job but not walk it: each job is paused as soon as it has a plan.
async fn plan_only(cluster: &Cluster, owner: &Client) {
    run(
        owner,
        "create function hold_it() returns trigger language plpgsql as $$ begin
        if new.plan is not null and old.plan is null then new.desired_state := 'paused'; end if; return new; end $$;
        create trigger hold_it before update on backfill.job for each row execute function hold_it()",
    )
    .await;
    let planner = daemon(cluster).await;
    until_true(owner, SOON, "select bool_and(state = 'paused') from backfill.jobs").await;
    planner.sigterm();
    planner.wait_exit(SOON).await;
    run(owner, "drop trigger hold_it on backfill.job").await;
}

/// Runs batches of 200 rows of a planned job, from the start or from `middle`, once with custom
/// plans and once with generic plans. The batches change rows (fast or row by row) or count rows.
/// Each scan of the table must use an index and may read at most 600 rows. Returns the largest
/// number of pages that a counting batch touched.
async fn try_batches(cluster: &Cluster, name: &str, table: &str, middle: &str, analyzed: bool) -> i64 {
    let owner = cluster.owner().await;
    let plan: Value = owner.query_one("select plan from backfill.job where name = $1", &[&name]).await.unwrap().get(0);
    let plan: Plan = serde_json::from_value(plan).unwrap();
    let upper =
        format!("{{{}}}", plan.upper.as_ref().unwrap().0.iter().map(|part| quote(part)).collect::<Vec<_>>().join(","));
    let (slice, token) = hold(cluster, name).await;
    let mut most = 0;
    for mode in ["force_custom_plan", "force_generic_plan"] {
        let session = cluster.owner().await;
        let in_order = if plan.key.iter().any(|column| column.descending) { IN_ORDER } else { "" };
        run(&session, &format!("{RECIPE} {in_order} set plan_cache_mode = {mode}")).await;
        let plain = Table { suppressible: false, returns_old: false, keys_change: false, lenient: false };
        let triggered = Table { suppressible: true, returns_old: true, ..plain };
        for (from, kind, batch_mode, state) in [
            (None, BatchKind::Change, BatchMode::Fast, plain),
            (Some(middle), BatchKind::Change, BatchMode::Fast, plain),
            (Some(middle), BatchKind::Change, BatchMode::Fast, triggered),
            (None, BatchKind::Change, BatchMode::PerRow, plain),
            (Some(middle), BatchKind::Change, BatchMode::PerRow, plain),
            (
                Some(middle),
                BatchKind::Count { condition: "total_cents is null".to_owned(), since: None },
                BatchMode::Fast,
                plain,
            ),
        ] {
            run(
                &session,
                &format!(
                    "prepare b (bigint, uuid, text, text[], bigint, text[]) as {}",
                    batch(&plan, &kind, state, batch_mode, from.is_none())
                        .replace(SAME_TRIGGERS, "::pg_catalog.oid, false))")
                ),
            )
            .await;
            let position = from.map_or("null".to_owned(), |from| format!("'{from}'"));
            run(&session, &format!("update backfill.checkpoint set position = {position} where slice_id = {slice}"))
                .await;
            run(&session, "begin").await;
            let explained =
                explain(&session, &format!("execute b ({slice}, '{token}', '(0,1)', {position}, 200, '{upper}')"))
                    .await;
            run(&session, "rollback; deallocate b").await;
            let mut found = Vec::new();
            scans(&explained["Plan"], table, &mut found);
            let what = format!(
                "{name}, {mode}, from {from:?}, analyzed: {analyzed}, {kind:?}, {batch_mode:?}, {state:?}: {found:?}\n{explained:#}"
            );
            assert!(!found.is_empty(), "{what}");
            // Index entries that a scan skips are not counted as rows, but their pages are counted.
            // Changing a row touches more pages: its old version, its new version, and an entry in
            // each index.
            let each = if kind == BatchKind::Change { 60 } else { 10 };
            assert!(pages(&explained) <= each * 200, "{} pages, {what}", pages(&explained));
            for (node, rows) in &found {
                assert!(node.starts_with("Index"), "{what}");
                assert!(*rows <= 3.0 * 200.0, "{what}");
            }
            if kind != BatchKind::Change {
                most = most.max(pages(&explained));
            }
        }
    }
    most
}

#[tokio::test]
async fn a_checkpoint_costs_no_more_after_many_batches_under_a_pinned_snapshot() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int); insert into t values (1); select backfill.enqueue('j', 't', 'a = 1')").await;
    run(&owner, "select backfill._register_executor('owner', 'owner', true)").await;
    let claim: Value = value(&owner, "select backfill._claim(gen_random_uuid(), array['owner']::name[], '1 h')").await;
    let (slice, token) = (claim["slice"].as_i64().unwrap(), claim["token"].as_str().unwrap().to_owned());
    let pinned = cluster.owner().await;
    run(&pinned, "begin isolation level repeatable read; select count(*) from t").await;
    // Like a worker, the procedure runs one transaction per batch. Each call of `advance` returns
    // the ctid of the checkpoint row, and the procedure passes this ctid to the next call.
    run(&owner, &format!("set synchronous_commit = off; create procedure go(n int, inout place text, inout at int) language plpgsql as $$ begin
        for i in 1..n loop
          select a.new_ctid into place from backfill.advance({slice}, '{token}', place::tid, case when at > 0 then array[at::text] end, array[(at + 1)::text], 1, 1, 0, false) a;
          at := at + 1;
          commit;
        end loop; end $$")).await;
    let mut place = claim["checkpoint_ctid"].as_str().unwrap().to_owned();
    let mut at = 0;
    let mut costs = Vec::new();
    for batches in [10, 20_000] {
        let row = owner.query_one(&format!("call go({batches}, '{place}', {at})"), &[]).await.unwrap();
        (place, at) = (row.get(0), row.get(1));
        // The test uses the cheapest of three consecutive checkpoints, because a checkpoint that
        // reaches the end of a page may cost more.
        let mut cheapest = i64::MAX;
        for _ in 0..3 {
            let from = if at > 0 { format!("array['{at}']") } else { "null".to_owned() };
            run(&owner, "create temp table if not exists answered (place text)").await;
            let explained = explain(&owner, &format!("insert into answered select new_ctid from backfill.advance({slice}, '{token}', '{place}', {from}, array['{}'], 1, 1, 0, false)", at + 1)).await;
            place = value(&owner, "with x as (delete from answered returning place) select place from x").await;
            at += 1;
            cheapest = cheapest.min(pages(&explained));
        }
        costs.push(cheapest);
    }
    println!("pages touched by a checkpoint after 10 and after about 20,000 batches: {costs:?}");
    assert!(costs[1] < 2 * costs[0], "{costs:?}");
    run(&pinned, "commit").await;
}

#[tokio::test]
async fn claiming_costs_the_same_among_a_hundred_thousand_jobs() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int)").await;
    let mut costs = Vec::new();
    for (from, to) in [(1, 10), (11, 100_000)] {
        // For 100,000 jobs, the triggers would take minutes. The test disables them, and inserts
        // the plan slices that they would create.
        run(&owner, &format!("alter table backfill.job disable trigger user; alter table backfill.slice disable trigger user;
            insert into backfill.job (name, relation, target, set_sql, run_as) select 'j' || i, 't'::regclass, 'public.t', 'a = 1', 'owner' from generate_series({from}, {to}) i;
            insert into backfill.slice (job_id, kind, run_as, state) select id, 'plan', 'owner', 'ready' from backfill.job where id >= {from};
            alter table backfill.job enable trigger user; alter table backfill.slice enable trigger user; analyze backfill.job; analyze backfill.slice")).await;
        let mut cheapest = i64::MAX;
        for _ in 0..3 {
            run(&owner, "begin").await;
            let explained =
                explain(&owner, "select backfill._claim(gen_random_uuid(), array['owner', 'nobody']::name[], '1 h')")
                    .await;
            run(&owner, "rollback").await;
            cheapest = cheapest.min(pages(&explained));
        }
        costs.push(cheapest);
    }
    println!("pages touched by a claim among 10 and among 100,000 jobs: {costs:?}");
    assert!(costs[1] < 3 * costs[0], "{costs:?}");
    // With this queue of 100,000 jobs, the daemon's housekeeping also finishes within 5 s.
    run(&owner, "set statement_timeout = '5s'; select backfill._run_housekeeping()").await;
}
