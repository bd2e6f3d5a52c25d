//! Tests with an application that writes to a table while a job changes the table. Each of eight
//! writers records its committed writes in a book, and a check compares the table with the books.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::wait;
use tokio::task::JoinSet;
use tokio_postgres::{Client, IsolationLevel};

use crate::proof::{Dice, enqueue, quick, until_more_batches};
use crate::support::{SOON, installed, run, sql, until_state, value};

const WRITERS: i64 = 8;
/// Number of rows before the writers begin. The keys are 3, 6, 9, ..., so that the writers can
/// insert keys between them.
const ROWS: i64 = 12_000;
/// The amount that the application adds in one change. The job adds 1.
const BUMP: i64 = 1000;

/// One write in a transaction of the application. The writer records it after the server has
/// acknowledged the commit.
#[derive(Debug, Clone, Copy)]
enum Write {
    /// `before_planning` means that the commit was acknowledged before the job was enqueued.
    Insert {
        id: i64,
        before_planning: bool,
    },
    Bump {
        id: i64,
    },
    /// Changes a column that the job does not change.
    Side {
        id: i64,
    },
    Delete {
        id: i64,
    },
    Move {
        from: i64,
        to: i64,
    },
}

/// State that the writers share.
#[derive(Debug)]
struct Application {
    over: AtomicBool,
    enqueued: AtomicBool,
    /// The approximate position of one of the slices. Half of the keys are chosen near it.
    front: AtomicI64,
}

impl Application {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            over: AtomicBool::new(false),
            enqueued: AtomicBool::new(false),
            front: AtomicI64::new(ROWS * 3 / 2),
        })
    }

    fn is_running(&self) -> bool {
        !self.over.load(Ordering::SeqCst)
    }

    /// Returns a key of the walked range. At first, every third key has a row.
    fn some_key(&self, dice: &mut Dice) -> i64 {
        let roll = |dice: &mut Dice, low: i64, high: i64| dice.roll(low as u64, high as u64) as i64;
        if dice.roll(0, 1) == 0 {
            roll(dice, 1, ROWS * 3)
        } else {
            (self.front.load(Ordering::SeqCst) + roll(dice, 0, 900) - 300).clamp(1, ROWS * 3)
        }
    }
}

/// Follows the position of the walk, so that writers and batches change the same rows.
async fn follow(client: Client, application: Arc<Application>) {
    let mut dice = Dice::new();
    while application.is_running() {
        let positions: Vec<i64> = client
            .query("select position[1]::bigint from backfill.slices where name = 'walked' and position is not null and state = 'leased'", &[])
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        if !positions.is_empty() {
            let one = positions[dice.roll(0, positions.len() as u64 - 1) as usize];
            application.front.store(one, Ordering::SeqCst);
        }
        tokio::task::yield_now().await;
    }
}

