//! Claims and releases slices. The statements run as the control login. Each function that writes
//! for a claim compares the claim's token with the token of the slice, and returns
//! [`Kind::Fenced`](crate::error::Kind) if the tokens differ.

use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio_postgres::types::{Json, ToSql};
use uuid::Uuid;

use crate::error::{Error, Kind, Redacted, Result};
use crate::failpoint;
use crate::job::claim::{Claim, DeferredRow, Desired, Proof};
use crate::job::plan::{Leaf, PlanResult, PlannedSlice};
use crate::job::put_off::PutOff;
use crate::job::state::State;
use crate::key::Key;
use crate::pg::control::Control;
use crate::pg::row::{self, Columns};
use crate::pg::session::Backend;

/// Protocol version that this daemon implements. The protocol is between the queue and the daemons.
/// The queue does not give this daemon slices that need a later version.
const PROTOCOL: i32 = 1;

/// Returns the duration in seconds, for `make_interval`.
fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// Returns the error of a job that failed.
pub async fn failure(control: &Control, claim: &Claim) -> Result<Option<String>> {
    let row = control.query_opt("select error from backfill.jobs where id = $1", &[&claim.job_id]).await?;
    row.map_or(Ok(None), |row| row.read(0))
}

/// Claims the next slice for this worker. Returns none if no slice of the worker's roles can be
/// claimed. If the definition of the claimed job is invalid, fails the job and returns none. Slices
/// of the roles in `at_share` are claimed only if no slice of another role can be claimed. `worker`
/// is the ID of this daemon. If the queue contains leases of this daemon that are not in `held`,
/// their slices can be claimed at once.
pub async fn claim(
    control: &Control,
    worker: Uuid,
    roles: &[String],
    at_share: &[String],
    held: &[Uuid],
    ttl: Duration,
) -> Result<Option<Claim>> {
    const SQL: &str = "
select c::text, (c ->> 'slice')::int8, (c ->> 'token')::uuid, (c ->> 'job')::int8
  from backfill._claim($1, $2::text[]::name[], make_interval(secs => $3), $4, $5::text[]::name[], $6) c where c is not null";
    let values: [&(dyn ToSql + Sync); 6] = [&worker, &roles, &seconds(ttl), &PROTOCOL, &at_share, &held];
    let Some(row) = control.query_opt(SQL, &values).await? else { return Ok(None) };
    let unreadable = match serde_json::from_str(row.read(0)?) {
        Ok(claim) => return Ok(Some(claim)),
        Err(error) => Error::new(Kind::Internal, format!("the definition of the job is not valid: {error}")).hint(
            "The job was not inserted by backfill.enqueue. Delete it with backfill.forget, then enqueue it again.",
        ),
    };
    // This job was inserted directly into the queue by an SQL statement. If the job did not fail
    // here, workers would claim it repeatedly, before all other jobs.
    let (slice, token): (i64, Uuid) = (row.read(1)?, row.read(2)?);
    fail_by_hand(control, slice, token, &unreadable).await?;
    tracing::error!(job.id = row.read::<i64>(3)?, "{}", unreadable.message);
    Ok(None)
}

/// Fails the job of a claim whose definition could not be parsed. The slice and the token are
/// known, because they are read separately from the definition.
async fn fail_by_hand(control: &Control, slice: i64, token: Uuid, error: &Error) -> Result<()> {
    const SQL: &str = "select backfill._fail($1, $2, $3, $4)";
    control.query_opt(SQL, &[&slice, &token, &error.message, &error.hint]).await.map(drop)
}

/// Registers the session in which the claim's work runs, so that a worker that takes over the slice
/// can terminate the session. Checks that the session is on the server that contains the queue. The
/// control login runs this statement, because a session that has changed its role cannot read its
/// own `backend_start`.
pub async fn register_backend(control: &Control, claim: &Claim, backend: &Backend) -> Result<()> {
    const SQL: &str = "select backfill._register_backend($1, $2, $3, $4::text::timestamptz, $5)";
    failpoint::point("before_register_backend")?;
    let registered =
        control.query_opt(SQL, &[&claim.slice_id, &claim.token, &backend.pid, &backend.started, &backend.server]).await;
    // The function raises 08006 if the executor is connected to another server. The control session
    // stays open after this error, so only the mapping below classifies the error as a lost
    // connection.
    registered.map_err(|error| match error.sqlstate.as_deref() {
        Some("08006") => Error { kind: Kind::ConnectionLost, ..error },
        _ => error,
    })?;
    failpoint::point("after_register_backend")
}

