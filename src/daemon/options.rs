//! How `run` was called.

/// How `run` was called.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// End when nothing is left to do.
    pub until_idle: bool,
    /// Install or upgrade the schema before working.
    pub migrate: bool,
}
