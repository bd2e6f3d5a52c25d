//! The settings that the daemon depends on in an executor's session.
//!
//! The code of a job can change each setting of its session, also for the statements that follow.
//! The code could then change how the server reads the parameters of a batch (`client_encoding`),
//! which objects a statement names (`search_path`), or with which privileges a statement runs
//! (`role`). So the session sets all settings again before each statement.

use crate::pg::ident::ascii_literal;

/// Makes sure that an operator or a function that is named without a schema is PostgreSQL's own.
pub(super) const OUR_PATH: &str = "set search_path = pg_catalog, pg_temp";

/// Releases session-level advisory locks. The code of a job can take them, and they would otherwise
/// last as long as the session.
pub const UNLOCK: &str = "select pg_catalog.pg_advisory_unlock_all()";

/// Returns the number of statements that the code of a job has prepared with PREPARE, and the
/// server process of the session. These are the last columns of [`Pins::ours`] and
/// [`Pins::of_the_job`].
const STATE: &str = "(select pg_catalog.count(*) from pg_catalog.pg_prepared_statements s where s.from_sql) as prepared, \
pg_catalog.pg_backend_pid() as pid";

/// The settings of one session.
#[derive(Debug)]
pub struct Pins {
    settings: Vec<(&'static str, String)>,
    job_path: String,
    /// Sets the settings, with the job's `search_path`.
    pub(super) of_the_job: String,
    /// Sets the settings, including a `search_path` that finds only PostgreSQL's own objects.
    pub(super) ours: String,
}

impl Pins {
    pub(super) fn new(settings: Vec<(&'static str, String)>, job_path: String) -> Self {
        let mut pins = Self { settings, job_path, of_the_job: String::new(), ours: String::new() };
        pins.write();
        pins
    }

    /// Changes the value of a setting for the following statements.
    pub fn set(&mut self, name: &'static str, value: String) {
        self.settings.retain(|(other, _)| *other != name);
        self.settings.push((name, value));
        self.write();
    }

    fn write(&mut self) {
        let sql = |path: &str| {
            let all = self.settings.iter().map(|(name, value)| (*name, value.as_str())).chain([("search_path", path)]);
            let calls =
                all.map(|(name, value)| format!("pg_catalog.set_config('{name}', {}, false)", ascii_literal(value)));
            format!("select {}, {STATE}", calls.collect::<Vec<_>>().join(", "))
        };
        (self.of_the_job, self.ours) = (sql(&self.job_path), sql("pg_catalog, pg_temp"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_leave_its_quotes() {
        let pins = Pins::new(vec![("TimeZone", "a'b\\".to_owned())], "\"x'\", public".to_owned());
        assert_eq!(
            pins.of_the_job,
            format!(
                r#"select pg_catalog.set_config('TimeZone',  E'a''b\\', false), pg_catalog.set_config('search_path', '"x''", public', false), {STATE}"#
            )
        );
        assert!(pins.ours.contains("pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false)"));
    }
}
