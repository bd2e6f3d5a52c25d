//! For each setting, measures the application's latency in phases with a backfill. These phases
//! alternate with phases without one.

use std::time::Duration;

use backfilld_testbed::cluster::Cluster;
use backfilld_testbed::daemon::Daemon;

use crate::application::{self, Application, Felt};
use crate::sample::Sample;
use crate::server::{number, wanted};
use crate::setting::{self, Setting};

/// The goals for the daemon with its default settings.
const P50: f64 = 1.10;
const P95: f64 = 1.30;
const SHARE_OF_THE_BEST: f64 = 0.9;

const TABLE: &str = "
create table public.orders (id bigint primary key, customer_id bigint not null, total numeric not null,
    status text not null, note text not null, total_cents bigint);
alter table public.orders set (autovacuum_enabled = off);
insert into public.orders select n, n % 50000, (n % 10000) / 100.0, 'paid', repeat('x', 20) from generate_series(1, ROWS) n;
alter table public.orders owner to owner";

/// The results of one setting, with one value per turn.
#[derive(Default)]
struct Seen {
    rows_per_second: Sample,
    reads: Ratios,
    writes: Ratios,
}

#[derive(Default)]
struct Ratios {
    p50: Sample,
    p95: Sample,
    p99: Sample,
}

impl Ratios {
    fn add(&mut self, alone: &Felt, with: &Felt) {
        self.p50.add(with.p50 / alone.p50);
        self.p95.add(with.p95 / alone.p95);
        self.p99.add(with.p99 / alone.p99);
    }
}

impl Seen {
    fn worst(&self, of: fn(&Ratios) -> &Sample) -> f64 {
        of(&self.reads).median().max(of(&self.writes).median())
    }

    fn p50(&self) -> f64 {
        self.worst(|ratios| &ratios.p50)
    }

    fn p95(&self) -> f64 {
        self.worst(|ratios| &ratios.p95)
    }

    fn keeps_the_goals(&self) -> bool {
        self.p50() <= P50 && self.p95() <= P95
    }
}

/// Measures the selected settings. Does nothing if no setting is selected.
pub async fn measure(cluster: &Cluster, daemon: &Daemon) {
    let mut settings: Vec<Setting> = Setting::all().into_iter().filter(|setting| wanted(&setting.name())).collect();
    if settings.is_empty() {
        return;
    }
    let (rows, turns) = (number("ROWS", 4_000_000), number("TURNS", 5));
    let phase = Duration::from_secs(number("SECONDS", 6).unsigned_abs());
    cluster.sql("postgres", "app", &TABLE.replace("ROWS", &rows.to_string())).await;
    cluster.sql("postgres", "app", "vacuum analyze public.orders").await;
    cluster.sql("postgres", "app", "checkpoint").await;
    let application = Application::start(&cluster.owner_url(), number("RATE", 800).unsigned_abs(), rows).await;
    let mut seen: Vec<(String, Seen)> = settings.iter().map(|setting| (setting.name(), Seen::default())).collect();
    let mut alone_again = Ratios::default();
    let mut walked = setting::Walked::new(rows);
    application.feel(phase).await;
    for turn in 0..turns.unsigned_abs() as usize {
        // The order rotates, so that the same setting does not always run first.
        let by = turn % settings.len().max(1);
        settings.rotate_left(by);
        let first = application.feel(phase).await;
        alone_again_of(&mut alone_again, &first, &application.feel(phase).await);
        for setting in &settings {
            let alone = application.feel(phase).await;
            let (with, rows_per_second) = setting.meet(cluster, daemon, &application, phase, &mut walked).await;
            let entry = seen.iter_mut().find(|(name, _)| *name == setting.name()).unwrap();
            entry.1.rows_per_second.add(rows_per_second);
            entry.1.reads.add(&alone.reads, &with.reads);
            entry.1.writes.add(&alone.writes, &with.writes);
            cluster.sql("postgres", "app", "vacuum public.orders").await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    print(&seen, &alone_again);
    judge(&seen);
}

fn alone_again_of(ratios: &mut Ratios, first: &application::Phase, second: &application::Phase) {
    ratios.add(&first.reads, &second.reads);
    ratios.add(&first.writes, &second.writes);
}

fn print(seen: &[(String, Seen)], alone_again: &Ratios) {
    println!(
        "\n| relative to alone | rows/s | reads p50 | reads p95 | writes p50 | writes p95 | reads p99 | writes p99 |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let Ratios { p50, p95, p99 } = alone_again;
    println!("| alone, again | 0 | {p50} | {p95} | {p50} | {p95} | {p99} | {p99} |");
    for (name, Seen { rows_per_second, reads, writes }) in seen {
        println!(
            "| {name} | {rows_per_second:.0} | {} | {} | {} | {} | {} | {} |",
            reads.p50, reads.p95, writes.p50, writes.p95, reads.p99, writes.p99
        );
    }
}

/// Compares the daemon's result with the goals and with the best fixed setting, and prints the
/// comparison. Of the ratio of the reads and the ratio of the writes, the larger one counts.
fn judge(seen: &[(String, Seen)]) {
    let Some((_, ours)) = seen.iter().find(|(name, _)| name == setting::DAEMON) else { return };
    let speed = ours.rows_per_second.median();
    println!("\ndaemon: p50 {:.2} (goal {P50}), p95 {:.2} (goal {P95}), {speed:.0} rows/s", ours.p50(), ours.p95());
    let fixed = || seen.iter().filter(|(name, _)| name != setting::DAEMON);
    let by_speed = |a: &&(String, Seen), b: &&(String, Seen)| {
        a.1.rows_per_second.median().total_cmp(&b.1.rows_per_second.median())
    };
    match fixed().filter(|(_, seen)| seen.keeps_the_goals()).max_by(by_speed) {
        Some((name, best)) => {
            let best = best.rows_per_second.median();
            println!(
                "best fixed setting that meets the goals: {name}, {best:.0} rows/s; the daemon reaches {:.2} of it (goal {SHARE_OF_THE_BEST})",
                speed / best
            );
        }
        None => println!("no fixed setting meets the goals"),
    }
    for (name, other) in fixed().filter(|(_, other)| other.rows_per_second.median() > speed) {
        if other.p95() < ours.p95() && other.p50() <= ours.p50() {
            println!("{name} is faster, and gentler by the medians: p50 {:.2}, p95 {:.2}", other.p50(), other.p95());
        }
    }
}
