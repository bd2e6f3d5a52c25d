//! Checks that schema backfill is installed, that its version fits this binary, and that a daemon
//! is running.

use super::findings::Findings;
use super::query::{cell, one};
use crate::error::{Kind, Result};
use crate::pg::connect::Session;
use crate::pg::schema::ownership;
use crate::pg::schema::release::VERSION;
use crate::pg::schema::state::{self, Found};

const DAEMONS: &str = "
select count(*) filter (where alive) as alive, string_agg(distinct host || ' (' || version || ')', ', ') filter (where alive) as places
from backfill.workers";

/// Returns whether the schema can be queried. The checks of roles, executors and jobs query it.
pub(super) async fn examine(session: &Session, found: &mut Findings) -> Result<bool> {
    // A query on a schema that another role owns could execute code of that role. So this command
    // reads nothing from the schema if this check fails.
    let login: String = cell(&one(session, "select session_user::text as login", &[]).await?, "login")?;
    match ownership::check(&session.client).await {
        Ok(()) => {}
        Err(error) if error.kind == Kind::Schema => {
            found.failed("owner", error);
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    match state::check(&session.client).await {
        Ok(()) => {}
        Err(error) if error.kind == Kind::Schema => {
            let remedy = error.hint.unwrap_or_default();
            let remedy = match (state::found(&session.client).await?, state::missing_create(&session.client).await?) {
                (Found::Absent, Some(grant)) => {
                    format!("As an administrator, run: {grant}\nThen run: backfilld migrate")
                }
                _ => remedy,
            };
            found.fail("schema", error.message, remedy);
            return Ok(false);
        }
        Err(error) if error.kind == Kind::Permission => {
            found.fail(
                "schema",
                format!("\"{login}\" cannot read schema backfill: {}", error.message),
                "Connect as the owner of the schema. The daemon must do so too.",
            );
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    found.ok("schema", format!("installed, version {}", VERSION));
    found.ok("owner", format!("\"{login}\" owns everything in schema backfill"));
    let row = one(session, DAEMONS, &[]).await?;
    match cell::<Option<String>>(&row, "places")? {
        Some(places) => found.ok("daemon", format!("{} running: {places}", cell::<i64>(&row, "alive")?)),
        None => found.warn("daemon", "no daemon is running: jobs stay queued", "Start a daemon: backfilld run"),
    }
    Ok(true)
}
