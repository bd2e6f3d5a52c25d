//! The durable low watermark of a slice. The walk passes the current checkpoint to the executor
//! with a batch, and the executor returns the next checkpoint.

use serde::Deserialize;

use crate::key::Key;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Checkpoint {
    /// The key up to which all rows have been passed. None at the start of the table.
    pub position: Option<Key>,
    /// Whether the end of the slice has been reached.
    pub done: bool,
    /// The physical position (`ctid`) at which the checkpoint's row was last found. An outdated
    /// position makes finding the row slower, but is otherwise harmless.
    #[serde(rename = "checkpoint_ctid")]
    pub ctid: String,
}
