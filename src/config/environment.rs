//! The environment variables that the configuration reads.

/// Looks up a variable in the environment of the process, or in that of a test.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) fn of_process(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