/// Returns the desired state and the revision of the claim's job. Returns none if the worker no
/// longer holds the slice.
pub async fn poll_claim(control: &Control, claim: &Claim) -> Result<Option<(Desired, i32)>> {
    const SQL: &str = "select desired, revision from backfill._poll_claim($1, $2)";
    let row = control.query_opt(SQL, &[&claim.slice_id, &claim.token]).await?;
    row.map(|row| Ok((Desired::read(row.read(0)?), row.read(1)?))).transpose()
}

/// Returns the `ctid` of the slice's checkpoint. Returns none if the worker no longer holds the
/// slice.
pub async fn checkpoint_ctid(control: &Control, claim: &Claim) -> Result<Option<String>> {
    const SQL: &str = "select backfill._checkpoint_ctid($1, $2)";
    row::first(control.query_opt(SQL, &[&claim.slice_id, &claim.token]).await?)
}

/// Returns whether a slice of one of these roles could be claimed now.
pub async fn has_ready(control: &Control, roles: &[String]) -> Result<bool> {
    const SQL: &str = "select backfill._has_ready($1::text[]::name[], $2)";
    Ok(row::first(control.query_opt(SQL, &[&roles, &PROTOCOL]).await?)?.unwrap_or(false))
}

/// Returns the time at which the server's statistics were last reset. A crash resets them.
pub async fn counts_since(control: &Control) -> Result<Option<String>> {
    const SQL: &str = "select stats_reset::text from pg_catalog.pg_stat_bgwriter";
    row::first(control.query_opt(SQL, &[]).await?)
}

/// Returns up to `most` deferred rows of a slice. `after` is the ID of the last row that was
/// retried, or 0 for the first call.
pub async fn deferred_rows(control: &Control, claim: &Claim, after: i64, most: i32) -> Result<Vec<DeferredRow>> {
    const SQL: &str = "select id, key from backfill._deferred_rows($1, $2, $3, $4)";
    let rows = control.query(SQL, &[&claim.slice_id, &claim.token, &after, &most]).await?;
    rows.iter().map(|row| Ok(DeferredRow { id: row.read(0)?, key: Key(row.read(1)?) })).collect()
}

/// Returns the instructions for a verifying slice: whether rows are compared with the expressions
/// or with the filter, and the snapshot that was taken when the job was planned.
pub async fn proof(control: &Control, claim: &Claim) -> Result<Proof> {
    const SQL: &str = "select by_expression, planned from backfill._proof($1)";
    let row = control.query_opt(SQL, &[&claim.slice_id]).await?;
    let row = row.ok_or_else(|| Error::new(Kind::Fenced, "the slice does not exist any more"))?;
    Ok(Proof { by_expression: row.read(0)?, planned: row.read(1)? })
}

/// Returns the current options of the job.
pub async fn options(control: &Control, claim: &Claim) -> Result<Value> {
    const SQL: &str = "select backfill._options($1)";
    let row = control.query_opt(SQL, &[&claim.job_id]).await?;
    Ok(row::first::<Json<Value>>(row)?.map_or(Value::Null, |found| found.0))
}

/// Returns the state of the job after a claim has ended.
fn state(row: Option<tokio_postgres::Row>) -> Result<Option<State>> {
    Ok(row::first::<String>(row)?.and_then(|text| State::read(&text)))
}

/// Stores a plan and its slices, and ends the claim of the planning slice.
pub async fn save_plan(control: &Control, claim: &Claim, planned: &PlanResult) -> Result<Option<State>> {
    const SQL: &str = "select backfill._save_plan($1, $2, $3, $4, $5, $6)";
    let plan = serde_json::to_value(&planned.plan).map_err(|error| Error::new(Kind::Internal, error.to_string()))?;
    let slices = Json(listed(&planned.slices));
    let values: [&(dyn ToSql + Sync); 6] =
        [&claim.slice_id, &claim.token, &Json(plan), &slices, &planned.rows_estimated, &planned.snapshot];
    let state = state(control.query_opt(SQL, &values).await?)?;
    failpoint::point("after_save_plan")?;
    Ok(state)
}

