//! The application, which writes before the job and while the job runs. It inserts, updates and
//! deletes rows, and changes keys. It records its committed writes. This record is called the book.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio_postgres::{Client, Transaction};

use crate::model::case::{Case, Form};
use crate::model::key::{one_in, quote};
use crate::proof::Dice;

/// The entry of one row in the book. No field depends on the order in which the writers changed the
/// row.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The row is known to have been committed before the job was enqueued.
    pub promised: bool,
    /// An acknowledged commit inserted the row. The row may have been deleted later.
    pub inserted: bool,
    pub bumps: i64,
    pub sides: i64,
    pub moved: bool,
    pub deleted: bool,
    /// The application inserted the row with a value in `c`, or updated `c` together with `src`.
    pub filled: bool,
    /// The last time at which the application inserted the row, changed the row's key or set `c` to
    /// null. After such a write, the job may have to change the row.
    pub needy_since: Option<SystemTime>,
    pub emptied: bool,
}

pub type Book = BTreeMap<i64, Report>;

#[derive(Debug, Default)]
pub struct Signals {
    pub over: AtomicBool,
    pub enqueued: AtomicBool,
}

#[derive(Debug, Clone, Copy)]
enum Write {
    Inserted {
        filled: bool,
    },
    Bumped,
    Sided,
    Moved,
    Deleted,
    Emptied,
    /// `src` changed. If `c` was not null, the same write also changed `c`.
    Synced,
}

