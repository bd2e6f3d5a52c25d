//! Reads and formats rows of `backfill.jobs` for the verbs that show jobs.

use super::commands::Commands;
use super::statement::TextRow;
use super::{session, show};
use crate::error::{Error, Kind, Result};
use crate::job::next::Next;
use crate::job::state::State;
use crate::pg::connect::Session;
use crate::text;

/// One row of the view `backfill.jobs`.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub name: String,
    pub state: String,
    pub desired_state: String,
    pub waiting_reason: Option<String>,
    pub waiting_text: Option<String>,
    pub throttled_text: Option<String>,
    pub deletes: bool,
    pub rows_changed: i64,
    pub rows_unresolved: i64,
    pub rows_quarantined: i64,
    pub percent_done: f64,
    pub rows_per_second: Option<f64>,
    /// The estimated time until the walk of the job finishes, in seconds.
    pub eta: Option<f64>,
    pub error: Option<String>,
    pub hint: Option<String>,
    pub reason: Option<String>,
    pub run_as: String,
    /// The seconds from the start of the job to its end, or to now if the job is unfinished.
    pub took: Option<f64>,
    pub is_verified: bool,
}

const JOBS: &str = "
select name, state, desired_state, kind = 'delete' as deletes, waiting_reason, waiting_text, throttled_text, rows_changed::int8,
       rows_unresolved::int8, rows_quarantined::int8, percent_done::float8, rows_per_second::float8,
       extract(epoch from eta - clock_timestamp())::float8 as eta, error, hint, reason, run_as::text as run_as,
       extract(epoch from coalesce(finished_at, clock_timestamp()) - started_at)::float8 as took,
       verified_at is not null as is_verified
from backfill.jobs
where ($1::text is null or name = $1) and (not $2::bool or finished_at is null)
order by finished_at is not null, case when finished_at is null then priority end, finished_at desc, id";

/// Reads the job named `name`, or all jobs if `name` is none. `live_only` leaves out finished jobs.
/// Unfinished jobs come first, by priority and then in the order in which they were enqueued.
/// Finished jobs follow, the latest first.
pub(super) async fn read(session: &Session, name: Option<&str>, live_only: bool) -> Result<Vec<Job>> {
    session::rows(session, JOBS, &[&name, &live_only]).await?.iter().map(Job::of).collect()
}

/// Reads the job named `name`.
///
/// # Errors
/// [`Kind::NoSuchJob`] if no job has this name.
pub(super) async fn read_one(session: &Session, name: &str) -> Result<Job> {
    match read(session, Some(name), false).await?.pop() {
        Some(job) => Ok(job),
        None => Err(no_such_job(session, name).await),
    }
}

const ALIKE: &str = "
select name from backfill.jobs
where pg_catalog.strpos(pg_catalog.lower(name), pg_catalog.lower($1)) > 0
   or pg_catalog.strpos(pg_catalog.lower($1), pg_catalog.lower(name)) > 0
order by finished_at is not null, id desc limit 3";

async fn no_such_job(session: &Session, name: &str) -> Error {
    let error = Error::new(Kind::NoSuchJob, format!("there is no job \"{name}\""));
    let alike: Vec<String> = match session::rows(session, ALIKE, &[&name]).await {
        Ok(rows) => rows.iter().filter_map(TextRow::first).collect(),
        Err(_) => Vec::new(),
    };
    if alike.is_empty() {
        error.hint("List the jobs with: backfilld status")
    } else {
        error.hint(format!("Did you mean {}? Names must match exactly.", alike.join(" or ")))
    }
}

impl Job {
    fn of(row: &TextRow) -> Result<Self> {
        Ok(Self {
            name: row.read("name")?,
            state: row.read("state")?,
            desired_state: row.read("desired_state")?,
            waiting_reason: row.read("waiting_reason")?,
            waiting_text: row.read("waiting_text")?,
            throttled_text: row.read("throttled_text")?,
            deletes: row.read("deletes")?,
            rows_changed: row.read("rows_changed")?,
            rows_unresolved: row.read("rows_unresolved")?,
            rows_quarantined: row.read("rows_quarantined")?,
            percent_done: row.read("percent_done")?,
            rows_per_second: row.read("rows_per_second")?,
            eta: row.read("eta")?,
            error: row.read("error")?,
            hint: row.read("hint")?,
            reason: row.read("reason")?,
            run_as: row.read("run_as")?,
            took: row.read("took")?,
            is_verified: row.read("is_verified")?,
        })
    }

