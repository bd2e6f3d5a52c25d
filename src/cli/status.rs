//! `backfilld status`: shows the jobs as a table, one job in full, or all jobs as JSON.

mod signals;

use std::time::Duration;

use clap::Args;
use tokio::time::timeout;

use super::commands::Commands;
use super::jobs::{self, Job};
use super::show::Align::{Left, Right};
use super::statement::{self, OURS, TextRow};
use super::{session, show};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::pg::connect::Session;
use crate::pg::pools::CONTROL_LIMIT;
use crate::text;

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Name of the job [default: all unfinished jobs and the last 10 finished ones]
    name: Option<String>,
    /// Print a JSON array of objects with the columns of view backfill.jobs; the times are in UTC
    #[arg(long)]
    json: bool,
    /// Include all finished jobs
    #[arg(long)]
    all: bool,
}

/// Maximum number of finished jobs that are listed without `--all`.
const ENDED_SHOWN: usize = 10;

/// Time after which the command says that it waits for the server.
const QUIET: Duration = Duration::from_secs(1);

pub(super) async fn run(config: &Config, args: StatusArgs) -> Result<u8> {
    let mut shown = std::pin::pin!(show_jobs(config, args));
    if let Ok(shown) = timeout(QUIET, &mut shown).await {
        return shown;
    }
    eprintln!("waiting for the server ...");
    shown.await
}

async fn show_jobs(config: &Config, args: StatusArgs) -> Result<u8> {
    let session = session::open(config).await?;
    let commands = Commands::of(config);
    match args.name {
        name if args.json => print_json(&session, name.as_deref()).await?,
        Some(name) => print_one(&session, &name, &commands).await?,
        None => print_all(&session, &jobs::read(&session, None, false).await?, args.all, &commands).await?,
    }
    Ok(0)
}

/// Reads the jobs as JSON objects, in the order of the text. The columns, their names and their
/// order are part of the public contract.
const JSON: &str = "
select pg_catalog.row_to_json(x)::text
from (select id, name, kind, state, desired_state, waiting_reason, target, run_as, enqueued_by, rows_scanned,
             rows_changed, rows_unresolved, rows_quarantined, rows_estimated, percent_done, rows_per_second, eta,
             deadline, error, hint, enqueued_at, started_at, finished_at, verified_at, waiting_text, set, filter,
             options, priority, run_at, reason, throttled_by, throttled_text, time_share
      from backfill.jobs where $1::text is null or name = $1
      order by finished_at is not null, case when finished_at is null then priority end, finished_at desc, id) x";

async fn print_json(session: &Session, name: Option<&str>) -> Result<()> {
    let settings = format!("{OURS}set local time zone 'UTC'; ");
    let rows = statement::run(session, &settings, JSON, &[&name], CONTROL_LIMIT).await.map_err(session::explain)?;
    if let (Some(name), true) = (name, rows.is_empty()) {
        jobs::read_one(session, name).await?;
    }
    let objects: Vec<String> = rows.iter().filter_map(TextRow::first).collect();
    show::print(&if objects.is_empty() { "[]\n".to_owned() } else { format!("[{}]\n", objects.join(",\n ")) })
}

async fn print_all(session: &Session, jobs: &[Job], all: bool, commands: &Commands) -> Result<()> {
    if jobs.is_empty() {
        let enqueue = commands.of_verb("enqueue");
        return show::line(&format!(
            "no jobs that this login may see; create one with {enqueue} (see backfilld enqueue --help)"
        ));
    }
    let live = jobs.iter().filter(|job| !job.has_ended()).count();
    let shown = if all { jobs } else { &jobs[..jobs.len().min(live + ENDED_SHOWN)] };
    let head = [
        ("NAME", Left),
        ("STATE", Left),
        ("WAITING", Left),
        ("DONE", Right),
        ("CHANGED", Right),
        ("ROWS/S", Right),
        ("ETA", Right),
    ];
    let rows: Vec<Vec<String>> = shown
        .iter()
        .map(|job| {
            vec![
                job.name.clone(),
                job.state_shown(),
                job.waiting_reason.clone().unwrap_or_default(),
                job.percent_shown(),
                text::count(job.rows_changed),
                job.rate_shown(),
                job.eta_shown(),
            ]
        })
        .collect();
    let mut lines = show::table(&head, &rows).into_iter();
    let mut text = format!("{}\n", lines.next().unwrap_or_default());
    for (line, job) in lines.zip(shown) {
        text.push_str(&format!("{line}\n"));
        for more in remarks(job, commands) {
            text.push_str(&format!("  {more}\n"));
        }
    }
    if shown.len() < jobs.len() {
        text.push_str(&format!("and {} more finished jobs; list them with --all\n", jobs.len() - shown.len()));
    }
    if live > 0 {
        text.push_str(&beneath(&signals::read(session).await?));
    }
    show::print(&text)
}

/// Puts an empty line before a text, to separate it from the output above. An empty text stays
/// empty.
fn beneath(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("\n{text}") }
}

