//! The SQL statements that the page offers to copy.

use super::database_state::Job;
use crate::job::next::Next;

/// An SQL statement and its description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    pub what: &'static str,
    pub sql: String,
}

pub(super) const PAUSE_ALL: &str = "select backfill.pause_all('why');";
pub(super) const RESUME_ALL: &str = "select backfill.resume_all();";

/// Returns the statements that are possible in the current state of the job, the most likely
/// statement first.
pub(super) fn offers(job: &Job) -> Vec<Offer> {
    let name = literal(&job.name);
    let call = |what, verb: &str| Offer { what, sql: format!("select backfill.{verb}({name});") };
    let with_reason = |what, verb: &str| Offer { what, sql: format!("select backfill.{verb}({name}, 'why');") };
    let mut offers = Vec::new();
    let next = Next::of(&job.state, job.waiting_reason.as_deref());
    match next {
        Some(Next::Resume) => offers.push(call("Resume", "resume")),
        Some(Next::Approve) => offers.push(call("Approve", "approve")),
        Some(Next::ResumeAll) => offers.push(Offer { what: "Resume all jobs", sql: RESUME_ALL.to_owned() }),
        Some(Next::FixAndRetry) | Some(Next::StartDaemon | Next::ServeRole) | None => {}
    }
    if job.rows_quarantined > 0 {
        let sql = format!(
            "select relation, key, sqlstate, message from backfill.row_errors where name = {name} and resolved_at is null;"
        );
        offers.push(Offer { what: "Show the rows that could not be changed", sql });
    }
    match job.state.as_str() {
        "failed" => {
            offers.push(Offer {
                what: "Show the whole error",
                sql: format!("select error, hint from backfill.jobs where name = {name};"),
            });
            offers.push(call("Retry from the checkpoint", "retry"));
        }
        "cancelled" => offers.push(call("Retry from the checkpoint", "retry")),
        "succeeded" => {
            offers.push(Offer {
                what: "In a migration, check that the job is complete",
                sql: format!("select backfill.assert_complete({name});"),
            });
        }
        _ => {
            if next != Some(Next::Resume) {
                offers.push(with_reason("Pause", "pause"));
            }
            let rate = slower(job);
            let sql = format!("select backfill.tune({name}, '{{\"max_rows_per_second\": {rate}}}');");
            offers.push(Offer { what: "Limit the rate (rows per second, for the whole job)", sql });
            if job.max_rows_per_second.is_some() {
                let sql = format!("select backfill.tune({name}, '{{\"max_rows_per_second\": null}}');");
                offers.push(Offer { what: "Remove the rate limit", sql });
            }
            offers.push(with_reason("Cancel", "cancel"));
        }
    }
    offers
}

/// Returns a lower rate limit for the job: half of one of the following rates, rounded to two
/// significant digits, and at least 1.
/// - The current rate of the job, or the job's limit if the limit is lower.
/// - The job's limit, if the current rate is not known or is below 2 rows per second.
/// - 2000 rows per second, if the job has no limit either.
fn slower(job: &Job) -> i64 {
    let now = job.rows_per_second.filter(|rate| *rate >= 2.0).or(job.max_rows_per_second).unwrap_or(2000.0);
    let half = (now.min(job.max_rows_per_second.unwrap_or(now)) / 2.0).clamp(1.0, 1e9);
    let digit = 10_f64.powf((half.log10().floor() - 1.0).max(0.0));
    #[allow(clippy::cast_possible_truncation)]
    let rounded = ((half / digit).round() * digit) as i64;
    rounded.max(1)
}

/// Quotes an SQL literal so that its meaning does not depend on `standard_conforming_strings`.
fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(state: &str, waiting_reason: Option<&str>) -> Job {
        Job {
            name: "j".to_owned(),
            state: state.to_owned(),
            waiting_reason: waiting_reason.map(str::to_owned),
            ..Job::default()
        }
    }

    #[test]
    fn the_statement_that_resumes_a_job_is_offered_first() {
        let first = |state, reason| offers(&job(state, reason))[0].sql.clone();
        assert_eq!(first("paused", None), "select backfill.resume('j');");
        assert_eq!(first("queued", Some("approval")), "select backfill.approve('j');");
        assert_eq!(first("running", Some("paused_all")), RESUME_ALL);
        assert_eq!(first("running", Some("replica_lag")), "select backfill.pause('j', 'why');");
        assert_eq!(first("succeeded", None), "select backfill.assert_complete('j');");
    }

    #[test]
    fn pause_is_not_offered_for_finished_or_paused_jobs() {
        for state in ["succeeded", "failed", "cancelled", "paused"] {
            assert!(offers(&job(state, None)).iter().all(|offer| !offer.sql.contains("backfill.pause")), "{state}");
        }
    }

    #[test]
    fn slower_offers_half_of_the_current_rate_to_two_digits() {
        let at = |rate: Option<f64>, limit: Option<f64>| {
            slower(&Job { rows_per_second: rate, max_rows_per_second: limit, ..Job::default() })
        };
        assert_eq!(at(Some(15_403.0), None), 7700);
        assert_eq!(at(Some(15_403.0), Some(1000.0)), 500);
        assert_eq!(at(Some(0.0), Some(3.0)), 2);
        assert_eq!(at(None, None), 1000);
        assert_eq!(at(None, Some(0.001)), 1);
        assert_eq!(at(Some(f64::INFINITY), None), 1_000_000_000);
    }

    #[test]
    fn a_name_stays_one_literal() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'; drop table x; --"), "E'a\\\\''; drop table x; --'");
    }
}
