//! `backfilld rollout wait`: waits until a rollout has reached a stage, and prints its progress.

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::session::{self, Patient};
use super::statement::TextRow;
use super::{duration, show};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::pg::connect::Session;
use crate::text;

#[derive(Debug, Args)]
pub struct RolloutWaitArgs {
    /// Name of the rollout
    name: String,
    /// Stage to wait for [default: the stage in `until`]
    #[arg(long, value_parser = STAGES)]
    stage: Option<String>,
    /// Stop waiting after this time, for example 30s, 5m or 2h, with exit code 75 [default: no
    /// limit]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    timeout: Option<Duration>,
}

const STAGES: [&str; 8] =
    ["planned", "expanded", "syncing", "backfilled", "verified", "constrained", "switched", "contracted"];
/// Time between two checks.
const POLL: Duration = Duration::from_millis(300);
/// Minimum time between two lines about the same stage.
const PROGRESS: Duration = Duration::from_secs(10);

const READ: &str = "
select stage, state, desired_state, coalesce(waiting_text, '') as waiting_text, coalesce(error, '') as error, coalesce(hint, '') as hint,
       coalesce($2, until) as wanted
  from backfill.rollouts where name = $1";

pub(super) async fn run(config: &Config, args: RolloutWaitArgs) -> Result<u8> {
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout);
    let mut session = Patient::open(config).await?;
    let mut told = (String::new(), String::new(), None::<Instant>);
    loop {
        let read = session.read(async |session| read(session, &args).await).await?;
        if let Some(row) = &read {
            let get = |column: &str| row.read::<String>(column);
            let (stage, state) = (get("stage")?, get("state")?);
            if matches!(state.as_str(), "failed" | "rolling_back" | "rolled_back") {
                let error = Error::new(
                    Kind::NotComplete,
                    format!("rollout \"{}\" is at stage {stage}, state: {state}", args.name),
                );
                return Err(match (get("error")?, get("hint")?) {
                    (error_text, _) if error_text.is_empty() => error,
                    (error_text, hint) => error.detail(error_text).hint(hint),
                });
            }
            if number(&stage) >= number(&get("wanted")?) {
                show::line(&format!("rollout \"{}\" has reached stage {stage}", args.name))?;
                return Ok(0);
            }
            let paused = if get("desired_state")? == "paused" { "paused" } else { "" };
            let waiting = [paused.to_owned(), get("waiting_text")?]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join("; ");
            let is_due = told.0 != stage || told.1 != waiting && told.2.is_none_or(|at| at.elapsed() >= PROGRESS);
            if is_due {
                let waiting_part = if waiting.is_empty() { String::new() } else { format!("; {waiting}") };
                eprintln!("{}", text::printable(&format!("stage {stage}{waiting_part}")));
                told = (stage, waiting, Some(Instant::now()));
            }
        }
        let pause = Instant::now() + POLL;
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Error::new(
                Kind::Timeout,
                format!("rollout \"{}\" has not reached the stage before the timeout", args.name),
            )
            .hint(format!(
                "The rollout continues. Show its state with: backfilld rollout status {}",
                show::word(&args.name)
            )));
        }
        tokio::time::sleep_until(deadline.map_or(pause, |deadline| pause.min(deadline))).await;
    }
}

/// Returns the position of a stage.
fn number(stage: &str) -> Option<usize> {
    STAGES.iter().position(|other| *other == stage)
}

async fn read(session: &Session, args: &RolloutWaitArgs) -> Result<TextRow> {
    let rows = session::rows(session, READ, &[&args.name, &args.stage]).await?;
    rows.into_iter().next().ok_or_else(|| {
        Error::new(Kind::NoSuchJob, format!("there is no rollout \"{}\"", args.name))
            .hint("List the rollouts with: backfilld rollout status")
    })
}
