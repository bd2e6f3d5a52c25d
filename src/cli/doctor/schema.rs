//! Schema backfill: there, of a version that fits, and served by somebody.

use super::findings::Findings;
use super::query::{cell, one};
use crate::error::{Kind, Result};
use crate::pg::connect::Session;
use crate::pg::schema::release::VERSION;
use crate::pg::schema::state;

const DAEMONS: &str = "
select count(*) filter (where alive) as alive, string_agg(distinct host || ' (' || version || ')', ', ') filter (where alive) as places
from backfill.workers";

/// Whether it is there and can be asked further.
pub(super) async fn examine(session: &Session, found: &mut Findings) -> Result<bool> {
    match state::check(&session.client).await {
        Ok(()) => {}
        Err(error) if error.kind == Kind::Schema => {
            found.fail("schema", error.message, error.hint.unwrap_or_default());
            return Ok(false);
        }
        Err(error) if error.kind == Kind::Permission => {
            found.fail(
                "schema",
                format!("the login may not look into schema backfill: {}", error.message),
                "Connect with the login that owns the schema: the daemon needs it.",
            );
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    found.ok("schema", format!("installed, version {}", VERSION));
    let row = one(session, DAEMONS, &[]).await?;
    match cell::<Option<String>>(&row, "places")? {
        Some(places) => found.ok("daemon", format!("{} running: {places}", cell::<i64>(&row, "alive")?)),
        None => found.warn("daemon", "none is running: jobs wait", "Run: backfilld run"),
    }
    Ok(true)
}