/// Returns the text of a field. In a hint and in the text about a wait, SQL functions are replaced
/// with the equivalent commands. Other texts may contain the user's own words, so they are not
/// changed.
fn said(label: &str, text: &str, commands: &Commands) -> String {
    if matches!(label, "hint" | "waiting") { commands.translate(text) } else { text.to_owned() }
}

/// Returns the lines below a job's row: why the job failed or waits, and the next step.
fn remarks(job: &Job, commands: &Commands) -> Vec<String> {
    let labelled = [
        ("error", &job.error),
        ("hint", if job.error.is_some() { &job.hint } else { &None }),
        ("waiting", &job.waiting_text),
        ("slowed by", &job.throttled_text),
        ("reason", &job.reason),
    ];
    let mut lines: Vec<String> = labelled
        .into_iter()
        .filter_map(|(label, text)| {
            text.as_ref().map(|text| format!("{label}: {}", text::printable(&said(label, text, commands))))
        })
        .collect();
    lines.extend(job.needs(commands).map(|next| format!("next: {next}")));
    lines
}

/// Reads the label and the text of each property of one job, in the order of display.
const ONE: &str = "
select u.label, u.text
from backfill.jobs j
cross join lateral (select
  -- A small number is shown with two digits, and not as 0.
  case when abs(100 * j.time_share) < 0.5 and j.time_share <> 0 then round((100 * j.time_share)::numeric, 1 - floor(log(100 * j.time_share))::int)::text else round((100 * j.time_share)::numeric)::text end as share,
  case when j.percent_done < 0.05 and j.percent_done > 0 then round(j.percent_done::numeric, 1 - floor(log(j.percent_done))::int)::text else to_char(j.percent_done, 'FM990.0') end as done,
  case when j.rows_per_second < 0.05 and j.rows_per_second > 0 then round(j.rows_per_second::numeric, 1 - floor(log(j.rows_per_second))::int)::text else to_char(j.rows_per_second, 'FM999,999,990.0') end as rate) x
cross join lateral (values
  ('name', j.name), ('id', j.id::text), ('kind', j.kind), ('target', j.target), ('set', j.set), ('filter', j.filter),
  ('state', j.state), ('desired state', nullif(j.desired_state, 'running')), ('waiting', concat_ws(': ', j.waiting_reason, j.waiting_text)),
  ('slowed by', concat_ws(': ', j.throttled_by, j.throttled_text)), ('time share', x.share || '%'),
  ('reason', j.reason), ('error', j.error), ('hint', j.hint), ('done', x.done || '%'),
  ('rows estimated', to_char(j.rows_estimated, 'FM999,999,999,999,999')), ('rows scanned', to_char(j.rows_scanned, 'FM999,999,999,999,990')),
  (case when j.kind = 'delete' then 'rows deleted' else 'rows changed' end, to_char(j.rows_changed, 'FM999,999,999,999,990')), ('rows unresolved', to_char(nullif(j.rows_unresolved, 0), 'FM999,999,999,999,999')),
  ('rows quarantined', to_char(nullif(j.rows_quarantined, 0), 'FM999,999,999,999,999')), ('rows/s', x.rate),
  ('eta', j.eta::timestamptz(0)::text), ('deadline', j.deadline::text), ('priority', nullif(j.priority, 0)::text), ('options', nullif(j.options, '{}')::text),
  ('run as', j.run_as::text), ('enqueued by', j.enqueued_by::text), ('run at', case when j.run_at > j.enqueued_at then j.run_at::timestamptz(0)::text end),
  ('enqueued at', j.enqueued_at::timestamptz(0)::text), ('started at', j.started_at::timestamptz(0)::text),
  ('finished at', j.finished_at::timestamptz(0)::text), ('verified at', j.verified_at::timestamptz(0)::text)) u(label, text)
where j.name = $1 and u.text <> ''";

const EVENTS: &str = "
select e.at::timestamptz(0)::text as at, e.actor::text as actor, e.message
from (select e.at, e.actor, e.message from backfill.events e where e.name = $1 order by e.at desc limit 10) e order by e.at";

async fn print_one(session: &Session, name: &str, commands: &Commands) -> Result<()> {
    let fields = session::rows(session, ONE, &[&name]).await?;
    let job = jobs::read_one(session, name).await?;
    if fields.is_empty() {
        return Err(Error::new(Kind::NoSuchJob, format!("there is no job \"{name}\"")));
    }
    let mut text = String::new();
    for row in &fields {
        let (label, value): (String, String) = (row.read("label")?, row.read("text")?);
        text.push_str(&format!("{label:<17} {}\n", text::printable(&said(&label, &value, commands))));
    }
    if let Some(next) = job.needs(commands) {
        text.push_str(&format!("{:<17} {next}\n", "next"));
    }
    let events = session::rows(session, EVENTS, &[&name]).await?;
    if !events.is_empty() {
        text.push_str("last events\n");
    }
    for row in &events {
        let cell = |name| row.read::<String>(name);
        text.push_str(&format!("  {}  {} ({})\n", cell("at")?, text::printable(&cell("message")?), cell("actor")?));
    }
    if !job.has_ended() {
        text.push_str(&beneath(&signals::read(session).await?));
    }
    show::print(&text)
}
