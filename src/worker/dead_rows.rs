//! Counts the dead rows that a slice has left since the last vacuum, and decides when the next
//! vacuum is due. This module does no I/O.

/// Maximum number of dead rows that a job may leave, as a share of the table's rows. 0.05 is 5 %.
const SHARE: f64 = 0.05;
/// Minimum of [`DeadRows::limit`]. On a small table, a vacuum for fewer dead rows is not worth its
/// cost.
const LEAST_ROWS: f64 = 1000.0;

#[derive(Debug, Default)]
pub(super) struct DeadRows {
    rows: u64,
    /// Maximum number of dead rows that all slices of the job together may leave. None until the
    /// size of the table has been read.
    limit: Option<f64>,
    /// Whether a postponed vacuum has already been logged.
    is_put_off_logged: bool,
    /// Whether the claim runs no further vacuum, because the role lacks the privilege to vacuum the
    /// table or because a vacuum failed.
    is_given_up: bool,
}

impl DeadRows {
    pub fn add(&mut self, rows: u64) {
        self.rows += rows;
    }

    pub fn is_limit_known(&self) -> bool {
        self.limit.is_some()
    }

    pub fn set_limit(&mut self, rows_of_table: f64) {
        self.limit = Some((rows_of_table * SHARE).max(LEAST_ROWS));
    }

    /// Returns one slice's share of the limit. The limit is divided by the number of active slices.
    fn limit_of_slice(&self, live_slices: u32) -> f64 {
        self.limit.unwrap_or(LEAST_ROWS) / f64::from(live_slices.max(1))
    }

    #[allow(clippy::cast_precision_loss)]
    pub fn is_vacuum_due(&self, live_slices: u32) -> bool {
        self.rows as f64 >= self.limit_of_slice(live_slices)
    }

    pub fn vacuumed(&mut self) {
        self.rows = 0;
    }

    /// Postpones the vacuum until the number of further dead rows reaches half the slice's share of
    /// the limit. Returns whether to log the postponement. Only the first postponement is logged.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn put_off(&mut self, live_slices: u32) -> bool {
        self.rows = (self.limit_of_slice(live_slices) / 2.0) as u64;
        !std::mem::replace(&mut self.is_put_off_logged, true)
    }

    pub fn switch_off(&mut self) {
        self.is_given_up = true;
    }

    pub fn is_given_up(&self) -> bool {
        self.is_given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_share_the_dead_rows_that_a_job_may_leave() {
        let mut dead = DeadRows::default();
        dead.set_limit(100_000.0);
        dead.add(2499);
        assert!(!dead.is_vacuum_due(2));
        dead.add(1);
        assert!(dead.is_vacuum_due(2) && !dead.is_vacuum_due(1));
    }

    #[test]
    fn a_postponed_vacuum_is_due_again_after_half_as_many_rows_and_logged_once() {
        let mut dead = DeadRows::default();
        dead.set_limit(0.0);
        dead.add(1000);
        assert!(dead.is_vacuum_due(1) && dead.put_off(1) && !dead.is_vacuum_due(1));
        dead.add(500);
        assert!(dead.is_vacuum_due(1) && !dead.put_off(1));
    }
}