/// Runs transactions of one to three writes, and rolls some of the transactions back. Each
/// transaction makes its writes in key order.
async fn write(number: i64, mut client: Client, application: Arc<Application>) -> Vec<Write> {
    let (mut dice, mut book) = (Dice::new(), Vec::new());
    // Counts the keys that only this writer uses: keys below the range, keys above it, and the new
    // keys of moved rows.
    let mut fresh = 0;
    while application.is_running() {
        let mut keys: Vec<i64> = (0..dice.roll(1, 3)).map(|_| application.some_key(&mut dice) / 3 * 3).collect();
        keys.sort_unstable();
        keys.dedup();
        let transaction = client.transaction().await.unwrap();
        let mut page = Vec::new();
        for id in keys {
            let did = match dice.roll(0, 19) {
                0..=8 => {
                    // Sometimes use a key at which the application may have inserted a row.
                    let id = id + i64::from(dice.roll(0, 3) == 0);
                    let bump = "update walked set n = n + 1000 where id = $1";
                    (transaction.execute(bump, &[&id]).await.unwrap() == 1).then_some(Write::Bump { id })
                }
                // Like an application that reads a row, computes a value and writes it.
                9..=10 => {
                    let read = transaction.query_opt("select n from walked where id = $1 for update", &[&id]).await;
                    match read.unwrap().map(|row| row.get::<_, i64>(0)) {
                        Some(n) => {
                            let write = "update walked set n = $2 where id = $1";
                            transaction.execute(write, &[&id, &(n + BUMP)]).await.unwrap();
                            Some(Write::Bump { id })
                        }
                        None => None,
                    }
                }
                11..=13 => {
                    let side = "update walked set m = m + 1 where id = $1";
                    (transaction.execute(side, &[&id]).await.unwrap() == 1).then_some(Write::Side { id })
                }
                14..=16 => {
                    // Insert a row below the walked range, above it, or after one of the original
                    // keys.
                    fresh += 1;
                    let id = match dice.roll(0, 3) {
                        0 => -(fresh * WRITERS + number),
                        1 => ROWS * 3 + fresh * WRITERS + number,
                        _ => id + 1,
                    };
                    let insert = "insert into walked (id) values ($1) on conflict do nothing";
                    (transaction.execute(insert, &[&id]).await.unwrap() == 1)
                        .then_some(Write::Insert { id, before_planning: false })
                }
                17 | 18 => {
                    let delete = "delete from walked where id = $1";
                    (transaction.execute(delete, &[&id]).await.unwrap() == 1).then_some(Write::Delete { id })
                }
                _ => {
                    fresh += 1;
                    let far = 10_000_000 + fresh * WRITERS + number;
                    let to = if dice.roll(0, 1) == 0 { far } else { -far };
                    let update = "update walked set id = $2 where id = $1";
                    (transaction.execute(update, &[&id, &to]).await.unwrap() == 1)
                        .then_some(Write::Move { from: id, to })
                }
            };
            page.extend(did);
        }
        if dice.roll(0, 9) == 0 {
            transaction.rollback().await.unwrap();
            continue;
        }
        transaction.commit().await.unwrap();
        let before_planning = !application.enqueued.load(Ordering::SeqCst);
        book.extend(page.into_iter().map(|write| match write {
            Write::Insert { id, .. } => Write::Insert { id, before_planning },
            other => other,
        }));
    }
    book
}

/// The expected state of a row according to the writers' records (books), without the job's
/// changes.
#[derive(Debug, Clone, Copy, Default)]
struct Expected {
    bumps: i64,
    sides: i64,
    late: bool,
    moved: bool,
}

fn expected(books: &[Write]) -> BTreeMap<i64, Expected> {
    let mut rows: BTreeMap<i64, Expected> = (1..=ROWS).map(|i| (i * 3, Expected::default())).collect();
    for write in books {
        if let Write::Insert { id, before_planning } = *write {
            rows.insert(id, Expected { late: !before_planning, ..Expected::default() });
        }
    }
    // A change is counted under the key that the row had at the time of the change. The counts of a
    // row move with the row to its new key.
    let count = |rows: &mut BTreeMap<i64, Expected>, id: i64, change: fn(&mut Expected)| {
        change(rows.entry(id).or_default());
    };
    for write in books {
        match *write {
            Write::Bump { id } => count(&mut rows, id, |row| row.bumps += 1),
            Write::Side { id } => count(&mut rows, id, |row| row.sides += 1),
            _ => {}
        }
    }
    for write in books {
        if let Write::Move { from, to } = *write {
            let old = rows.remove(&from).unwrap();
            let new = rows.remove(&to).unwrap_or_default();
            let both = Expected { bumps: old.bumps + new.bumps, sides: old.sides + new.sides, moved: true, ..old };
            rows.insert(to, both);
        }
    }
    for write in books {
        if let Write::Delete { id } = write {
            rows.remove(id);
        }
    }
    rows
}

/// Returns everything that is wrong with the table.
async fn judge(client: &Client, books: &[Write]) -> Vec<String> {
    let mut found: BTreeMap<i64, (i64, i64)> = client
        .query("select id, n, m from walked", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get(0), (row.get(1), row.get(2))))
        .collect();
    let mut wrong = Vec::new();
    for (id, row) in expected(books) {
        let Some((n, m)) = found.remove(&id) else {
            wrong.push(format!("row {id} is missing"));
            continue;
        };
        let (by_job, by_application) = (n.rem_euclid(BUMP), n.div_euclid(BUMP));
        if by_application != row.bumps || m != row.sides {
            wrong.push(format!("row {id}: an update was lost: {n} and {m}, {row:?}"));
        }
        match by_job {
            _ if row.moved => {}
            1 => {}
            0 if row.late => {}
            0 => wrong.push(format!("row {id} was never changed: {row:?}")),
            times => wrong.push(format!("row {id} was changed {times} times: {row:?}")),
        }
    }
    wrong.extend(found.keys().map(|id| format!("row {id} exists, but it was deleted or never inserted")));
    wrong
}

