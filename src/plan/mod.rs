//! Turns a spec into a plan or a refusal. The result of planning contains the key to walk, the
//! requirements of the expressions, the upper bound and the slices. The control login reads most of
//! the catalog. The executor's login runs all statements that use the user's expressions or read
//! the user's rows.

pub mod catalog;
pub mod expressions;
pub mod leaves;
pub mod slices;

use std::time::Duration;

use serde_json::Value;

use crate::error::{Error, Kind, Result};
use crate::job::claim::Claim;
use crate::job::options::{Options, Proof};
use crate::job::plan::{self, Isolation, Plan, PlanResult, Sizes};
use crate::pg::connect::Session;
use crate::pg::control::Control;
use crate::pg::pools::{CONTROL_LIMIT, Logins};
use crate::pg::row::{self, Columns};
use crate::pg::session::{self, Plans, Recipe};

/// `statement_timeout` of the planning session. Reading a sample and the bounds of a large table
/// can take a long time.
const PLAN_TIMEOUT: Duration = Duration::from_secs(60);

/// Opens the session in which a job is planned, with the job's settings.
pub async fn open(logins: &Logins, claim: &Claim) -> Result<Session> {
    let recipe = Recipe {
        settings: &claim.settings,
        isolation: Isolation::ReadCommitted,
        statement_timeout: PLAN_TIMEOUT,
        lock_timeout: Duration::from_secs(2),
        plans: Plans::Any,
    };
    session::open(logins, claim, &recipe).await
}

/// Plans a job. `options` are the job's options. `defaults` are the daemon's default options, which
/// are stored in the plan. `executor` is the session that [`open`] returned.
///
/// # Errors
/// Returns [`Kind::Refused`](crate::error::Kind) with a reason and a hint, or an error of the
/// server.
pub async fn make(
    control: &Control,
    executor: &Session,
    claim: &Claim,
    options: &Options,
    defaults: &Value,
) -> Result<PlanResult> {
    const FINGERPRINT: &str = "select pg_catalog.convert_to(backfill._fingerprint($1, $2), 'UTF8')";
    let found = catalog::read(control, claim).await?;
    let needs = expressions::read(executor, claim, &found).await?;
    if options.verify == Proof::Expression && claim.work() == plan::Kind::Update && !needs.comparable {
        return Err(incomparable(&needs));
    }
    let (upper, snapshot) = slices::upper(executor, &found.target, &found.key).await?;
    let (parts, rows_estimated) = match &upper {
        _ if found.spread => {
            let common = leaves::Common {
                assignments: &found.assignments,
                columns: &needs.columns,
                alias: &found.alias,
                rows_as_text: needs.rows_as_text,
            };
            let parts = leaves::cut(control, executor, claim, common, None, options.slices).await?;
            let rows = parts.iter().map(|part| part.rows_estimated).sum();
            (parts, rows)
        }
        Some(upper) => {
            let (ranges, rows) =
                slices::cut(executor, (claim.relation, &found.target), &found.key, upper, options.slices).await?;
            (slices::planned(ranges, rows, None), rows)
        }
        None => (Vec::new(), 0),
    };
    let mut reads = needs.reads;
    if found.spread && needs.isolation == Isolation::RepeatableRead {
        // A batch locks its own leaf before it takes its snapshot. It does not lock the other
        // leaves, which a subquery may read. So the batch checks that no table of the target has
        // been rewritten since the snapshot.
        reads.push(claim.relation);
    }
    let fingerprint = executor
        .bounded_ours(CONTROL_LIMIT, executor.client.query_one(FINGERPRINT, &[&claim.relation, &needs.columns]))
        .await?;
    let fingerprint = row::text(&fingerprint, 0)?;
    let leaves: Vec<u32> = parts.iter().filter_map(|part| part.leaf.as_ref()).map(|leaf| leaf.relation).collect();
    let sizes = sizes(executor, if found.spread { &leaves } else { std::slice::from_ref(&claim.relation) }).await?;
    let plan = Plan {
        version: 1,
        kind: claim.work(),
        target: found.target,
        relation: claim.relation,
        key: found.key,
        assignments: found.assignments,
        filter: claim.filter.clone(),
        isolation: needs.isolation,
        columns: needs.columns,
        reads,
        fingerprint,
        comparable: needs.comparable,
        self_reading: needs.self_reading,
        filter_varies: needs.filter_varies,
        volatile: needs.volatile,
        rows_as_text: needs.rows_as_text,
        upper: upper.filter(|_| !found.spread),
        spread: found.spread,
        alias: found.spread.then_some(found.alias),
        root: None,
        sizes: Some(sizes),
        defaults: defaults.clone(),
        unseen: needs.unseen,
    };
    Ok(PlanResult { plan, slices: parts, rows_estimated, snapshot })
}

/// Returns the total size of the tables. A leaf with several slices occurs several times in
/// `relations` but is counted once.
async fn sizes(executor: &Session, relations: &[u32]) -> Result<Sizes> {
    const SIZES: &str = "
select coalesce(pg_catalog.sum(pg_catalog.pg_table_size(r)), 0)::pg_catalog.int8, coalesce(pg_catalog.sum(pg_catalog.pg_indexes_size(r)), 0)::pg_catalog.int8
from (select distinct r from pg_catalog.unnest($1::pg_catalog.oid[]) r) u";
    let row = executor.bounded_ours(CONTROL_LIMIT, executor.client.query_one(SIZES, &[&relations])).await?;
    Ok(Sizes { table_bytes: row.read(0)?, index_bytes: row.read(1)? })
}

/// Returns the error of a job that requests the verification `expression` although this
/// verification is not possible. The job does not fall back to another kind of verification.
fn incomparable(needs: &expressions::Needs) -> Error {
    if let Some(reason) = &needs.incomparable {
        return not_provable(reason, "Run backfill.tune(name, '{\"verify\": \"auto\"}'), then backfill.retry.");
    }
    let (reason, hint) = if needs.unseen.is_some() {
        (
            "The planner cannot find out what the expressions read: the role of the job lacks the TEMPORARY privilege on the database, or an event trigger rejects CREATE FUNCTION.",
            "Grant TEMPORARY on the database to the role, or let the event trigger allow CREATE FUNCTION in the temporary schema. Or run backfill.tune(name, '{\"verify\": \"auto\"}'). Then run backfill.retry.",
        )
    } else if needs.self_reading {
        (
            "An expression reads a column that the job assigns, and the old value is not kept. The expression reads the column directly, as part of the whole row, or through a function or a view.",
            "Run backfill.tune(name, '{\"verify\": \"auto\"}'), then backfill.retry.",
        )
    } else {
        (
            "An expression can return a different value each time: it contains a subquery, the word default, or a function that is not immutable.",
            "Run backfill.tune(name, '{\"verify\": \"auto\"}'), then backfill.retry. Or, if the function is in fact immutable, declare it IMMUTABLE and run backfill.retry.",
        )
    };
    not_provable(reason, hint)
}

fn not_provable(reason: &str, hint: &str) -> Error {
    Error::new(Kind::Refused, "verify = expression is not possible for these expressions").detail(reason).hint(hint)
}
