//! A job's options as a claim works by them: read once for each claim and after each tune.

use std::time::Duration;

use serde_json::Value;

use crate::error::Result;
use crate::job::options::Options;
use crate::window::Window;

#[derive(Debug, Clone, PartialEq)]
pub struct JobSettings {
    pub options: Options,
    pub window: Option<Window>,
    /// Of the job's options; it grows with each tune.
    pub revision: i32,
}

impl JobSettings {
    /// `defaults` are the daemon's, `own` the job's.
    ///
    /// # Errors
    /// A window that can't be read.
    pub fn read(defaults: &Value, own: &Value, revision: i32) -> Result<Self> {
        let options = Options::read(defaults, own);
        let window = options.window.as_ref().map(Window::read).transpose()?;
        Ok(Self { options, window, revision })
    }

    /// The longest that another session may wait behind a batch.
    pub fn victim_wait(&self) -> Duration {
        Duration::from_millis(self.options.max_victim_wait_ms.into())
    }
}