async fn table(cluster: &Cluster) {
    let made = format!(
        "create table walked (id bigint primary key, n bigint not null default 0, m bigint not null default 0) with (fillfactor = 80);
         insert into walked select i * 3 from generate_series(1, {ROWS}) i;
         create table step (one bigint not null); insert into step values (1)"
    );
    sql(cluster, &made).await;
}

/// Lets the application write while `walk` runs. `walk` starts after the first writes and sets
/// `enqueued` just before it enqueues the job. Returns two values: a list of everything that is
/// wrong with the table, and the books (all committed writes).
async fn under_writers(cluster: &Cluster, walk: impl AsyncFnOnce(&Client, &Application)) -> (Vec<String>, Vec<Write>) {
    let application = Application::new();
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        writers.spawn(write(number, cluster.owner().await, Arc::clone(&application)));
    }
    let following = tokio::spawn(follow(cluster.owner().await, Arc::clone(&application)));
    let owner = cluster.owner().await;
    wait::until(SOON, "the application writes", async || {
        value::<i64>(&owner, "select count(*) from walked where n > 0").await > 100
    })
    .await;
    walk(&owner, &application).await;
    application.over.store(true, Ordering::SeqCst);
    let mut books = Vec::new();
    while let Some(book) = writers.join_next().await {
        books.extend(book.unwrap());
    }
    following.await.unwrap();
    (judge(&owner, &books).await, books)
}

fn assert_right(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} problems, for example: {:#?}", wrong.len(), &wrong[..wrong.len().min(10)]);
}

