//! What a worker has at hand. A clone is one more worker of the same database.

use std::time::Duration;

use deadpool_postgres::Pool;
use serde_json::Value;

use crate::execute::guard::Guard;
use crate::pg::pools::Logins;
use crate::queue::lease::Leases;
use crate::queue::wakeup::Wakeups;
use crate::throttle::handle::Throttle;
use crate::window::Window;
use crate::worker::connection_losses::ConnectionLosses;
use crate::worker::log_limiter::LogLimiter;

/// What the configuration says of a database's workers.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// The database's name, for labels.
    pub database: String,
    /// The roles whose jobs are run.
    pub roles: Vec<String>,
    /// Between two looks for a slice, if nobody notifies.
    pub poll: Duration,
    /// Options for jobs that leave them open.
    pub defaults: Value,
    /// When work is allowed on the database.
    pub window: Option<Window>,
}

#[derive(Debug, Clone)]
pub struct Context {
    pub settings: WorkerSettings,
    pub logins: Logins,
    pub control: Pool,
    pub leases: Leases,
    pub throttle: Throttle,
    pub wakeups: Wakeups,
    pub guard: Guard,
    pub log_limiter: LogLimiter,
    pub losses: ConnectionLosses,
    /// A batch was committed since the last failure: the next failure is a new one and not the old one again.
    pub worked: bool,
}

impl Context {
    pub fn database(&self) -> &str {
        &self.settings.database
    }
}
