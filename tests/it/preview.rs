//! Tests of `backfill.preview`, `backfilld preview` and `enqueue --dry-run`.

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::standby::Standby;
use tokio_postgres::Client;

use crate::support::{BACKFILLD, SOON, installed, refused, run, value};

async fn items(client: &Client, call: &str) -> Vec<(String, String)> {
    let rows = client
        .query(&format!("select item, value from backfill.{call}"), &[])
        .await
        .unwrap_or_else(|error| panic!("{call}: {error:?}"));
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn of<'a>(items: &'a [(String, String)], item: &str) -> Vec<&'a str> {
    items.iter().filter(|(name, _)| name == item).map(|(_, text)| text.as_str()).collect()
}

async fn shop(cluster: &Cluster) -> Client {
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table orders (id bigint primary key, total numeric not null, cents bigint, state text);
        insert into orders select i, i / 4.0, case when i % 4 = 0 then 1 end, 'new' from generate_series(1, 20000) i;
        create index orders_cents on orders (cents); analyze orders;
        create function touch() returns trigger language plpgsql as $$ begin raise exception 'fired'; end $$;
        create trigger touch before update of cents on orders for each row execute function touch()",
    )
    .await;
    owner
}

#[tokio::test]
async fn a_preview_shows_rows_time_wal_triggers_and_values_and_changes_nothing() {
    let cluster = installed(Options::default()).await;
    let owner = shop(&cluster).await;
    run(&owner, "begin").await;
    let shown = items(
        &owner,
        "preview('orders', 'cents = round(total * 100)', 'cents is null', options => '{\"max_rows_per_second\": 10}')",
    )
    .await;
    assert_eq!(of(&shown, "would do"), ["update public.orders set cents = round(total * 100) where cents is null"]);
    assert_eq!(of(&shown, "walks"), ["id, by index public.orders_pkey"]);
    assert!(of(&shown, "table")[0].starts_with("about 20,000 rows"), "{shown:?}");
    assert!(
        of(&shown, "rows to update")[0].starts_with("about 15,0")
            || of(&shown, "rows to update")[0].starts_with("about 14,9"),
        "{shown:?}"
    );
    assert_eq!(of(&shown, "time").len(), 1);
    assert!(of(&shown, "time")[0].ends_with("at 10 rows a second (max_rows_per_second)"), "{shown:?}");
    assert_eq!(of(&shown, "triggers"), ["touch (before each row), function public.touch"]);
    assert!(
        of(&shown, "warning").iter().any(|w| w.contains("public.orders_cents is on an assigned column")),
        "{shown:?}"
    );
    assert!(of(&shown, "warning").iter().any(|w| w.contains("no daemon is running")), "{shown:?}");
    assert!(of(&shown, "plan of a batch")[0].contains("Index Scan using orders_pkey"), "{shown:?}");
    let rows: Vec<_> = shown.iter().filter(|(item, _)| item.starts_with("row ")).collect();
    assert_eq!(rows.len(), 5, "{shown:?}");
    // For the row with id n, the preview shows n, the old value of cents (null) and the new value
    // (n * 25).
    let id: i64 = rows[0].1.split(['=', ':']).nth(1).unwrap().trim().parse().unwrap();
    assert_eq!(rows[0].1, format!("id = {id}: cents = null\n-> cents = {}", id * 25));
    assert!(
        value::<bool>(&owner, "select pg_current_xact_id_if_assigned() is null").await,
        "a preview wrote something"
    );
    run(&owner, "commit").await;

    // A value that cannot be computed is reported in its row, and the other rows are shown.
    let shown = items(&owner, "preview('orders', 'state = repeat(''x'', (1 / (id % 2))::int)', 'id <= 20000')").await;
    let rows: Vec<_> =
        shown.iter().filter(|(item, _)| item.starts_with("row ")).map(|(_, text)| text.as_str()).collect();
    assert!(
        rows.iter().any(|row| row.ends_with("-> fails: division by zero"))
            && rows.iter().any(|row| row.ends_with("-> state = \"x\"")),
        "{rows:?}"
    );
    // Assign several columns from a select and from a row constructor.
    for set in [
        "(cents, state) = (select o.id, ''b'' from orders o where o.id = orders.id)",
        "(cents, state) = (orders.id, ''b'')",
        "(cents, state) = row(id, ''b'')",
    ] {
        let shown = items(&owner, &format!("preview('orders', '{set}')")).await;
        let id: i64 = of(&shown, "row 1")[0].split(['=', ':']).nth(1).unwrap().trim().parse().unwrap();
        assert!(of(&shown, "row 1")[0].ends_with(&format!("-> cents = {id}, state = \"b\"")), "{shown:?}");
        assert_eq!(
            of(&shown, "warning").iter().any(|w| w.contains("REPEATABLE READ")),
            set.contains("select"),
            "{shown:?}"
        );
    }
    // Preview a delete.
    let shown = items(&owner, "preview('orders', null, 'id < 5000')").await;
    assert_eq!(of(&shown, "would do"), ["delete from public.orders where id < 5000"]);
    assert!(of(&shown, "plan of a batch")[0].starts_with("Delete on orders"), "{shown:?}");
    assert!(of(&shown, "triggers").is_empty());
    // The trigger of a partitioned table is listed once. The triggers of its foreign key are not
    // listed.
    let lots = "create table lots (id int primary key, n int, parent int references lots) partition by hash (id);
        create table lots_0 partition of lots for values with (modulus 2, remainder 0);
        create table lots_1 partition of lots for values with (modulus 2, remainder 1);
        create trigger touch before update on lots for each row execute function touch()";
    run(&owner, lots).await;
    let shown = items(&owner, "preview('lots', 'parent = 1')").await;
    assert_eq!(of(&shown, "triggers"), ["touch (before each row), function public.touch"]);
    // The preview is refused with the same error as a call of enqueue.
    for (set, filter) in
        [("'nope = 1'", "null"), ("'id = 1'", "null"), ("'cents = 1'", "'nope is null'"), ("'cents ='", "null")]
    {
        let preview = refused(&owner, &format!("select * from backfill.preview('orders', {set}, {filter})")).await;
        let enqueue = if set == "null" {
            format!("select backfill.enqueue_delete('j', 'orders', {filter})")
        } else {
            format!("select backfill.enqueue('j', 'orders', {set}, {filter})")
        };
        assert_eq!(preview, refused(&owner, &enqueue).await, "{set} {filter}");
    }
}

