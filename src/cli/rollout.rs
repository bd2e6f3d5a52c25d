//! `backfilld rollout`: plans, starts and controls rollouts.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::rollout_wait::RolloutWaitArgs;
use super::show::Align::{Left, Right};
use super::statement::TextRow;
use super::{rollout_wait, session, show};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::pg::connect::Session;
use crate::pg::pools::CONTROL_LIMIT;
use crate::yaml;

#[derive(Debug, Args)]
pub struct RolloutArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what a rollout would do: estimates, each statement with its lock, and warnings
    Plan {
        /// YAML file with the rollout; `-` for standard input
        file: PathBuf,
    },
    /// Start a rollout, unless the same rollout has already been started
    Apply {
        /// YAML file with the rollout; `-` for standard input
        file: PathBuf,
    },
    /// List rollouts, or show one rollout with its statements
    Status {
        /// Name of the rollout
        name: Option<String>,
    },
    /// Wait until a rollout has reached a stage, and print its progress
    Wait(RolloutWaitArgs),
    /// Let a rollout that waits continue to its next stage
    Advance {
        /// Name of the rollout
        name: String,
    },
    /// Roll a rollout back: drop its constraints, its trigger and its column
    Rollback {
        /// Name of the rollout
        name: String,
    },
    /// Pause a rollout and its job
    Pause {
        /// Name of the rollout
        name: String,
        /// Reason that `rollout status` shows
        #[arg(long)]
        reason: Option<String>,
    },
    /// Continue a paused or failed rollout, and its job
    Resume {
        /// Name of the rollout
        name: String,
    },
}

pub(super) async fn run(config: &Config, args: RolloutArgs) -> Result<u8> {
    let state = match args.verb {
        Verb::Plan { file } => return plan(config, &file).await,
        Verb::Apply { file } => return apply(config, &file).await,
        Verb::Status { name } => return status(config, name.as_deref()).await,
        Verb::Wait(args) => return rollout_wait::run(config, args).await,
        Verb::Advance { name } => session::command(config, "select backfill.rollout_advance($1)", &[&name]).await?,
        Verb::Rollback { name } => session::command(config, "select backfill.rollout_rollback($1)", &[&name]).await?,
        Verb::Pause { name, reason } => {
            session::command(config, "select backfill.rollout_pause($1, $2)", &[&name, &reason]).await?
        }
        Verb::Resume { name } => session::command(config, "select backfill.rollout_resume($1)", &[&name]).await?,
    };
    show::line(&state)?;
    Ok(0)
}

/// Reads the YAML file of a rollout, and returns it as JSON.
fn read(file: &Path) -> Result<String> {
    let origin = file.display().to_string();
    let text = match origin.as_str() {
        "-" => std::io::read_to_string(std::io::stdin()),
        _ => std::fs::read_to_string(file),
    };
    let text = text.map_err(|error| {
        Error::new(Kind::Usage, format!("could not read {origin}: {error}"))
            .hint("Give the path of a YAML file with a rollout, or - for standard input.")
    })?;
    let spec: serde_json::Value = yaml::parse(&text, &origin)?;
    Ok(spec.to_string())
}

async fn plan(config: &Config, file: &Path) -> Result<u8> {
    const PLAN: &str = "select stage, statement, lock, effect from backfill.rollout_plan($1::text::pg_catalog.jsonb)";
    let spec = read(file)?;
    let session = session::open(config).await?;
    let rows = in_own_settings(&session, PLAN, &spec).await?;
    let mut page = String::new();
    let mut stage = String::new();
    for row in &rows {
        let now: String = row.read("stage")?;
        if now != stage {
            page.push_str(&format!("{}{now}\n", if stage.is_empty() { "" } else { "\n" }));
            stage = now;
        }
        for line in row.read::<String>("statement")?.lines() {
            page.push_str(&format!("  {line}\n"));
        }
        let lock: Option<String> = row.read("lock")?;
        let effect: Option<String> = row.read("effect")?;
        if let Some(lock) = lock {
            let effect = effect.map(|effect| format!("; {effect}")).unwrap_or_default();
            page.push_str(&format!("      lock: {lock}{effect}\n"));
        }
    }
    show::print(&page)?;
    Ok(0)
}

const EXISTING: &str = "select stage, state from backfill.rollouts where name = $1 and state <> 'rolled_back'";

