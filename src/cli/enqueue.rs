//! `backfilld enqueue`: creates a job that updates or deletes rows. Without `--dry-run`, standard
//! output contains only the job's id, so that a script can read it.

use std::time::Duration;

use clap::Args;

use super::commands::Commands;
use super::spec::SpecArgs;
use super::statement::{self, Literal};
use super::{preview, session, show};
use crate::config::Config;
use crate::error::{Error, Kind, Result};

#[derive(Debug, Args)]
pub struct EnqueueArgs {
    /// Name of the job, unique in the database; repeating the same enqueue is safe
    name: String,
    #[command(flatten)]
    spec: SpecArgs,
    /// Priority of the job; jobs with a lower number run first
    #[arg(long, value_name = "NUMBER", default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
    /// Do not start before this time, for example '2027-01-31 22:00+01'
    #[arg(long, value_name = "TIME")]
    run_at: Option<String>,
    /// Role that the job runs as
    #[arg(long, value_name = "ROLE")]
    run_as: Option<String>,
    /// Do not start until `backfilld approve` is run
    #[arg(long)]
    needs_approval: bool,
    /// Show what the job would do, as `backfilld preview` does, without enqueueing it
    #[arg(long)]
    dry_run: bool,
}

/// Enqueues an update. The casts use the session's `search_path` to resolve names and the session's
/// time zone to interpret times. Both settings are those of the login, as in psql.
const ENQUEUE: &str = r#"
select backfill.enqueue(
  name => $1::pg_catalog.text, target => $2::pg_catalog.text::pg_catalog.regclass, "set" => $3::pg_catalog.text,
  filter => $4::pg_catalog.text, key => $5::pg_catalog.text[]::pg_catalog.name[], priority => $6::pg_catalog.int4,
  run_at => coalesce($7::pg_catalog.text::pg_catalog.timestamptz, pg_catalog.now()),
  run_as => $8::pg_catalog.text::pg_catalog.name, needs_approval => $9::pg_catalog.bool,
  options => $10::pg_catalog.text::pg_catalog.jsonb)"#;

const ENQUEUE_DELETE: &str = "
select backfill.enqueue_delete(
  name => $1::pg_catalog.text, target => $2::pg_catalog.text::pg_catalog.regclass,
  filter => $3::pg_catalog.text, key => $4::pg_catalog.text[]::pg_catalog.name[], priority => $5::pg_catalog.int4,
  run_at => coalesce($6::pg_catalog.text::pg_catalog.timestamptz, pg_catalog.now()),
  run_as => $7::pg_catalog.text::pg_catalog.name, needs_approval => $8::pg_catalog.bool,
  options => $9::pg_catalog.text::pg_catalog.jsonb)";

/// Reads the state of the job in the transaction that enqueued it. `now()` is the start of this
/// transaction, so `now()` equals `enqueued_at` only if the job is new.
const OUTCOME: &str = "
select state, waiting_reason, enqueued_at operator(pg_catalog.=) pg_catalog.now() as is_new
from backfill.jobs where name operator(pg_catalog.=) $1";

/// The login may have a timeout that is meant for its application. This timeout must not cancel the
/// checks of a spec.
const UNHURRIED: &str = "set local statement_timeout = 0; set local lock_timeout = 0; ";
/// Maximum time of an enqueue. It waits for locks on the table, as it does in psql.
const LIMIT: Duration = Duration::from_secs(600);

pub(super) async fn run(config: &Config, args: EnqueueArgs) -> Result<u8> {
    let spec = &args.spec;
    if args.dry_run {
        let code = preview::print(config, spec, Some(&args.name), args.run_as.as_deref(), false).await?;
        eprintln!("dry run: no job was enqueued");
        return Ok(code);
    }
    let options = spec.options.merged()?.to_string();
    let session = session::open(config).await?;
    let mut values: Vec<&dyn Literal> = vec![&args.name, &spec.target];
    values.extend(spec.set.as_ref().map(|set| set as &dyn Literal));
    let rest: [&dyn Literal; 7] =
        [&spec.filter, &spec.key, &args.priority, &args.run_at, &args.run_as, &args.needs_approval, &options];
    values.extend(rest);
    let sql = if spec.set.is_some() { ENQUEUE } else { ENQUEUE_DELETE };
    // Both statements run in one transaction. The second statement finds the job by its name,
    // because the id from the first statement is not known when both are sent.
    let both = format!("{sql}; {}", OUTCOME.replace("$1", &args.name.literal()));
    let rows = statement::run(&session, UNHURRIED, &both, &values, LIMIT).await.map_err(|error| spec.explain(error))?;
    let [enqueued, outcome] = rows.as_slice() else {
        return Err(Error::new(Kind::Unreadable, "enqueue returned no row"));
    };
    let id = enqueued.first().unwrap_or_default();
    let state: String = outcome.read("state")?;
    let waiting: Option<String> = outcome.read("waiting_reason")?;
    let is_new: bool = outcome.read("is_new")?;
    show::line(&id)?;
    let name = show::word(&args.name);
    let happened =
        if is_new { "enqueued".to_owned() } else { format!("already exists with the same definition ({state})") };
    eprintln!("job \"{}\" {happened}", args.name);
    eprintln!("  next: {}", next_step(&state, waiting.as_deref(), &name, &Commands::of(config)));
    Ok(0)
}

fn next_step(state: &str, waiting: Option<&str>, name: &str, commands: &Commands) -> String {
    let verb = |rest: String| commands.of_verb(&rest);
    match (state, waiting) {
        ("succeeded", _) => "nothing to do".to_owned(),
        ("failed" | "cancelled", _) => format!(
            "{} shows the reason; {} continues the job",
            verb(format!("status {name}")),
            verb(format!("retry {name}"))
        ),
        ("paused", _) => verb(format!("resume {name}")),
        (_, Some("approval")) => format!("needs approval; an operator must run: {}", verb(format!("approve {name}"))),
        (_, Some("daemon")) => format!("start a daemon (backfilld run), then: {}", verb(format!("watch {name}"))),
        (_, Some("executor")) => {
            format!(
                "no daemon has an executor for the role of the job; configure one, then: {}",
                verb(format!("watch {name}"))
            )
        }
        _ => {
            format!("{}, or in a script: {}", verb(format!("watch {name}")), verb(format!("wait {name} --timeout 1h")))
        }
    }
}