fn listed(parts: &[PlannedSlice]) -> Value {
    let part = |(ordinal, part): (usize, &PlannedSlice)| {
        serde_json::json!({
            "ordinal": ordinal, "rows": part.rows_estimated,
            "lower": part.range.as_ref().and_then(|range| range.lower.as_ref()),
            "upper": part.range.as_ref().map(|range| &range.upper),
            "leaf": part.leaf, "relation": part.leaf.as_ref().map(|leaf| leaf.relation),
            "relation_name": part.leaf.as_ref().map(|leaf| &leaf.target)
        })
    };
    parts.iter().enumerate().map(part).collect()
}

/// Stores the slices of a leaf that was attached after the job was planned, and ends the claim.
pub async fn save_leaf(control: &Control, claim: &Claim, parts: &[PlannedSlice]) -> Result<Option<State>> {
    const SQL: &str = "select backfill._save_leaf($1, $2, $3, $4)";
    let rows: i64 = parts.iter().map(|part| part.rows_estimated).sum();
    control.query_opt(SQL, &[&claim.slice_id, &claim.token, &Json(listed(parts)), &rows]).await.and_then(state)
}

/// Returns the leaf of a slice. This worker must hold the slice.
pub async fn leaf(control: &Control, claim: &Claim) -> Result<Leaf> {
    const SQL: &str = "select backfill._leaf($1, $2)";
    let row = control.query_opt(SQL, &[&claim.slice_id, &claim.token]).await?;
    let Some(found) = row::first::<Json<Value>>(row)? else {
        return Err(Error::new(Kind::Fenced, format!("the claim of slice {} has ended", claim.slice_id)));
    };
    serde_json::from_value(found.0).map_err(|error| {
        let slice = claim.slice_id;
        Error::new(
            Kind::Internal,
            format!("the stored properties of the table of slice {slice} are not valid: {error}"),
        )
    })
}

/// Returns whether the worker should split its slice. All of these conditions must be true:
///
/// - The job is running and has fewer than `wanted` active slices.
/// - No slice of the job waits to be claimed.
/// - The slice has at least 5,000 rows left.
/// - The slice has at least 80 % as many rows left as the largest active slice of the job.
pub async fn may_split(control: &Control, claim: &Claim, wanted: u32) -> Result<bool> {
    const SQL: &str = "select backfill._may_split($1, $2, $3)";
    let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
    Ok(row::first(control.query_opt(SQL, &[&claim.slice_id, &claim.token, &wanted]).await?)?.unwrap_or(false))
}

/// Splits a slice at `bound`, with about `rows` rows on each side, and ends the claim.
pub async fn split(control: &Control, claim: &Claim, bound: &Key, rows: i64) -> Result<Option<State>> {
    const SQL: &str = "select backfill._split($1, $2, $3, $4)";
    failpoint::point("before_split")?;
    let state = state(control.query_opt(SQL, &[&claim.slice_id, &claim.token, &bound.0, &rows]).await?)?;
    failpoint::point("after_split")?;
    Ok(state)
}

/// Ends a claim if its leaf was detached or dropped. Leaves the claim unchanged and returns none in
/// these cases:
///
/// - The slice has no leaf.
/// - The leaf is still part of the target.
/// - The target itself was dropped or replaced.
pub async fn end_gone_leaf(control: &Control, claim: &Claim) -> Result<Option<State>> {
    const SQL: &str = "select backfill._end_gone_leaf($1, $2)";
    control.query_opt(SQL, &[&claim.slice_id, &claim.token]).await.and_then(state)
}

/// Ends a claim whose slice was walked to its end. If the slice still has deferred rows, it can be
/// claimed again after 1 s, or after 5 s if its oldest deferred row was deferred at least 1 minute
/// ago. Otherwise the slice is finished.
pub async fn finish(control: &Control, claim: &Claim) -> Result<Option<State>> {
    const SQL: &str = "select backfill._finish($1, $2)";
    let state = state(control.query_opt(SQL, &[&claim.slice_id, &claim.token]).await?)?;
    failpoint::point("after_finish")?;
    Ok(state)
}

