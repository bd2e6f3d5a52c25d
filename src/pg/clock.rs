//! The clock of a database server. The windows of jobs follow this clock and not the clock of the
//! daemon, so that all daemons of a database agree, even if one of their clocks is wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};

use crate::error::Result;
use crate::failpoint;
use crate::pg::control::Control;
use crate::pg::row::Columns;

/// Minimum offset between the clocks, in milliseconds, that is reported in the log. The offset is
/// reported again only after it has changed by at least this value. Time zones and daylight saving
/// time do not cause an offset.
const NOTABLE: i64 = 5_000;

/// Maximum duration of a measurement. A longer measurement is not used, because its result may be
/// wrong by half of its duration.
const MOST_PRECISE_WITHIN: SignedDuration = SignedDuration::from_secs(1);

/// The difference between the server's clock and the clock of this machine. All clones share it.
#[derive(Debug, Clone, Default)]
pub struct ServerClock(Arc<AtomicI64>);

impl ServerClock {
    /// Measures the difference. The result is wrong by at most half of the time that the server
    /// needs to respond.
    pub async fn measure(&self, control: &Control) -> Result<()> {
        const NOW: &str = "select (extract(epoch from clock_timestamp()) * 1000)::int8";
        let asked_at = local();
        let server: i64 = control.query_one(NOW, &[]).await?.read(0)?;
        let took = local().duration_since(asked_at);
        if took > MOST_PRECISE_WITHIN {
            return Ok(());
        }
        let offset = server - (asked_at + took / 2).as_millisecond();
        let before = self.0.swap(offset, Ordering::Relaxed);
        if offset.abs() >= NOTABLE && (offset - before).abs() >= NOTABLE {
            tracing::warn!(
                seconds = offset / 1000,
                "the clocks of this machine and of the database server differ; the windows of jobs follow the server's clock"
            );
        }
        Ok(())
    }

    /// Returns the server's time.
    pub fn now(&self) -> Timestamp {
        local() + SignedDuration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// Returns the time of this machine's clock.
fn local() -> Timestamp {
    let ahead =
        if failpoint::active("clock_an_hour_ahead") { SignedDuration::from_hours(1) } else { SignedDuration::ZERO };
    Timestamp::now() + ahead
}