    pub fn has_ended(&self) -> bool {
        State::read(&self.state).is_some_and(State::has_ended)
    }

    pub fn has_succeeded(&self) -> bool {
        self.state == State::Succeeded.to_string()
    }

    /// Returns the state for display, with the requested state if the job has not reached it yet.
    pub fn state_shown(&self) -> String {
        match self.desired_state.as_str() {
            "paused" if !self.has_ended() && self.state != "paused" => format!("{} (pause requested)", self.state),
            "cancelled" if !self.has_ended() => format!("{} (cancel requested)", self.state),
            _ => self.state.clone(),
        }
    }

    /// Returns the number of changed rows, for example `12,000 rows changed` or `12,000 rows
    /// deleted`.
    pub fn changed_shown(&self) -> String {
        format!("{} {}", text::rows(self.rows_changed), if self.deletes { "deleted" } else { "changed" })
    }

    pub fn percent_shown(&self) -> String {
        format!("{}%", text::fixed(self.percent_done, 1))
    }

    pub fn rate_shown(&self) -> String {
        self.rows_per_second.map_or(String::new(), text::rate)
    }

    /// Returns the remaining time of the walk, for example `2m 10s`, or an empty text if it is not
    /// known.
    pub fn eta_shown(&self) -> String {
        self.eta.map_or(String::new(), text::seconds)
    }

    /// Returns the verdict of a finished job in one line.
    pub fn outcome(&self) -> String {
        let mut text = format!("job \"{}\" {}: {}", self.name, self.state, self.changed_shown());
        if let Some(took) = self.took {
            text.push_str(&format!(" in {}", text::seconds(took)));
        }
        if self.has_succeeded() {
            text.push_str(if self.is_verified { ", verified" } else { ", not verified (verify: none)" });
        }
        for (number, what) in
            [(self.rows_unresolved, "still matching the filter"), (self.rows_quarantined, "quarantined")]
        {
            if number > 0 {
                text.push_str(&format!(", {} {what}", text::count(number)));
            }
        }
        text
    }

    /// Returns what an operator must do so that the job can continue. None if the job needs no
    /// operator. Also none if the job has failed, because the hint of its error names the fix.
    pub fn needs(&self, commands: &Commands) -> Option<String> {
        let name = show::word(&self.name);
        match Next::of(&self.state, self.waiting_reason.as_deref())? {
            Next::Resume => Some(commands.of_verb(&format!("resume {name}"))),
            Next::Approve => Some(commands.of_verb(&format!("approve {name}"))),
            Next::ResumeAll => Some(commands.of_verb("resume --all")),
            Next::StartDaemon => Some("Start a daemon: backfilld run".to_owned()),
            Next::ServeRole => {
                Some(format!("Ask the operator of the daemon to configure an executor for role \"{}\"", self.run_as))
            }
            Next::FixAndRetry => None,
        }
    }
}

#[cfg(test)]
pub(super) fn example(name: &str, state: &str) -> Job {
    Job {
        name: name.to_owned(),
        state: state.to_owned(),
        desired_state: "running".to_owned(),
        waiting_reason: None,
        waiting_text: None,
        throttled_text: None,
        deletes: false,
        rows_changed: 0,
        rows_unresolved: 0,
        rows_quarantined: 0,
        percent_done: 0.0,
        rows_per_second: None,
        eta: None,
        error: None,
        hint: None,
        reason: None,
        run_as: "owner".to_owned(),
        took: None,
        is_verified: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_is_one_line() {
        let job = Job { rows_changed: 1_000_000, took: Some(72.4), is_verified: true, ..example("a", "succeeded") };
        assert_eq!(job.outcome(), "job \"a\" succeeded: 1,000,000 rows changed in 1m 12s, verified");
        let job = Job { rows_changed: 2, deletes: true, is_verified: true, ..example("a", "succeeded") };
        assert_eq!(job.outcome(), "job \"a\" succeeded: 2 rows deleted, verified");
        let job = Job { rows_changed: 1, rows_quarantined: 3, ..example("a", "failed") };
        assert_eq!(job.outcome(), "job \"a\" failed: 1 row changed, 3 quarantined");
    }

    #[test]
    fn a_pause_that_has_not_taken_effect_is_shown() {
        let job = Job { desired_state: "paused".to_owned(), ..example("a", "running") };
        assert_eq!(job.state_shown(), "running (pause requested)");
    }
}