async fn apply(config: &Config, file: &Path) -> Result<u8> {
    let spec = read(file)?;
    let session = session::open(config).await?;
    let name = serde_json::from_str::<serde_json::Value>(&spec)
        .ok()
        .and_then(|spec| spec["rollout"].as_str().map(str::to_owned))
        .unwrap_or_default();
    let existing = session::rows(&session, EXISTING, &[&name]).await?;
    in_own_settings(&session, "select backfill.rollout_start($1::text::pg_catalog.jsonb)", &spec).await?;
    let done = match existing.first() {
        None => "started".to_owned(),
        Some(row) => format!(
            "already exists with this spec; stage: {}, state: {}",
            row.read::<String>("stage")?,
            row.read::<String>("state")?
        ),
    };
    show::line(&format!("rollout \"{name}\" {done}; follow it with: backfilld rollout status {}", show::word(&name)))?;
    Ok(0)
}

/// Runs a statement that finds the table in the `search_path` of the session.
async fn in_own_settings(session: &Session, sql: &str, spec: &str) -> Result<Vec<TextRow>> {
    super::statement::run(
        session,
        "set local statement_timeout = '10s'; set local lock_timeout = '5s'; ",
        sql,
        &[&spec],
        CONTROL_LIMIT,
    )
    .await
    .map_err(session::explain)
}

const ALL: &str = "
select name, table_name, stage, state, coalesce(waiting_reason, case desired_state when 'paused' then 'paused' end) as waiting_reason,
       waiting_text, error, hint, reason, until, job, nullif(rows_unverified, 0)::text as rows_unverified
  from backfill.rollouts where $1::text is null or name = $1 order by finished_at is not null, id";
/// Reads the statements of a rollout. Each statement is shortened to fit into one line. The view
/// contains the whole statement.
const STATEMENTS: &str = "
select stage, regexp_replace(regexp_replace(case when undo then 'undo: ' else '' end || sql, '\\s+', ' ', 'g'), '^(.{80}).{4,}$', '\\1...') as sql, lock,
       case when done_at is not null then 'done' else 'tried ' || attempts || 'x' end as done,
       coalesce(round(extract(epoch from waited) * 1000, 1) || ' ms', '') as waited,
       coalesce(round(extract(epoch from held) * 1000, 1) || ' ms', '') as held,
       coalesce(round(extract(epoch from committed) * 1000, 1) || ' ms', '') as committed
  from backfill.rollout_statements where name = $1";

async fn status(config: &Config, name: Option<&str>) -> Result<u8> {
    let session = session::open(config).await?;
    let rollouts = session::rows(&session, ALL, &[&name]).await?;
    if let (Some(name), true) = (name, rollouts.is_empty()) {
        return Err(Error::new(Kind::NoSuchJob, format!("there is no rollout \"{name}\""))
            .hint("List the rollouts with: backfilld rollout status"));
    }
    if rollouts.is_empty() {
        show::line("there is no rollout that this login may see; to start one: backfilld rollout apply FILE")?;
        return Ok(0);
    }
    let head = [("NAME", Left), ("TABLE", Left), ("STAGE", Left), ("STATE", Left), ("UNTIL", Left), ("WAITING", Left)];
    let cells = |row: &TextRow| -> Result<Vec<String>> {
        ["name", "table_name", "stage", "state", "until", "waiting_reason"]
            .iter()
            .map(|column| Ok(row.read::<Option<String>>(column)?.unwrap_or_default()))
            .collect()
    };
    let cells = rollouts.iter().map(cells).collect::<Result<Vec<_>>>()?;
    let mut lines = show::table(&head, &cells).into_iter();
    let mut page = format!("{}\n", lines.next().unwrap_or_default());
    for (line, row) in lines.zip(&rollouts) {
        page.push_str(&format!("{line}\n"));
        for (label, column) in [
            ("waiting", "waiting_text"),
            ("job", "job"),
            ("rows unverified", "rows_unverified"),
            ("reason", "reason"),
            ("error", "error"),
            ("hint", "hint"),
        ] {
            if let Some(text) = row.read::<Option<String>>(column)? {
                page.push_str(&format!("  {label}: {text}\n"));
            }
        }
    }
    if let Some(name) = name {
        let head = [
            ("STAGE", Left),
            ("", Left),
            ("WAITED", Right),
            ("HELD", Right),
            ("COMMIT", Right),
            ("LOCK", Left),
            ("STATEMENT", Left),
        ];
        let cells = |row: &TextRow| -> Result<Vec<String>> {
            ["stage", "done", "waited", "held", "committed", "lock", "sql"]
                .iter()
                .map(|column| row.read(column))
                .collect()
        };
        let rows = session::rows(&session, STATEMENTS, &[&name]).await?;
        let rows = rows.iter().map(cells).collect::<Result<Vec<_>>>()?;
        if !rows.is_empty() {
            page.push_str(&format!("\n{}\n", show::table(&head, &rows).join("\n")));
        }
    }
    show::print(&page)?;
    Ok(0)
}