/// Runs a job of four slices with two daemons while eight writers change the same rows. One of the
/// daemons is killed and restarted.
async fn walk_under_writers(set: &str) {
    let cluster = installed(Options::default()).await;
    table(&cluster).await;
    let (wrong, books) = under_writers(&cluster, async |owner, application| {
        let mut daemons = [quick(&cluster.owner_url()).start(), quick(&cluster.owner_url()).start()];
        application.enqueued.store(true, Ordering::SeqCst);
        enqueue(&cluster, "walked", set, r#"{"slices": 4, "max_rows_per_second": 4000, "max_batch_rows": 80}"#).await;
        until_more_batches(owner, "walked", 20).await;
        daemons[0].sigkill();
        daemons[0] = quick(&cluster.owner_url()).start();
        until_state(&cluster, "walked", "succeeded", SOON * 2).await;
    })
    .await;
    assert_right(&wrong);
    let late = books.iter().filter(|write| matches!(write, Write::Insert { before_planning: false, .. })).count();
    let early = books.iter().filter(|write| matches!(write, Write::Insert { before_planning: true, .. })).count();
    assert!(late > 0 && early > 0, "rows inserted before the job {early}, during it {late}");
    let owner = cluster.owner().await;
    let met = "select count(*) from walked where n > 1000 and n % 1000 = 1";
    assert!(value::<i64>(&owner, met).await > 100, "the job and the application changed too few of the same rows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_row_is_changed_once_and_no_update_is_lost_under_eight_writers() {
    walk_under_writers("n = n + 1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_row_is_changed_once_and_no_update_is_lost_under_eight_writers_in_repeatable_read() {
    walk_under_writers("n = n + (select one from step)").await;
}

/// Shows that the check can fail. A backfill loses updates if it reads rows and later writes values
/// that it has computed from them. A backfill that passes a range twice changes rows twice. A
/// backfill that stops early misses rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proof_detects_a_careless_backfill_under_eight_writers() {
    let cluster = installed(Options::default()).await;
    table(&cluster).await;
    let (wrong, _) = under_writers(&cluster, async |owner, application| {
        application.enqueued.store(true, Ordering::SeqCst);
        // With these settings, the update locks rows in the order of the key. The writers use the
        // same order. Deadlocks are not the subject of this test.
        run(owner, "set enable_seqscan = off; set enable_bitmapscan = off; set enable_hashjoin = off; set enable_mergejoin = off").await;
        for first in (0..ROWS * 3).step_by(600) {
            application.front.store(first + 300, Ordering::SeqCst);
            let last = first + 600;
            let read = "select id, n from walked where id > $1 and id <= $2 order by id";
            let rows = owner.query(read, &[&first, &last]).await.unwrap();
            let (ids, numbers): (Vec<i64>, Vec<i64>) =
                rows.iter().map(|row| (row.get::<_, i64>(0), row.get::<_, i64>(1))).unzip();
            let write = "update walked w set n = r.n + 1 from unnest($1::bigint[], $2::bigint[]) r(id, n) where w.id = r.id";
            owner.execute(write, &[&ids, &numbers]).await.unwrap();
        }
        // Change one range twice, and undo the changes to another range.
        run(owner, "update walked set n = n + 1 where id between 3000 and 3600; update walked set n = n - 1 where id between 6000 and 6600 and n % 1000 = 1").await;
    })
    .await;
    for what in ["an update was lost", "was changed 2 times", "was never changed"] {
        assert!(wrong.iter().any(|line| line.contains(what)), "the check did not detect: {what}");
    }
}

const ORDERS: i64 = 2_000;

/// Creates orders whose total is null, and three items for each order. The job must set each total
/// to the sum of the order's items. Once an order has a total, the application maintains the total.
async fn orders(cluster: &Cluster) {
    let made = format!(
        "create table orders (id bigint primary key, total bigint, fills int not null default 0, writes bigint not null default 0);
         create table items (id bigint generated always as identity primary key, order_id bigint not null references orders on delete cascade, amt bigint not null);
         insert into orders select i * 3 from generate_series(1, {ORDERS}) i;
         insert into items (order_id, amt) select o.id, j from orders o, generate_series(1, 3) j;
         create index on items (order_id)"
    );
    sql(cluster, &made).await;
}

/// The records of a writer of orders: how often it wrote to each order, and which orders it
/// created.
#[derive(Debug, Default)]
struct OrderBook {
    writes: BTreeMap<i64, i64>,
    made: BTreeSet<i64>,
}

async fn write_orders(number: i64, mut client: Client, application: Arc<Application>) -> OrderBook {
    let (mut dice, mut book) = (Dice::new(), OrderBook::default());
    let mut fresh = 0;
    while application.is_running() {
        let order = dice.roll(1, ORDERS as u64) as i64 * 3;
        let amount = dice.roll(1, 50) as i64;
        // The application's own transactions use both isolation levels.
        let level = if dice.roll(0, 2) == 0 { IsolationLevel::RepeatableRead } else { IsolationLevel::ReadCommitted };
        let transaction = client.build_transaction().isolation_level(level).start().await.unwrap();
        let made = async {
            match dice.roll(0, 9) {
                0 => {
                    fresh += 1;
                    let id = (fresh * WRITERS + number) * 3 + 1;
                    transaction.execute("insert into orders (id, total) values ($1, $2)", &[&id, &amount]).await?;
                    transaction.execute("insert into items (order_id, amt) values ($1, $2)", &[&id, &amount]).await?;
                    return Ok((id, 0, 1));
                }
                1 => {
                    transaction.execute("delete from orders where id = $1", &[&order]).await?;
                    return Ok((order, 0, 0));
                }
                // Some transactions first change the row in `orders`, and others first change a row
                // in `items`.
                2..=4 => {
                    let add = "update orders set total = total + $2, writes = writes + 1 where id = $1";
                    if transaction.execute(add, &[&order, &amount]).await? == 0 {
                        return Ok((order, 0, 0));
                    }
                    transaction
                        .execute("insert into items (order_id, amt) values ($1, $2)", &[&order, &amount])
                        .await?;
                }
                5..=7 => {
                    let more =
                        "update items set amt = amt + $2 where id = (select min(id) from items where order_id = $1)";
                    if transaction.execute(more, &[&order, &amount]).await? == 0 {
                        return Ok((order, 0, 0));
                    }
                    let add = "update orders set total = total + $2, writes = writes + 1 where id = $1";
                    transaction.execute(add, &[&order, &amount]).await?;
                }
                _ => {
                    let less =
                        "delete from items where id = (select max(id) from items where order_id = $1) returning amt";
                    let Some(gone) = transaction.query_opt(less, &[&order]).await? else { return Ok((order, 0, 0)) };
                    let gone: i64 = gone.get(0);
                    let subtract = "update orders set total = total - $2, writes = writes + 1 where id = $1";
                    transaction.execute(subtract, &[&order, &gone]).await?;
                }
            }
            Ok::<_, tokio_postgres::Error>((order, 1, 0))
        }
        .await;
        match made {
            Ok((id, writes, orders)) => {
                transaction.commit().await.unwrap();
                *book.writes.entry(id).or_default() += writes;
                if orders > 0 {
                    book.made.insert(id);
                }
            }
            // A writer may conflict with another writer or with the job. The writer then gets a
            // serialization failure or a deadlock, or finds that its order has been deleted.
            Err(error) => {
                let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
                assert!(["40001", "40P01", "23503"].contains(&code.as_str()), "{error:?}");
                transaction.rollback().await.unwrap();
            }
        }
    }
    book
}

/// Compares the orders with their items and with the writes of the application. Also checks how
/// often each order was filled. Returns everything that is wrong.
async fn judge_orders(owner: &Client, books: &[OrderBook]) -> Vec<String> {
    let made: BTreeSet<i64> = books.iter().flat_map(|book| book.made.iter().copied()).collect();
    let rows = owner
        .query("select o.id, o.total, o.fills, o.writes, (select sum(amt)::bigint from items i where i.order_id = o.id) from orders o", &[])
        .await
        .unwrap();
    let mut wrong = Vec::new();
    for row in rows {
        let (id, total, fills, writes, sum): (i64, Option<i64>, i32, i64, Option<i64>) =
            (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4));
        // After the last item of an order is deleted, the total is 0, because the item's amount was
        // subtracted. However, the sum over no rows is null.
        if total.unwrap_or(0) != sum.unwrap_or(0) {
            wrong.push(format!("order {id}: the total is {total:?}, its items are {sum:?}"));
        }
        let committed: i64 = books.iter().filter_map(|book| book.writes.get(&id)).sum();
        if writes != committed {
            wrong.push(format!("order {id}: {writes} of {committed} writes are recorded in the row"));
        }
        if fills != 1 && !(fills == 0 && made.contains(&id)) {
            wrong.push(format!("order {id} was filled {fills} times"));
        }
    }
    wrong
}

async fn under_order_writers(cluster: &Cluster, walk: impl AsyncFnOnce(&Client)) -> (Client, Vec<OrderBook>) {
    let application = Application::new();
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        writers.spawn(write_orders(number, cluster.owner().await, Arc::clone(&application)));
    }
    let owner = cluster.owner().await;
    wait::until(SOON, "the application writes", async || {
        value::<i64>(&owner, "select count(*) from orders where writes > 0").await > 50
    })
    .await;
    walk(&owner).await;
    application.over.store(true, Ordering::SeqCst);
    let mut books = Vec::new();
    while let Some(book) = writers.join_next().await {
        books.push(book.unwrap());
    }
    (owner, books)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_total_of_other_rows_misses_no_write_of_eight_writers() {
    let cluster = installed(Options::default()).await;
    orders(&cluster).await;
    let (owner, books) = under_order_writers(&cluster, async |_| {
        let _daemons = [quick(&cluster.owner_url()).start(), quick(&cluster.owner_url()).start()];
        enqueue(
            &cluster,
            "orders",
            // `coalesce` sets the total of an order without items to 0, because the application
            // could not add to a null total.
            "total = (select coalesce(sum(i.amt), 0) from items i where i.order_id = orders.id), fills = fills + 1",
            r#"{"slices": 3, "max_rows_per_second": 600, "max_batch_rows": 60}"#,
        )
        .await;
        until_state(&cluster, "orders", "succeeded", SOON * 2).await;
    })
    .await;
    assert_right(&judge_orders(&owner, &books).await);
}

/// Shows that the check can fail. At READ COMMITTED, an update that has waited for a writer uses
/// the current version of the order's row. However, the update still computes the sum from the
/// items as they were before the writer's change (P4).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proof_detects_a_total_of_other_rows_in_read_committed() {
    let cluster = installed(Options::default()).await;
    orders(&cluster).await;
    let (owner, books) = under_order_writers(&cluster, async |owner| {
        let fill = "update orders set total = (select sum(i.amt) from items i where i.order_id = orders.id), fills = 1";
        let missed = "select exists (select from orders o where total <> (select sum(amt) from items i where i.order_id = o.id))";
        wait::until(SOON, "a write of the application is missed", async || {
            // In a deadlock with a writer, one of the two sessions fails.
            let _ = owner.batch_execute(fill).await;
            value::<bool>(owner, missed).await
        })
        .await;
    })
    .await;
    let wrong = judge_orders(&owner, &books).await;
    assert!(
        wrong.iter().any(|line| line.contains("the total is")),
        "the check did not detect a lost update: {wrong:?}"
    );
}
