//! The durable low watermark of a slice. The walk passes one value to the executor with a batch,
//! and gets the next one back.

use serde::Deserialize;

use crate::key::Key;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Checkpoint {
    /// All rows up to this key have been passed. None at the start of the table.
    pub position: Option<Key>,
    /// Whether the end of the slice has been reached.
    pub done: bool,
    /// The position (`ctid`) at which the checkpoint's row was last seen. An outdated one only
    /// costs time.
    #[serde(rename = "checkpoint_ctid")]
    pub ctid: String,
}
