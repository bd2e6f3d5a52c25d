//! From a spec to a plan, or to a refusal: which index to walk, what the expressions need, where the end is, and how
//! to share the way among slices. The catalog is read on the control login; everything that touches the user's
//! expressions or rows is done on the executor.

pub mod catalog;
pub mod expressions;
pub mod slices;

use std::time::Duration;

use deadpool_postgres::Pool;
use serde_json::Value;
use tokio_postgres::Client;

use crate::error::Result;
use crate::job::claim::Claim;
use crate::job::options::Options;
use crate::job::plan::{Isolation, Plan, Strategy};
use crate::key::KeyRange;
use crate::pg::connect::{Session, within};
use crate::pg::pools::Logins;
use crate::pg::session::{self, Recipe};

/// What `queue::claim::save_plan` stores.
#[derive(Debug, Clone)]
pub struct Made {
    pub plan: Plan,
    pub slices: Vec<KeyRange>,
    pub rows_estimated: i64,
    /// `pg_current_snapshot()` of when the bound was read: the promise covers rows committed before it.
    pub snapshot: String,
}

/// Reading a sample and the bounds of a large table may take a while.
const PLAN_TIMEOUT: Duration = Duration::from_secs(60);

/// Opens the connection on which a job is planned, under the job's settings.
pub async fn open(logins: &Logins, claim: &Claim) -> Result<Session> {
    let recipe = Recipe {
        settings: &claim.settings,
        isolation: Isolation::ReadCommitted,
        statement_timeout: PLAN_TIMEOUT,
        lock_timeout: Duration::from_secs(2),
        walking: false,
    };
    session::open(logins, claim, &recipe).await
}

/// Plans a job. `executor` is a session prepared for planning under the job's settings.
///
/// # Errors
/// [`Kind::Refused`](crate::error::Kind) with the reason and the remedy, or as the server says.
pub async fn make(control: &Pool, executor: &Client, claim: &Claim, defaults: &Value) -> Result<Made> {
    let options = Options::read(defaults, &claim.options);
    let found = catalog::read(control, claim).await?;
    let needs = expressions::read(executor, claim, &found).await?;
    let (upper, snapshot) = slices::upper(executor, claim, &found.key).await?;
    let (slices, rows_estimated) = match &upper {
        Some(upper) => slices::cut(executor, claim, &found.key, upper, options.slices).await?,
        None => (Vec::new(), 0),
    };
    let fingerprint: String = within(
        crate::pg::pools::CONTROL_LIMIT,
        executor.query_one("select backfill._fingerprint($1, $2)", &[&claim.relation, &needs.columns]),
    )
    .await?
    .get(0);
    let plan = Plan {
        version: 1,
        kind: claim.work(),
        strategy: Strategy::Plain,
        target: found.target,
        relation: claim.relation,
        key: found.key,
        assignments: found.assignments,
        filter: claim.filter.clone(),
        isolation: needs.isolation,
        columns: needs.columns,
        reads: needs.reads,
        fingerprint,
        comparable: needs.comparable,
        self_reading: needs.self_reading,
        upper,
        defaults: defaults.clone(),
    };
    Ok(Made { plan, slices, rows_estimated, snapshot })
}
