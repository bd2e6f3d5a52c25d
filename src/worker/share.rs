//! The share of the workers that one role may hold while slices of other roles wait.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::Result;
use crate::queue::claim as queue;
use crate::queue::lease::Lease;
use crate::worker::context::Context;

/// Time between two checks. A check costs a round trip only if the claim's role holds more workers
/// than its share.
const CHECK: Duration = Duration::from_secs(1);

/// Returns whether this claim must end in favour of another role. This is the case if the claim's
/// role holds more than its share of the workers, and a slice of a role that holds less than its
/// share can be claimed.
async fn is_owed(context: &Context, lease: &Lease) -> Result<bool> {
    let share = context.settings.share;
    if !lease.exceeds(share) {
        return Ok(false);
    }
    let at_share = context.leases.roles_at(share);
    let others: Vec<String> = context.settings.roles.iter().filter(|role| !at_share.contains(role)).cloned().collect();
    if others.is_empty() {
        return Ok(false);
    }
    queue::has_ready(&context.control, &others).await
}

/// Waits until this claim must end in favour of another role.
pub(super) async fn until_owed(context: &Context, lease: &Lease) {
    loop {
        tokio::time::sleep(CHECK).await;
        if matches!(is_owed(context, lease).await, Ok(true)) {
            return;
        }
    }
}

/// Limits how often a claim checks the share.
#[derive(Debug)]
pub(super) struct ShareTimer {
    due: Instant,
}

impl ShareTimer {
    pub fn new() -> Self {
        Self { due: Instant::now() + CHECK }
    }

    /// Returns whether the claim must end in favour of another role. Returns false if no check is
    /// due.
    pub async fn is_owed(&mut self, context: &Context, lease: &Lease) -> Result<bool> {
        if Instant::now() < self.due {
            return Ok(false);
        }
        self.due = Instant::now() + CHECK;
        is_owed(context, lease).await
    }
}