#[tokio::test]
async fn expressions_in_a_preview_run_as_the_caller_and_cannot_write() {
    let cluster = installed(Options::default()).await;
    let owner = shop(&cluster).await;
    run(&owner, "create table spoils (who text); create sequence s; grant all on spoils, s to public;
        create function take(n bigint) returns bigint language plpgsql volatile as $$ begin insert into public.spoils values (current_user); return n; end $$").await;
    cluster.sql("postgres", "app", "create role clerk login in role backfill_submitter; create table mine (id int primary key, c bigint); insert into mine select generate_series(1, 10); alter table mine owner to clerk").await;
    let clerk = cluster.client("clerk", "app").await;
    for set in ["c = take(id)", "c = nextval(''s'')"] {
        let shown = items(&clerk, &format!("preview('mine', '{set}')")).await;
        assert!(of(&shown, "row 1")[0].contains("in a read-only transaction"), "{shown:?}");
    }
    assert_eq!(value::<i64>(&owner, "select count(*) from spoils").await, 0);
    assert!(!value::<bool>(&owner, "select is_called from s").await);
    // A preview is refused if the caller is not allowed to read the table.
    assert_eq!(refused(&clerk, "select * from backfill.preview('orders', 'cents = 1')").await.sqlstate, "BF001");
    // The preview has restored the settings of the session.
    assert_eq!(value::<String>(&clerk, "select concat_ws(' ', current_setting('transaction_read_only'), current_setting('search_path'), current_setting('enable_seqscan'), current_setting('row_security'))").await, "off \"$user\", public on on");
    // A filter that fails on a row of the sample is reported.
    let shown = items(&clerk, "preview('mine', 'c = 1', '1 / (id - 5) > 0')").await;
    assert!(of(&shown, "warning").iter().any(|w| w.contains("division by zero")), "{shown:?}");
}

#[tokio::test]
async fn a_preview_works_on_an_empty_table_in_a_read_only_transaction_and_on_a_standby() {
    let cluster = installed(Options::default()).await;
    let owner = shop(&cluster).await;
    run(&owner, "create table none (id int primary key, a int)").await;
    let shown = items(&owner, "preview('none', 'a = 1', 'a is null')").await;
    assert_eq!(of(&shown, "rows to update"), ["none in a sample of 0"]);
    run(&owner, "begin read only").await;
    assert!(of(&items(&owner, "preview('orders', 'cents = 1')").await, "rows to update")[0].contains("all"));
    run(&owner, "rollback").await;
    let standby = Standby::of(&cluster).await;
    standby.wait_caught_up(SOON).await;
    let there = standby.client("owner", "app").await;
    assert_eq!(
        items(&there, "preview('orders', 'cents = 1')")
            .await
            .iter()
            .filter(|(item, _)| item.starts_with("row "))
            .count(),
        5
    );
}

#[tokio::test]
async fn the_command_line_shows_a_preview_and_a_dry_run_enqueues_nothing() {
    let cluster = installed(Options::default()).await;
    let owner = shop(&cluster).await;
    let run_it = async |words: &[&str]| {
        let output = tokio::process::Command::new(BACKFILLD)
            .args(words)
            .env("BACKFILLD_DATABASE_URL", cluster.owner_url())
            .output()
            .await
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    };
    let job = ["--target", "orders", "--set", "cents = 1", "--filter", "cents is null"];
    let (code, page, _) = run_it(&[&["preview"][..], &job].concat()).await;
    assert_eq!(code, 0);
    assert!(page.starts_with("would do          update public.orders set cents = 1 where cents is null\n"), "{page}");
    let (code, page, _) = run_it(&[&["preview", "--json"][..], &job].concat()).await;
    let object: serde_json::Value = serde_json::from_str(&page).unwrap();
    assert_eq!(code, 0);
    // The number of rows is estimated from a sample.
    assert!((14_500..=15_500).contains(&object["rows_matching"].as_i64().unwrap()), "{page}");
    assert_eq!(object["rows"].as_array().unwrap().len(), 5);
    let (code, page, said) = run_it(&[&["enqueue", "o", "--dry-run"][..], &job].concat()).await;
    assert_eq!(code, 0, "{said}");
    assert!(
        page.starts_with("job               \"o\" does not exist yet\n")
            && said.contains("dry run: no job was enqueued"),
        "{page}{said}"
    );
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.job").await, 0);
    run(&owner, "select backfill.enqueue('o', 'orders', 'cents = 2', 'cents is null')").await;
    let (code, _, said) = run_it(&[&["enqueue", "o", "--dry-run"][..], &job].concat()).await;
    assert!(code == 1 && said.contains("already exists with a different definition"), "{said}");
    let (code, _, said) = run_it(&["preview", "--target", "orders", "--set", "nope = 1"]).await;
    assert!(code == 1 && said.contains("hint: Add the column to the table first"), "{said}");
}
