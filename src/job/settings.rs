//! The options of a job in the form that a claim uses. They are read once for each claim, and again
//! after each `tune`.

use std::time::Duration;

use serde_json::Value;

use crate::error::Result;
use crate::job::options::Options;
use crate::window::Window;

#[derive(Debug, Clone, PartialEq)]
pub struct JobSettings {
    pub options: Options,
    pub window: Option<Window>,
    /// The revision of the job. It increases with each `tune`, `retry` and `rerun`.
    pub revision: i32,
}

impl JobSettings {
    /// Reads the settings from the daemon's default options (`defaults`) and the job's own options
    /// (`own`).
    ///
    /// # Errors
    /// The window cannot be parsed.
    pub fn read(defaults: &Value, own: &Value, revision: i32) -> Result<Self> {
        let options = Options::read(defaults, own);
        let window = options.window.as_ref().map(Window::read).transpose()?;
        Ok(Self { options, window, revision })
    }

    /// Returns the maximum time of a batch that consists of one row.
    pub fn row_limit(&self) -> Duration {
        Duration::from_millis(self.options.max_row_ms.into())
    }

    /// Returns the maximum time that another session may wait for a batch.
    pub fn victim_wait(&self) -> Duration {
        Duration::from_millis(self.options.max_victim_wait_ms.into())
    }
}
