//! `backfilld wait`: waits until a job has finished. Each check is a separate statement, so that
//! the session holds no transaction and no snapshot between two checks.

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::commands::Commands;
use super::jobs::{self, Job};
use super::{duration, session, show};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::text;

#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Name of the job
    name: String,
    /// Stop waiting after this time, for example 30s, 5m or 2h, with exit code 75 [default: no
    /// limit]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    timeout: Option<Duration>,
}

/// Time between two checks. The verb does not use LISTEN, because a pooler may give the server
/// session to other clients between two checks.
const POLL: Duration = Duration::from_millis(300);

pub(super) async fn run(config: &Config, args: WaitArgs) -> Result<u8> {
    let commands = Commands::of(config);
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout);
    let mut session = session::Patient::open(config).await?;
    let mut told: Option<String> = None;
    loop {
        let job = session.read(async |session| jobs::read_one(session, &args.name).await).await?;
        if let Some(job) = &job {
            if job.has_ended() {
                return verdict(job);
            }
            let needs = job.needs(&commands);
            if let Some(next) = needs.as_ref().filter(|_| needs != told) {
                let why = job.waiting_reason.as_deref().unwrap_or(&job.state);
                eprintln!("{}", text::printable(&format!("job \"{}\" is waiting ({why}); next: {next}", job.name)));
            }
            told = needs;
        }
        let pause = Instant::now() + POLL;
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(timed_out(&args, job.as_ref(), &commands));
        }
        tokio::time::sleep_until(deadline.map_or(pause, |deadline| pause.min(deadline))).await;
    }
}

fn verdict(job: &Job) -> Result<u8> {
    if job.has_succeeded() {
        show::line(&job.outcome())?;
        return Ok(0);
    }
    let error = Error::new(Kind::NotComplete, job.outcome());
    let error = match job.error.as_ref().or(job.reason.as_ref()) {
        Some(why) => error.detail(why),
        None => error,
    };
    let name = show::word(&job.name);
    Err(error.hint(match &job.hint {
        Some(hint) => hint.clone(),
        None => {
            format!("For details: backfilld status {name}. To continue from the checkpoint: backfilld retry {name}")
        }
    }))
}

fn timed_out(args: &WaitArgs, job: Option<&Job>, commands: &Commands) -> Error {
    let after = text::duration(args.timeout.unwrap_or_default());
    let error = Error::new(Kind::Timeout, format!("job \"{}\" has not finished after {after}", args.name));
    let Some(job) = job else {
        return error.detail("The database was not reachable.");
    };
    let waiting = job.waiting_reason.as_ref().map_or(String::new(), |reason| format!(", waiting: {reason}"));
    let eta = job.eta.map_or(String::new(), |_| format!(", about {} remaining", job.eta_shown()));
    let error = error.detail(format!("It is {}, {} done{waiting}{eta}.", job.state_shown(), job.percent_shown()));
    match job.needs(commands) {
        Some(next) => error.hint(format!("Next: {next}")),
        None => error.hint("The job continues in the background: wait again, if necessary with a longer --timeout."),
    }
}
