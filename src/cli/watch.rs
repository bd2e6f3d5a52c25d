//! `backfilld watch`: shows the jobs until all of them have finished. On a terminal it draws bars.
//! Otherwise it prints one line for each job every second.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::commands::Commands;
use super::jobs::{self, Job};
use super::{session, show};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::text;

#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Name of the job [default: all unfinished jobs]
    name: Option<String>,
}

const REFRESH: Duration = Duration::from_millis(500);
const LINES: Duration = Duration::from_secs(1);

/// The form in which the jobs are shown.
enum Screen {
    Bars { all: MultiProgress, each: BTreeMap<String, ProgressBar> },
    Lines,
}

pub(super) async fn run(config: &Config, args: WatchArgs) -> Result<u8> {
    let session = session::open(config).await?;
    let commands = Commands::of(config);
    let mut screen = Screen::new();
    let mut ticks = tokio::time::interval(screen.pace());
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut last: BTreeMap<String, Job> = BTreeMap::new();
    loop {
        tokio::select! {
            biased;
            _ = &mut interrupt => {
                screen.leave();
                eprintln!("stopped watching; jobs continue in the background");
                return Ok(0);
            }
            _ = ticks.tick() => {}
        }
        let mut live = match &args.name {
            Some(name) => vec![jobs::read_one(&session, name).await?],
            None => jobs::read(&session, None, true).await?,
        };
        // A job that was shown before but is no longer listed has finished or was deleted. A
        // finished job is read once more, to show its last state.
        let gone: Vec<String> = last
            .values()
            .filter(|seen| !seen.has_ended() && live.iter().all(|job| job.name != seen.name))
            .map(|seen| seen.name.clone())
            .collect();
        for name in &gone {
            match jobs::read_one(&session, name).await {
                Ok(job) => live.push(job),
                Err(error) if error.kind == Kind::NoSuchJob => drop(last.remove(name)),
                Err(error) => return Err(error),
            }
        }
        for job in live {
            screen.show(&job, &commands)?;
            last.insert(job.name.clone(), job);
        }
        if last.is_empty() {
            show::line(&format!("no unfinished jobs; to list finished jobs: {}", commands.of_verb("status")))?;
            return Ok(0);
        }
        if last.values().all(Job::has_ended) {
            screen.leave();
            return verdict(last.values());
        }
    }
}

fn verdict<'a>(jobs: impl Iterator<Item = &'a Job>) -> Result<u8> {
    let mut failed = Vec::new();
    for job in jobs {
        show::line(&job.outcome())?;
        if !job.has_succeeded() {
            failed.push(job);
        }
    }
    let [job, rest @ ..] = failed.as_slice() else {
        return Ok(0);
    };
    let more = if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
    let error = Error::new(Kind::NotComplete, format!("job \"{}\" {}{more}", job.name, job.state));
    let error = match &job.error {
        Some(why) => error.detail(why),
        None => error,
    };
    let tells_more = || format!("For details: backfilld status {}", show::word(&job.name));
    Err(error.hint(job.hint.clone().unwrap_or_else(tells_more)))
}

impl Screen {
    fn new() -> Self {
        if std::io::stdout().is_terminal() {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
            Self::Bars { all, each: BTreeMap::new() }
        } else {
            Self::Lines
        }
    }

    fn pace(&self) -> Duration {
        match self {
            Self::Bars { .. } => REFRESH,
            Self::Lines => LINES,
        }
    }

    fn show(&mut self, job: &Job, commands: &Commands) -> Result<()> {
        match self {
            Self::Bars { all, each } => {
                let bar = each.entry(job.name.clone()).or_insert_with(|| all.add(bar(&job.name)));
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                bar.set_position((job.percent_done * 10.0) as u64);
                bar.set_message(format!("{:>6}  {}", job.percent_shown(), summary(job, commands)));
                if job.has_ended() {
                    bar.abandon();
                }
                Ok(())
            }
            Self::Lines => show::line(&format!("{}  {}  {}", job.name, job.percent_shown(), summary(job, commands))),
        }
    }

    /// Stops drawing and leaves the last state of the bars on the terminal.
    fn leave(&self) {
        if let Self::Bars { each, .. } = self {
            for bar in each.values().filter(|bar| !bar.is_finished()) {
                bar.abandon();
            }
            // The cursor is at the end of the last bar, so the shell's prompt would continue that
            // line.
            println!();
        }
    }
}

fn bar(name: &str) -> ProgressBar {
    let bar = ProgressBar::no_length();
    bar.set_length(1000);
    if let Ok(style) = ProgressStyle::with_template("{prefix}  [{bar:24}]  {wide_msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(name.to_owned());
    bar
}

/// Returns one line about a job, for example:
///
/// `running  12,000 rows changed  1,500 rows/s  eta 2m 10s  waiting: replica_lag (...)`
fn summary(job: &Job, commands: &Commands) -> String {
    let mut text = format!("{}  {}", job.state_shown(), job.changed_shown());
    if !job.rate_shown().is_empty() && !job.has_ended() {
        text.push_str(&format!("  {} rows/s", job.rate_shown()));
    }
    if !job.eta_shown().is_empty() && !job.has_ended() {
        text.push_str(&format!("  eta {}", job.eta_shown()));
    }
    match (&job.waiting_reason, &job.waiting_text) {
        (Some(reason), Some(more)) => {
            text.push_str(&format!("  waiting: {reason} ({})", commands.translate(more)));
        }
        (Some(reason), None) => text.push_str(&format!("  waiting: {reason}")),
        (None, _) if let Some(throttled) = &job.throttled_text => text.push_str(&format!("  slowed by: {throttled}")),
        _ => {}
    }
    if let Some(next) = job.needs(commands) {
        text.push_str(&format!("  next: {next}"));
    }
    text::printable(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::jobs::example;

    #[test]
    fn the_text_about_a_wait_names_commands() {
        let job = Job {
            waiting_reason: Some("approval".to_owned()),
            waiting_text: Some("approve it: select backfill.approve('j')".to_owned()),
            ..example("j", "queued")
        };
        let text = summary(&job, &Commands::default());
        assert_eq!(
            text,
            "queued  0 rows changed  waiting: approval (approve it: backfilld approve j)  next: backfilld approve j"
        );
    }
}
