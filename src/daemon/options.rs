//! The command-line options of `run`.

/// The command-line options of `run`.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether the daemon exits when no job and no rollout can run.
    pub until_idle: bool,
    /// Whether the daemon installs or upgrades the schema at the start.
    pub migrate: bool,
}
