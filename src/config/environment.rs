//! Environment variables, as the configuration reads them.

/// Where environment variables come from: the process, or a test's table.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) fn of_process(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