/// Runs the number of transactions that the case specifies for each writer, or stops early if
/// `over` is set.
pub async fn write(case: Arc<Case>, number: u64, mut client: Client, signals: Arc<Signals>, most: i64) -> Book {
    let dice = &mut Dice::of(case.seed.wrapping_mul(31) + number + 1);
    let (mut book, mut last, mut fresh) = (Book::new(), most, 1_000_000 * i64::try_from(number + 1).unwrap());
    for _ in 0..case.writes {
        if signals.over.load(Ordering::SeqCst) {
            break;
        }
        let transaction = client.transaction().await.unwrap();
        let mut page = Vec::new();
        let mut failed = None;
        for _ in 0..*crate::model::key::pick(dice, &[1, 1, 1, 3]) {
            fresh += 1;
            match one(&case, dice, &transaction, fresh, last).await {
                Ok(done) => page.extend(done),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        if let Some(error) = failed {
            // Two errors are allowed: a duplicate key, and a deadlock between two writers. In a
            // deadlock between a batch and a writer, the batch reaches its timeout before the
            // server detects the deadlock, so the writer gets no error (P16).
            let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
            // In a partitioned table, a serialization failure is allowed too: another writer may
            // have moved the row to another partition.
            let moved = case.partitioned && code == "40001";
            assert!(moved || ["23505", "40P01"].contains(&code.as_str()), "{}: {error:?}", case.describe());
            transaction.rollback().await.unwrap();
        } else if one_in(dice, 12) {
            transaction.rollback().await.unwrap();
        } else {
            transaction.commit().await.unwrap();
            let promised = !signals.enqueued.load(Ordering::SeqCst);
            for (tag, write) in page {
                if matches!(write, Write::Inserted { .. }) {
                    last = tag;
                }
                note(book.entry(tag).or_default(), write, promised, SystemTime::now());
            }
        }
        // The application pauses between transactions, so that its writes are spread over the whole
        // walk.
        tokio::time::sleep(Duration::from_millis(dice.roll(0, 12))).await;
    }
    book
}

fn note(row: &mut Report, write: Write, promised: bool, at: SystemTime) {
    match write {
        Write::Inserted { filled } => {
            row.inserted = true;
            row.promised = promised;
            row.filled |= filled;
            row.needy_since = row.needy_since.max(Some(at));
        }
        Write::Bumped => row.bumps += 1,
        Write::Sided => row.sides += 1,
        Write::Moved => {
            row.moved = true;
            row.needy_since = row.needy_since.max(Some(at));
        }
        Write::Deleted => row.deleted = true,
        Write::Emptied => {
            row.emptied = true;
            row.needy_since = row.needy_since.max(Some(at));
        }
        Write::Synced => row.filled = true,
    }
}

/// Updates up to three rows, deletes a row, or inserts a row with the tag `fresh`. `last` is the
/// tag of the newest row that this writer inserted. Before the writer's first insert, `last` is the
/// highest initial tag.
async fn one(
    case: &Case,
    dice: &mut Dice,
    transaction: &Transaction<'_>,
    fresh: i64,
    last: i64,
) -> Result<Vec<(i64, Write)>, tokio_postgres::Error> {
    let target = &case.target;
    // Sometimes use the newest row that this writer inserted.
    let tag = if last > 0 && one_in(dice, 6) { last } else { i64::try_from(dice.roll(1, 1500)).unwrap() };
    let tag = if last < 1_000_000 { tag.min(last.max(1)) } else { tag };
    let where_tag = format!("where tag = {tag}");
    let changed = async |set: &str| {
        transaction.execute(&format!("update {target} set {set} {where_tag}"), &[]).await.map(|rows| rows == 1)
    };
    let done = match dice.roll(0, 11) {
        0..=2 => {
            let (src, filled) = (i64::try_from(dice.roll(0, 1000)).unwrap(), case.form.fills() && one_in(dice, 3));
            let c = if filled { (src * 2 + 1).to_string() } else { "null".to_owned() };
            let insert = format!(
                "insert into {target} ({}, tag, src, c) values ({}, {fresh}, {src}, {c}) on conflict do nothing",
                case.key.names(),
                case.key.values(dice)
            );
            (transaction.execute(&insert, &[]).await? == 1).then_some((fresh, Write::Inserted { filled }))
        }
        3 | 4 => changed("n = n + 1000").await?.then_some((tag, Write::Bumped)),
        5 | 6 => changed("s = s + 1").await?.then_some((tag, Write::Sided)),
        7 => {
            // Update several rows at once, in no particular order.
            let some = format!("tag in ({tag}, {}, {})", tag + 1, tag / 2);
            let rows =
                transaction.query(&format!("update {target} set s = s + 1 where {some} returning tag"), &[]).await?;
            return Ok(rows.iter().map(|row| (row.get(0), Write::Sided)).collect());
        }
        8 => {
            let delete = format!("delete from {target} {where_tag}");
            (transaction.execute(&delete, &[]).await? == 1).then_some((tag, Write::Deleted))
        }
        9 => {
            let n = usize::try_from(dice.roll(0, case.key.columns.len() as u64 - 1)).unwrap();
            let values = case.key.values(dice);
            // Generate new values for all key columns, but assign only one of them.
            let set = format!(
                "{} = (select v.k{n} from (values ({values})) v({}))",
                quote(&case.key.columns[n].name),
                (0..case.key.columns.len()).map(|n| format!("k{n}")).collect::<Vec<_>>().join(", ")
            );
            changed(&set).await?.then_some((tag, Write::Moved))
        }
        10 if case.form.fills() => changed("c = null").await?.then_some((tag, Write::Emptied)),
        10 | 11 if case.form.fills() => {
            changed("src = src + 1, c = case when c is not null then (src + 1) * 2 + 1 end")
                .await?
                .then_some((tag, Write::Synced))
        }
        _ if case.form == Form::Delete => None,
        _ => changed("n = n + 1000").await?.then_some((tag, Write::Bumped)),
    };
    Ok(done.into_iter().collect())
}

/// Merges the books of several writers, and adds the initial rows.
pub fn joined(books: Vec<Book>, initial: &[i64]) -> Book {
    let promised = Report { promised: true, inserted: true, ..Report::default() };
    let mut all: Book = initial.iter().map(|tag| (*tag, promised.clone())).collect();
    for (tag, report) in books.into_iter().flatten() {
        let row = all.entry(tag).or_default();
        row.promised |= report.promised;
        row.inserted |= report.inserted;
        row.bumps += report.bumps;
        row.sides += report.sides;
        row.moved |= report.moved;
        row.deleted |= report.deleted;
        row.filled |= report.filled;
        row.emptied |= report.emptied;
        row.needy_since = row.needy_since.max(report.needy_since);
    }
    all
}
