//! How many dead rows a slice has left since the last vacuum, and at how many the next one is due. Pure.

/// The share of a table's rows that a job may leave dead.
const SHARE: f64 = 0.05;
/// Smaller numbers are not worth a vacuum.
const LEAST_ROWS: f64 = 1000.0;

#[derive(Debug, Default)]
pub(super) struct DeadRows {
    rows: u64,
    /// Of all slices together; none before the table was asked.
    limit: Option<f64>,
    /// A vacuum was put off, and that was logged.
    is_put_off_logged: bool,
    /// The role may not vacuum the table, or the server said no.
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

    /// The share of one slice, of so many that are walked.
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

    /// It is due again after half as many rows. Returns whether to log it, which is so the first time.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn put_off(&mut self, live_slices: u32) -> bool {
        self.rows = (self.limit_of_slice(live_slices) / 2.0) as u64;
        !std::mem::replace(&mut self.is_put_off_logged, true)
    }

    pub fn give_up(&mut self) {
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
    fn a_vacuum_that_is_put_off_is_due_again_after_half_as_many_rows_and_logged_once() {
        let mut dead = DeadRows::default();
        dead.set_limit(0.0);
        dead.add(1000);
        assert!(dead.is_vacuum_due(1) && dead.put_off(1) && !dead.is_vacuum_due(1));
        dead.add(500);
        assert!(dead.is_vacuum_due(1) && !dead.put_off(1));
    }
}