/// Releases a slice. The next claim of the slice continues from its checkpoint. If the submitter of
/// the job holds a lock on the job's row, this call waits at most 1 s and then fails, so that the
/// worker can serve other jobs. A later claim then finds the abandoned lease and continues the
/// slice.
pub async fn release(control: &Control, claim: &Claim) -> Result<Option<State>> {
    const SQL: &str =
        "select backfill._release($1, $2) from (select set_config('lock_timeout', '1000', true) offset 0) s";
    control.query_opt(SQL, &[&claim.slice_id, &claim.token]).await.and_then(state)
}

/// Terminates the session in which the claim's work runs. Returns false if the session has already
/// ended or if the control login may not terminate it.
pub async fn end_session(control: &Control, claim: &Claim) -> Result<bool> {
    const SQL: &str = "select backfill._end_session($1, $2)";
    Ok(row::first(control.query_opt(SQL, &[&claim.slice_id, &claim.token]).await?)?.unwrap_or(false))
}

/// Releases a slice because the job's window is closed. All slices of the job then wait until the
/// window opens.
pub async fn close(control: &Control, claim: &Claim, until: SystemTime) -> Result<Option<State>> {
    // The daemon's estimate of the server's time can be slightly off, so `until` may already be in
    // the past on the server. Without the minimum of 1 s, the slice would be claimed and released
    // in a loop.
    const SQL: &str = "
select backfill._close_window($1, $2, greatest($3, clock_timestamp() + interval '1 s'))";
    control.query_opt(SQL, &[&claim.slice_id, &claim.token, &until]).await.and_then(state)
}

/// Releases a slice. The slice may be claimed again only after `pause`. Until the next claim, the
/// job shows `reason` (a value of `waiting_reason`) and `text`.
pub async fn release_for_retry(control: &Control, claim: &Claim, put_off: &PutOff) -> Result<Option<State>> {
    const SQL: &str = "
select backfill._release_for_retry($1, $2, $3, $4, make_interval(secs => $5), $6)
  from (select set_config('lock_timeout', '1000', true) offset 0) s";
    let reason = put_off.waiting.as_ref().map(|(reason, _)| *reason);
    let text = put_off.waiting.as_ref().map(|(_, text)| text.as_str());
    let send = async |text: Option<&str>| {
        let pause = seconds(put_off.pause);
        let values: [&(dyn ToSql + Sync); 6] = [&claim.slice_id, &claim.token, &reason, &text, &pause, &put_off.counts];
        control.query_opt(SQL, &values).await
    };
    match send(text).await {
        Err(error) if is_untranslatable(&error) => send(text.map(in_ascii).as_deref()).await,
        answer => answer,
    }
    .and_then(state)
}

/// Returns whether the server rejected a parameter because it contains a character that the
/// encoding of the database cannot represent. A job's error can contain such a character. The
/// caller then sends the text again, in ASCII. Without this second call, the job could neither fail
/// nor wait, and workers would claim it repeatedly.
fn is_untranslatable(error: &Error) -> bool {
    error.sqlstate.as_deref() == Some("22P05")
}

/// Replaces each character that is not ASCII.
fn in_ascii(text: &str) -> String {
    text.chars().map(|letter| if letter.is_ascii() { letter } else { '?' }).collect()
}

/// Ends the job as failed and stores the error and its hint, unless the job has already ended.
pub async fn fail(control: &Control, claim: &Claim, error: &Error) -> Result<Option<State>> {
    const SQL: &str = "select backfill._fail($1, $2, $3, $4, $5)";
    let message = match &error.detail {
        Some(detail) => format!("{} ({})", error.message, detail.trim_end_matches('.')),
        None => error.message.clone(),
    };
    let send = async |message: &str, hint: Option<&str>, redacted: Option<&Redacted>| {
        control.query_opt(SQL, &[&claim.slice_id, &claim.token, &message, &hint, &redacted.map(Json)]).await
    };
    match send(&message, error.hint.as_deref(), error.redacted.as_deref()).await {
        Err(refused) if is_untranslatable(&refused) => {
            let redacted = error
                .redacted
                .as_deref()
                .map(|texts| Redacted { message: in_ascii(&texts.message), hint: texts.hint.as_deref().map(in_ascii) });
            send(&in_ascii(&message), error.hint.as_deref().map(in_ascii).as_deref(), redacted.as_ref()).await
        }
        answer => answer,
    }
    .and_then(state)
}
