//! The command-line options of `run`.

/// The command-line options of `run`.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// End when nothing is left to do.
    pub until_idle: bool,
    /// Install or upgrade the schema before working.
    pub migrate: bool,
}
