//! Tests of jobs that delete rows.

use backfilld_testbed::cluster::Options;

use crate::support::{SOON, daemon, installed, refused, run, until_state, until_true, value};

#[tokio::test]
async fn a_delete_removes_exactly_the_rows_that_match_and_verifies_it() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int); insert into t select i, i % 10 from generate_series(1, 20000) i;
        create table went (id int); create function note() returns trigger language plpgsql as $$ begin insert into public.went values (old.id); return old; end $$;
        create trigger note before delete on t for each row execute function note();
        select backfill.enqueue_delete('d', 't', 'a < 3', options => '{\"slices\": 3, \"max_batch_rows\": 500}')").await;
    let _daemon = daemon(&cluster).await;
    until_state(&cluster, "d", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t").await, 14_000);
    assert_eq!(value::<i64>(&owner, "select count(*) from t where a < 3").await, 0);
    // The table `went` shows that no row is deleted twice.
    assert_eq!(value::<String>(&owner, "select count(*) || ' ' || count(distinct id) from went").await, "6000 6000");
    let job = "select concat_ws(' ', kind, rows_scanned, rows_changed, rows_unresolved, percent_done, verified_at is not null) from backfill.jobs where name = 'd'";
    assert_eq!(value::<String>(&owner, job).await, "delete 20000 6000 0 100 t");
    run(&owner, "select backfill.assert_complete('d')").await;
    let plan = "select plan ->> 'kind' || ' ' || (plan ->> 'comparable') || ' ' || (plan ->> 'self_reading') from backfill.job where name = 'd'";
    assert_eq!(value::<String>(&owner, plan).await, "delete true false");
}

#[tokio::test]
async fn rows_that_begin_to_match_behind_the_walk_are_swept() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, a int); insert into t select i, 1 from generate_series(1, 3000) i;
        select backfill.enqueue_delete('d', 't', 'a = 1 or id > 2500', options => '{\"max_rows_per_second\": 1500}')",
    )
    .await;
    run(&owner, "update t set a = 2 where id between 1 and 10").await;
    let _daemon = daemon(&cluster).await;
    until_true(&owner, SOON, "select not exists (select from t where id between 11 and 50)").await;
    run(&owner, "update t set a = 1 where id = 1").await;
    until_state(&cluster, "d", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t").await, 9);
    assert!(value::<bool>(&owner, "select exists (select from backfill.events where kind = 'sweep')").await);
}

/// If a filter reads the clock, rows can begin to match at any time. A verification by the filter
/// might therefore never finish.
#[tokio::test]
async fn a_filter_that_reads_the_clock_is_verified_by_coverage() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, at timestamptz not null);
        insert into t select i, now() - interval '1 day' + i * interval '1 millisecond' from generate_series(1, 1000) i;
        insert into t values (1001, now() + interval '1 day');
        select backfill.enqueue_delete('d', 't', $$at < now() - interval '1 hour'$$)",
    )
    .await;
    let _daemon = daemon(&cluster).await;
    until_state(&cluster, "d", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from t").await, 1);
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.slice where kind = 'verify'").await, 0);
    assert!(value::<bool>(&owner, "select verified_at is not null from backfill.jobs").await);
}

#[tokio::test]
async fn a_repeated_delete_finds_its_job_and_an_update_of_that_name_is_another_spec() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table t (id int primary key, a int)").await;
    let id: i64 = value(&owner, "select backfill.enqueue_delete('j', 't', 'a = 1')").await;
    assert_eq!(value::<i64>(&owner, "select backfill.enqueue_delete('j', 't', '  a = 1 ', priority => 9)").await, id);
    let refusal = refused(&owner, "select backfill.enqueue('j', 't', 'a = 1', 'a = 1')").await;
    assert_eq!(
        (refusal.sqlstate.as_str(), refusal.detail.as_deref()),
        (
            "BF002",
            Some("The existing job is of kind delete, and this call is of kind update. The existing job is queued.")
        )
    );
    let arguments: String = value(&owner, "select pg_get_function_arguments('backfill.enqueue_delete'::regproc)").await;
    assert_eq!(
        arguments,
        "name text, target regclass, filter text, key name[] DEFAULT NULL::name[], priority integer DEFAULT 0, run_at timestamp with time zone DEFAULT now(), \
         run_as name DEFAULT NULL::name, needs_approval boolean DEFAULT false, options jsonb DEFAULT '{}'::jsonb"
    );
    // The filter is also checked if a job is inserted directly.
    let refusal = refused(&owner, "insert into backfill.job (name, kind, relation, target, filter_sql, run_as) values ('f', 'delete', 't'::regclass, 't', ' ', 'owner')").await;
    assert_eq!(refusal.sqlstate, "BF001");
}

#[tokio::test]
async fn referencing_tables_need_an_index_and_cascades_are_reported() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table t (id int primary key, a int); create table item (id int primary key, t_id int references t);
        create table log (id int primary key, item_id int references item on delete cascade)",
    )
    .await;
    let call = "select backfill.enqueue_delete('d', 't', 'a = 1')";
    let refusal = refused(&owner, call).await;
    assert_eq!(refusal.message, "foreign key without an index: item_t_id_fkey of public.item");
    assert_eq!(
        refusal.hint.as_deref(),
        Some("Create the index first, outside a transaction block: create index concurrently on public.item (t_id);")
    );
    // After the statement in the hint has run, the call is accepted.
    run(&owner, "create index concurrently on public.item (t_id)").await;
    run(&owner, &format!("begin; {call}; rollback")).await;
    // If the foreign key cascades, the tables that reference the referencing table need an index
    // too.
    run(
        &owner,
        "alter table item drop constraint item_t_id_fkey, add foreign key (t_id) references t on delete cascade",
    )
    .await;
    assert_eq!(refused(&owner, call).await.message, "foreign key without an index: log_item_id_fkey of public.log");
    run(&owner, "create index on log (item_id) where item_id is not null").await;
    let output = tokio::process::Command::new(crate::support::BACKFILLD)
        .args(["enqueue", "d", "--target", "t", "--delete", "--filter", "a = 1"])
        .env("BACKFILLD_DATABASE_URL", cluster.owner_url())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("warning: rows of public.item are deleted together with the rows of public.t that they refer to"),
        "{said}"
    );
    assert!(said.contains("warning: rows of public.log are deleted together with the rows of public.item"), "{said}");
    // A table that references itself needs the index too.
    run(&owner, "create table tree (id int primary key, up int references tree)").await;
    assert!(
        refused(&owner, "select backfill.enqueue_delete('s', 'tree', 'id > 3')").await.hint.unwrap().contains("(up)")
    );
}
