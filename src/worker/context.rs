//! The resources that a worker uses. Each clone serves one more worker of the same database.

use std::time::Duration;

use serde_json::Value;

use crate::execute::guard::Guard;
use crate::pg::clock::ServerClock;
use crate::pg::control::Control;
use crate::pg::pools::Logins;
use crate::queue::lease::Leases;
use crate::queue::wakeup::Wakeups;
use crate::throttle::handle::Throttle;
use crate::window::Window;
use crate::worker::connection_losses::ConnectionLosses;
use crate::worker::interrupted::Interrupted;
use crate::worker::log_limiter::LogLimiter;

/// The settings of one database's workers, from the configuration.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// The database's name, used for labels.
    pub database: String,
    /// The roles whose jobs the workers run.
    pub roles: Vec<String>,
    /// Number of workers that one role may hold while slices of other roles wait.
    pub share: u32,
    /// Time between two attempts to claim a slice if no notification arrives.
    pub poll: Duration,
    /// Defaults for options that a job does not set.
    pub defaults: Value,
    /// Time window in which work on the database is allowed.
    pub window: Option<Window>,
    /// The clock that the windows follow.
    pub clock: ServerClock,
}

#[derive(Debug, Clone)]
pub struct Context {
    pub settings: WorkerSettings,
    pub logins: Logins,
    pub control: Control,
    pub leases: Leases,
    pub throttle: Throttle,
    pub wakeups: Wakeups,
    pub guard: Guard,
    pub log_limiter: LogLimiter,
    pub losses: ConnectionLosses,
    pub interrupted: Interrupted,
}

impl Context {
    pub fn database(&self) -> &str {
        &self.settings.database
    }
}
